"""Three threads of a stream: one decodes, one runs the model, the caller's draws and writes.

Between them lie queues of one (:class:`pocketvit.serve.streaming.feeds.Slot`): memory does not grow, and what is late
is dropped in one place alone, before the model. A model that is slower than its source answers for fewer frames and
not later.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pocketvit.errors import DataError
from pocketvit.interrupts import Interrupted
from pocketvit.serve.streaming.feeds import Feed, Frame, Health, Slot
from pocketvit.serve.streaming.latency import Percentiles
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.tasks.base import Result

TICK = 0.1
"""Seconds after which the caller's thread looks for signals although no answer came."""
STALL = 30.0
"""Seconds without a frame after which a live source is given up: some drivers wait for ever."""
FAREWELL = 1.0
"""Seconds that a thread has to end; one that hangs in a driver is left behind."""
MOST_REASONS = 20


@dataclass(frozen=True)
class Answered:
    """An answer on its way to whoever draws it."""

    frame: Frame
    pixels: Pixels
    result: Result
    ms: float
    """Decoding to RGB, preprocessing, inference and postprocessing."""


@dataclass
class Counts:
    """What became of the frames: ``came == answered + dropped + skipped`` at the end."""

    came: int = 0
    answered: int = 0
    dropped: int = 0
    skipped: int = 0
    """Frames that could not be used; the first reasons are in ``reasons``."""
    reasons: list[str] = field(default_factory=list)
    latency: Percentiles = field(default_factory=Percentiles)
    """From the camera, or the time at which a recording shows it, to the answer, drawn where it is."""
    model: Percentiles = field(default_factory=Percentiles)
    seconds: float = 0.0
    limited: bool = False
    """Whether the limit of the plan ended it."""
    interrupted: Interrupted | None = None
    """The signal that ended it."""


@dataclass
class Plan:
    """How a stream is run."""

    answer: Callable[[Pixels], Result]
    deliver: Callable[[Answered], float]
    """Draws and writes in the caller's thread; returns ``time.perf_counter()`` of when the answer was there to see."""
    newest: bool
    """Whether frames are dropped where the model is slower than they come."""
    live: bool
    limit: float | None = None
    """Seconds of the stream after which it ends."""
    tick: Callable[[Counts], None] = lambda counts: None
    """Called with every answer and every ``TICK``."""
    stall: float = STALL


class _Threads:
    """Reader and worker, and what they leave for each other."""

    def __init__(self, plan: Plan, stop: threading.Event, health: Health) -> None:
        self.plan, self.stop, self.health = plan, stop, health
        self.frames: Slot[Frame] = Slot(newest=plan.newest)
        self.answers: Slot[Answered] = Slot()
        self.skipped: list[str] = []
        self.skips, self.limited = 0, False
        self.error: BaseException | None = None
        self._all: list[threading.Thread] = []

    def start(self, feed: Feed) -> None:
        for name, work in (("reader", lambda: self._read(feed)), ("model", self._work)):
            thread = threading.Thread(target=work, name=f"stream-{name}", daemon=True)
            self._all.append(thread)
            thread.start()

    def _read(self, feed: Feed) -> None:
        limit = self.plan.limit
        try:
            for frame in feed:
                self.health.touched = time.perf_counter()
                self.limited = limit is not None and frame.time >= limit
                if self.limited or self.stop.is_set() or not self.frames.put(frame):
                    break
        except DataError as error:  # what came before it is not lost
            self.health.lost = error.what
        except BaseException as error:
            self.error = self.error or error
        finally:
            self.frames.close()
            if hasattr(feed, "close"):
                feed.close()

    def _work(self) -> None:
        try:
            while (frame := self.frames.get()) is not None:
                began = time.perf_counter()
                try:
                    pixels = frame.pixels()
                except DataError as error:
                    self.skips += 1
                    if len(self.skipped) < MOST_REASONS:
                        self.skipped.append(error.what)
                    continue
                result = self.plan.answer(pixels)
                ms = (time.perf_counter() - began) * 1e3
                if not self.answers.put(Answered(frame, pixels, result, ms)):
                    break
        except BaseException as error:
            self.error = self.error or error
        finally:
            self.frames.close(discard=True)
            self.answers.close()

    def end(self) -> None:
        """Take no more frames; the one in the model is still answered."""
        self.stop.set()
        self.frames.close(discard=True)

    def abandon(self) -> None:
        """End, and forget what is on its way."""
        self.end()
        self.answers.close(discard=True)
        for thread in self._all:
            thread.join(FAREWELL)


def run(feed: Feed, plan: Plan, stop: threading.Event, health: Health, check: Callable[[], None]) -> Counts:
    """Run until the source ends or is lost, the limit is reached, or ``check`` raises :class:`Interrupted`.

    An interruption ends it in order: the answer that is being computed is still delivered. It is not raised, and stands
    in the counts.

    Raises:
        PocketvitError: model, drawing or writing failed; nothing more is delivered.
    """
    threads, counts, began = _Threads(plan, stop, health), Counts(), time.perf_counter()
    health.touched = began
    threads.start(feed)
    try:
        while not threads.answers.finished:
            if counts.interrupted is None:
                counts.interrupted = _interruption(check)
            if counts.interrupted is not None or _over(threads, began):
                threads.end()
            if (answered := threads.answers.get(TICK)) is not None:
                seen = plan.deliver(answered)
                counts.latency.add((seen - answered.frame.born) * 1e3)
                counts.model.add(answered.ms)
                counts.answered += 1
            _update(counts, threads, began)
            plan.tick(counts)
    finally:
        threads.abandon()
    _update(counts, threads, began)
    if threads.error is not None:
        raise threads.error
    return counts


def _interruption(check: Callable[[], None]) -> Interrupted | None:
    try:
        check()
    except Interrupted as error:
        return error
    return None


def _over(threads: _Threads, began: float) -> bool:
    """Whether a live source is silent for too long, or its time is over although it gives no frames."""
    plan, health, now = threads.plan, threads.health, time.perf_counter()
    silent = now - health.touched
    if plan.live and silent > plan.stall:
        health.lost = health.lost or f"no frame came for {plan.stall:g} s"
        return True
    if plan.live and plan.limit is not None and silent > 1 and now - began > plan.limit:
        threads.limited = True
        return True
    return False


def _update(counts: Counts, threads: _Threads, began: float) -> None:
    counts.came, counts.dropped = threads.frames.came, threads.frames.dropped
    counts.skipped, counts.reasons, counts.limited = threads.skips, threads.skipped, threads.limited
    counts.seconds = time.perf_counter() - began
