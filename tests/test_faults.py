"""The scripts that kill a fit and fill its disk, with small counts; by hand they are run with larger ones."""

from pathlib import Path

import pytest

from tests.zygote import Zygote, script


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "line", "least"),
    [
        ("kill_test.py", ["--count", "2", "--epochs", "8"], "kill ", 2),
        ("full_disk_test.py", ["--count", "1"], " bytes: 3 ", 4),
    ],
    ids=["kills", "full disks"],
)
def test_a_fit_survives_faults(
    name: str, arguments: list[str], line: str, least: int, zygote: Zygote, tmp_path: Path
) -> None:
    run = zygote.start(script(name, *arguments), tmp_path / "log")
    code, said = run.wait(), run.log.read_text()
    assert code == 0, said[-6000:]
    assert ", 0 of them wrong" in said
    assert said.count(line) >= least
