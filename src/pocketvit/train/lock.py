"""One process at a time in a run folder: a lock that the kernel lets go of when the process ends, however it ends."""

from __future__ import annotations

import functools
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pocketvit.errors import UsageError
from pocketvit.files import writing

LOCK = ".lock"
_held: set[int] = set()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; its file says who does.

    Raises:
        UsageError: another process (or thread) holds it. DataError: the folder cannot be written.
    """
    path = folder / LOCK
    descriptor = _take(path)
    if descriptor is None:
        yield
        return
    _held.add(descriptor)
    try:
        with writing(path):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(_myself()).encode())
        yield
    finally:
        _held.discard(descriptor)
        with suppress(OSError):  # while it is held: nobody else can have taken this file
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _take(path: Path) -> int | None:
    """The descriptor that holds the lock; ``None`` where the system or the file system has no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    _forget_in_children()
    while True:
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            what = f"the run {path.parent} is in use by {holder}."
            raise UsageError(what, "Wait until it has ended, or choose another --name.") from None
        except OSError:
            os.close(descriptor)
            return None
        with suppress(FileNotFoundError):  # the one before may have deleted it between opening and locking
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)


def _myself() -> dict[str, str | int]:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:300]
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": command,
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _holder(descriptor: int) -> str:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {found['pid']} on {found['host']} since {found['since']} ({found['command']})"
    except (OSError, ValueError, KeyError, TypeError):  # it has not written yet
        return "another process"


@functools.cache
def _forget_in_children() -> None:
    """A forked loader process that outlives its parent for seconds must not go on holding the lock."""

    def forget() -> None:
        for descriptor in _held:
            with suppress(OSError):
                os.close(descriptor)
        _held.clear()

    os.register_at_fork(after_in_child=forget)
