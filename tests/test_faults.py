"""The scripts that kill a fit and fill its disk, with small counts; by hand they are run with larger ones."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(("script", "count"), [("kill_test.py", 2), ("full_disk_test.py", 1)])
def test_a_fit_survives_faults(script: str, count: int, repository: Path) -> None:
    command = [sys.executable, str(repository / "scripts" / script), "--count", str(count)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert ", 0 of them wrong" in run.stdout
    assert run.stdout.count("kill ") >= 2 or run.stdout.count(" bytes: 3 ") >= 4
