"""Frames as they come: played at their own speed, fetched again where a stream breaks, and a place for the newest one.

Nothing here knows where frames come from (:mod:`pocketvit.serve.streaming.sources`) or what is done with them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from pocketvit.errors import DataError
from pocketvit.spec.preprocess import Pixels

log = logging.getLogger("pocketvit")
T = TypeVar("T")

RETRIES = 5
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0
"""Seconds before the first new attempt; each further one waits twice as long as the one before."""
STEADY = 10.0
"""Seconds of frames after which a source counts as well again, and has all its attempts for the next loss."""
LATE, LONGEST_GAP = 0.2, 5.0
"""Seconds that the clock of a played file may be behind or ahead of its next frame before it is set anew."""
MOST_EVENTS = 20


@dataclass(frozen=True)
class Frame:
    """One picture of a stream; its pixels are made when somebody asks, for a dropped frame never."""

    time: float
    """Seconds from the first frame on."""
    born: float
    """``time.perf_counter()`` when it left the camera, as near as it can be known."""
    pixels: Callable[[], Pixels]
    """(H, W, 3) uint8 RGB, upright; ``DataError`` where it cannot be decoded."""


Feed = Iterator[Frame]


@dataclass
class Health:
    """What a source went through; shared between its thread and those who tell of it."""

    losses: int = 0
    reconnects: int = 0
    damaged: int = 0
    """Packets that could not be decoded."""
    slipped: float = 0.0
    """Seconds by which a file that is played at its own speed fell behind, because decoding took longer."""
    lost: str = ""
    """Why it was given up; empty where it was not."""
    events: list[str] = field(default_factory=list)
    """The first losses in words."""
    touched: float = field(default_factory=time.perf_counter)
    """When it last gave a frame or was tried again."""

    def tell(self, text: str) -> None:
        """Note an event, and say it at once."""
        if len(self.events) < MOST_EVENTS:
            self.events.append(text)
        log.warning("%s", text)


def paced(feed: Feed, stop: threading.Event, health: Health) -> Feed:
    """Frames of a recording as a camera would give them: each at its time, and born then whenever it was decoded.

    Where decoding is slower than the recording, or its times jump, the clock is set anew: a camera would not wait.
    """
    start: float | None = None
    for frame in feed:
        now = time.perf_counter()
        due = now if start is None else start + frame.time
        if now - due > LATE:
            health.slipped += now - due
        if start is None or now - due > LATE or due - now > LONGEST_GAP:
            start, due = now - frame.time, now
        if stop.wait(max(0.0, due - now)):
            return
        yield replace(frame, born=due)


def retried(
    name: str, first: Feed, again: Callable[[], Feed], stop: threading.Event, health: Health, retries: int = RETRIES
) -> Feed:
    """Frames of a live source; where it breaks or ends, it is opened again, with longer and longer waits.

    Args:
        name: for messages.
        first: what is open already.
        again: opens it anew; ``DataError`` where it cannot.
        stop: ends it, waits included.
        health: gets losses, and in ``lost`` why the source was given up.
        retries: attempts after one loss; a source that then gives frames for ``STEADY`` seconds has them all again.
    """
    attempt, feed, begin, broken = 0, first, None, False
    while True:
        since = None
        try:
            with closing(feed):  # type: ignore[type-var]  # generators
                for frame in feed:
                    since = frame.born if since is None else since
                    begin = frame.born if begin is None else begin
                    health.reconnects, broken = health.reconnects + broken, False
                    yield replace(frame, time=max(0.0, frame.born - begin))
                    attempt = 0 if frame.born - since > STEADY else attempt
            reason = "the stream ended"
        except DataError as error:
            reason = error.what.removeprefix(f"{name}: ").rstrip(".")
        health.losses, broken = health.losses + (not broken), True
        opened = None
        while opened is None and not stop.is_set():
            attempt += 1
            if attempt > retries:
                health.lost = f"{name}: {reason}"
                return
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1))
            health.tell(f"{name}: {reason}; attempt {attempt} of {retries} in {wait:g} s")
            if stop.wait(wait):
                return
            health.touched = time.perf_counter()
            try:
                opened = again()
            except DataError as error:
                reason = error.what.removeprefix(f"{name}: ").rstrip(".")
        if opened is None:
            return
        feed = opened


class Slot(Generic[T]):
    """A queue of one between two threads.

    With ``newest`` what lies there is replaced by what comes, and counted as dropped; else who brings something waits
    until the place is free.
    """

    def __init__(self, newest: bool = False) -> None:
        self.newest, self.came, self.dropped, self.closed = newest, 0, 0, False
        self._held: list[T] = []
        self._changed = threading.Condition()

    def put(self, item: T) -> bool:
        """Leave ``item``; False where the slot is closed."""
        with self._changed:
            while self._held and not self.newest and not self.closed:
                self._changed.wait()
            if self.closed:
                return False
            self.came, self.dropped = self.came + 1, self.dropped + len(self._held)
            self._held = [item]
            self._changed.notify_all()
            return True

    def get(self, timeout: float | None = None) -> T | None:
        """Take what lies there, or waits for it; None after ``timeout`` seconds, or where nothing will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._held or self.closed, timeout)
            item = self._held.pop() if self._held else None
            self._changed.notify_all()
            return item

    def close(self, discard: bool = False) -> None:
        """Take nothing more; what lies there can still be taken, unless it is to be discarded (as dropped)."""
        with self._changed:
            self.closed = True
            if discard:
                self.dropped += len(self._held)
                self._held = []
            self._changed.notify_all()

    @property
    def finished(self) -> bool:
        """Whether it is closed and empty."""
        with self._changed:
            return self.closed and not self._held
