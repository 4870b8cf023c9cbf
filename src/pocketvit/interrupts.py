"""Signals that end a run: SIGINT (Ctrl-C) and SIGTERM (``docker stop``, Slurm, systemd).

They become :class:`Interrupted`, at once or, within :func:`deferred`, where the work asks for them. Only the main
thread can be told by Python of a signal: elsewhere nothing here has an effect.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """The process was asked to end; ``what`` has been done about it, and what to do (``todo``)."""

    def __init__(self, number: int = signal.SIGINT, what: str = "", todo: str = "") -> None:
        super().__init__(number, what, todo)
        self.number, self.todo = number, todo
        self.what = what or ("interrupted." if number == signal.SIGINT else "ended by SIGTERM.")

    @property
    def exit_code(self) -> int:
        """What a shell says of the signal: 130 or 143."""
        return 128 + int(self.number)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises :class:`Interrupted`, so that the process cleans up as after Ctrl-C."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    with _handled(end, signal.SIGTERM):
        yield


@contextmanager
def deferred() -> Iterator[Callable[[], None]]:
    """Yield ``check()``, which raises :class:`Interrupted` where a signal has come; a second Ctrl-C ends at once."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)
        with suppress(OSError, ValueError, AttributeError):
            if sys.stderr.isatty():  # not printed: a print may be going on
                os.write(2, b"\nstopping after this step; Ctrl-C again ends at once.\n")

    def check() -> None:
        if asked:
            raise Interrupted(asked[0])

    with _handled(note, signal.SIGINT, signal.SIGTERM):
        yield check
    check()


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None], *numbers: int) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # What is ignored (nohup) stays ignored; a handler that is none of Python's (None) could not be put back.
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
