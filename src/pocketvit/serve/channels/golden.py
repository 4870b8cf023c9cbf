"""The golden check of a new version, in a process of its own: engines are native code, and a file may end them.

Where the check crashes, hangs or takes too much time, the server that asked goes on with the version that it has.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from pocketvit.errors import DataError, PocketvitError, VerificationError

_LATER = "What runs stays; it is tried again later."
_NOT_ITS_FAULT = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")
"""Signals that others send: the system where it is short of memory, or who ends the server."""


def check_golden(
    folder: Path,
    *,
    target: str | None = None,
    trust: bool = False,
    timeout_s: float = 300.0,
    stop: threading.Event | None = None,
) -> None:
    """Check that the artifact in ``folder`` answers its golden inputs as the trained model did.

    Args:
        folder: an artifact.
        target: the variant that will run; by default all that this machine can run.
        trust: also run files that are programs (TorchScript).
        timeout_s: seconds after which it has failed for now.
        stop: when it is set, the check is ended.

    Raises:
        VerificationError: it does not, it crashes, or this machine cannot run it.
        DataError: that could not be found out: no time, no memory, no disk.
    """
    request = json.dumps({"folder": str(folder), "target": target, "trust": trust})
    # -P: not what lies in this folder
    command = [sys.executable, "-P", "-m", "pocketvit.serve.channels.golden", request]
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except OSError as error:
        raise DataError(f"{folder}: the golden check cannot be started ({error.strerror or error}).", _LATER) from error
    said = _last_words(process, folder, timeout_s, stop)
    code = process.returncode
    if code == 0:
        return
    if code < 0:
        name = signal.Signals(-code).name
        kind = DataError if name in _NOT_ITS_FAULT else VerificationError
        raise kind(f"{folder.name}: the golden check ended with {name}.", _LATER)
    if code in (2, VerificationError.exit_code, 6):  # 2 and 6: this machine has not what it needs
        raise VerificationError(f"{folder.name}: {said}", "It is not used, and what ran before stays.")
    raise DataError(f"{folder.name}: the golden check could not be done: {said}", _LATER)


def _last_words(process: subprocess.Popen[bytes], folder: Path, timeout_s: float, stop: threading.Event | None) -> str:
    """Wait for a check and return the last line of what it said; it is ended where time is up."""
    deadline = time.monotonic() + timeout_s
    try:
        while True:
            try:
                text = process.communicate(timeout=0.25)[1].decode("utf-8", "replace").strip()
                return (text.splitlines() or ["it said nothing."])[-1][:500]
            except subprocess.TimeoutExpired:
                pass
            if stop is not None and stop.is_set():
                raise DataError(f"{folder.name}: the golden check was ended.", _LATER)
            if time.monotonic() > deadline:
                raise DataError(f"{folder.name}: the golden check took more than {timeout_s:g} s.", _LATER)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def _main(request: str) -> None:
    from pocketvit.spec.artifact import read_artifact
    from pocketvit.spec.target import Target
    from pocketvit.verify.checks import run_checks

    with suppress(AttributeError, OSError):
        os.nice(5)  # requests that are being answered come first
    wanted = json.loads(request)
    artifact = read_artifact(wanted["folder"])
    target = Target.parse(wanted["target"]) if wanted["target"] else None
    checks = run_checks(artifact, target, negative_controls=False, trust=wanted["trust"])
    if fault := next((check for check in checks if not check.passed), None):
        raise VerificationError(f"{fault.variant} {fault.name}: {fault.detail}".strip(), "It is not used.")


if __name__ == "__main__":
    try:
        _main(sys.argv[1])
    except PocketvitError as error:
        print(" ".join(error.what.split()), file=sys.stderr)
        sys.exit(error.exit_code)
