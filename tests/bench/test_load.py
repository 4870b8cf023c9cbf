from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pocketvit.bench import load as module
from pocketvit.bench.load import Load, look, machine_was, quiet

CALM = Load(others=0.0, busiest="", stolen=0.0, spread=0.01)


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_cores", lambda: 2)
    monkeypatch.setattr(module, "PAUSE_S", 0.01)


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"others": 0.25}, ""),
        ({"others": 1.3, "busiest": "backup"}, "other processes take 1.3 of 2 cores (most: backup)"),
        ({"stolen": 0.05}, "the host gives 5 % of the time to others"),
        ({"spread": 0.3}, "the times of equal work scatter by 30 %"),
        ({"stolen": 0.1, "spread": 0.3}, "to others, the times"),
    ],
)
def test_what_is_said(change: dict, words: str) -> None:
    says = replace(CALM, **change).says
    assert words in says
    assert bool(says) == bool(words)


@pytest.mark.usefixtures("two_cores")
def test_waits_until_it_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [replace(CALM, stolen=0.5), replace(CALM, stolen=0.5), CALM]
    monkeypatch.setattr(module, "look", lambda: looks.pop(0))
    told: list[str] = []
    assert quiet(30, told.append) == ""
    assert looks == []
    (line,) = told
    assert line == "waiting up to 30 s for a quiet machine: the host gives 50 % of the time to others"


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("seconds", [0, 0.05])
def test_says_what_stayed_busy(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(module, "look", lambda: replace(CALM, others=2.0, busiest="make"))
    assert quiet(seconds) == "other processes take 2.0 of 2 cores (most: make)"


def test_what_it_says_becomes_a_clause() -> None:
    assert machine_was("") == "the machine was quiet"
    assert machine_was("make takes 2 cores") == "the machine was busy: make takes 2 cores"


def test_sees_another_process_and_not_its_own_children() -> None:
    spin = "import sys, time\nprint(1, flush=True)\nend = time.time() + 60\nwhile time.time() < end: pass"
    child = subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE)
    # A process of its own, whose parent ends at once, is no child of this one.
    # It writes nowhere: a pipe of ours in its hands would keep `run` waiting until it ends.
    start = f"subprocess.Popen([sys.executable, '-c', {spin!r}], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)"
    detach = f"import subprocess, sys; print({start}.pid)"
    other = int(subprocess.run([sys.executable, "-c", detach], stdout=subprocess.PIPE, text=True, check=True).stdout)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        found, (all_seen, mine) = look(0.5), (module._processes(), child.pid)
        assert found.others > 0.1
        assert other in all_seen
        assert mine not in all_seen
    finally:
        child.kill()
        child.wait()
        psutil.Process(other).kill()


def test_works_where_the_system_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    found = look(0.05)
    assert (found.others, found.stolen, found.busiest) == (0, 0, "")
    assert found.spread >= 0
