"""How many answers of the running version fail, and what is too much: of errors, of bytes, of time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What an update may cost, and how many errors are too many."""

    pack_bytes: int = 1_000_000_000
    """Of a ``.pvit`` file; what it unpacks to is bounded by :mod:`pocketvit.spec.artifact`."""
    download_s: float = 900.0
    stall_s: float = 30.0
    """Without any data from a server."""
    check_s: float = 300.0
    """For the golden check."""
    error_rate: float = 0.1
    """Share of failed answers above which a version is rolled back."""
    window_s: float = 60.0
    """The answers of so many seconds count."""
    least_reports: int = 20
    """Below so many answers in the window nothing is concluded."""


class ErrorWatch:
    """Counts answers of the last seconds; says once when too many of them failed."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._window_s, self._least = limits.error_rate, limits.window_s, limits.least_reports
        self._clock = clock
        self._answers: deque[tuple[float, bool]] = deque()
        self._errors, self._armed = 0, False
        self._lock = threading.Lock()

    def begin(self, *, armed: bool) -> None:
        """Forget what was counted; ``armed``: there is something to roll back to."""
        with self._lock:
            self._answers.clear()
            self._errors, self._armed = 0, armed

    def count(self, ok: bool) -> str:
        """Count one answer; the reason to roll back where it is the one too many, and empty otherwise.

        After it has given a reason it gives none until :meth:`begin` is called.
        """
        with self._lock:
            now = self._clock()
            self._answers.append((now, ok))
            self._errors += not ok
            while self._answers[0][0] < now - self._window_s:
                self._errors -= not self._answers.popleft()[1]
            count = len(self._answers)
            if not self._armed or count < self._least or self._errors <= self._rate * count:
                return ""
            self._armed = False
            return f"{self._errors} of {count} answers failed within {self._window_s:g} s"
