from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pocketvit.data.collections import load_collection
from pocketvit.data.doctor import doctor
from pocketvit.data.quarantine import FILE_NAME, read_list, write_list
from pocketvit.spec.recipe import DataConfig
from tests.data.helpers import write

NAMES = ["#1", "a\nb", "x\x85y", "r\rr", " s ", '"q"', '"', "tab\t", "日本", os.fsdecode(b"caf\xe9"), "n" * 246, "\\n"]


def test_any_name_is_quarantined_and_left_out(tmp_path: Path) -> None:
    good = write(tmp_path / "good.png")
    bad = [tmp_path / f"{name}.png" for name in NAMES]
    for path in bad:
        path.write_bytes(b"no image")
    text = doctor(str(tmp_path)).render()
    assert len(text.splitlines()) == 2 + 8 + 1 + 3  # a name is never more than one line
    assert r"a\nb.png: cannot be decoded" in text
    report = doctor(str(tmp_path), quarantine=True, out=str(tmp_path / "report.json"))
    assert set(report.damaged) == {str(path) for path in bad}
    assert set(read_list(tmp_path / FILE_NAME)) == {path.resolve() for path in bad}
    again = doctor(str(tmp_path))
    assert (again.images, again.skipped, again.exit_code) == (1, len(NAMES), 0)
    assert [item.path for item in load_collection([str(tmp_path)], DataConfig(), "restore", "train").items] == [good]
    before = (tmp_path / FILE_NAME).read_bytes()
    write_list(tmp_path, [])
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_lists_written_by_hand_are_read(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(
        b'# why\r\nsub/a.png\r\n\r\n"half.png\n' + "x\x85y.png\n".encode() + b'"\\u0000"\n'
    )
    found = [path.relative_to(tmp_path.resolve()).as_posix() for path in read_list(tmp_path / FILE_NAME)]
    assert found == ["sub/a.png", '"half.png', "x\x85y.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limits there")
def test_a_full_disk_keeps_the_entries(tmp_path: Path) -> None:
    write_list(tmp_path, [tmp_path / f"{i}.png" for i in range(3)])
    before = (tmp_path / FILE_NAME).read_bytes()
    code = f"""
import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60, 60))
from pathlib import Path
from pocketvit.data.quarantine import write_list
from pocketvit.errors import DataError
try: write_list(Path({str(tmp_path)!r}), [Path({str(tmp_path / "new.png")!r})])
except DataError as error: print(error.what)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "cannot be written (File too large)" in run.stdout
    assert (tmp_path / FILE_NAME).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
