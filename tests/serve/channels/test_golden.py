from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from pocketvit.errors import DataError, PocketvitError, VerificationError
from pocketvit.serve.channels import golden


def script(folder: Path, line: str) -> str:
    file = folder / "engine.sh"
    file.write_text(f"#!/bin/sh\n{line}\n")
    file.chmod(0o755)
    return str(file)


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ("kill -SEGV $$", VerificationError, "ended with SIGSEGV"),
        ("kill -KILL $$", DataError, "ended with SIGKILL"),
        ("echo the answer is wrong >&2; exit 4", VerificationError, "the answer is wrong"),
        ("echo no such engine >&2; exit 6", VerificationError, "no such engine"),
        ("exit 1", DataError, "it said nothing"),
        ("exec sleep 60", DataError, "took more than 0.5 s"),
    ],
)
def test_a_check_that_crashes_or_hangs_takes_nothing_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, kind: type[PocketvitError], words: str
) -> None:
    monkeypatch.setattr(golden.sys, "executable", script(tmp_path, line))
    began = time.monotonic()
    with pytest.raises(kind, match=words):
        golden.check_golden(tmp_path, timeout_s=0.5 if "sleep" in line else 60)
    assert time.monotonic() - began < 20


def test_a_check_is_ended_when_the_server_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden.sys, "executable", script(tmp_path, "exec sleep 60"))
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(DataError, match="was ended"):
        golden.check_golden(tmp_path, stop=stop)
