"""A bounded queue of inferences that run in threads, so that the event loop only waits.

Counters are touched by the event loop alone and need no lock. A run that nobody waits for any more (its time is over,
or its client went away) is taken out of the queue; where it is running already, it is told at its next tile.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from pocketvit.serve.http.refusal import GONE, Refusal

T = TypeVar("T")
Check = Callable[[], None]
"""Raises where the answer is not wanted any more."""
_FIRST_GUESS_S, _SHARE = 0.2, 0.1
MOST_RETRY_S = 60


class InferenceQueue:
    """Runs at most ``workers`` inferences at once and lets at most ``places`` more wait."""

    def __init__(self, workers: int, places: int) -> None:
        self.workers, self.places = workers, places
        self.unfinished = 0
        """Runs that are waiting or running, those that were given up while they ran included."""
        self._seconds = _FIRST_GUESS_S
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="inference")

    @property
    def waiting(self) -> int:
        """Runs that wait for a thread."""
        return max(0, self.unfinished - self.workers)

    @property
    def retry_after(self) -> int:
        """Seconds after which a new request will probably find a place: the queue's length by its recent pace."""
        return min(MOST_RETRY_S, max(1, math.ceil(self.unfinished * self._seconds / self.workers)))

    async def run(self, work: Callable[[Check], T], seconds: float, gone: Callable[[], Coroutine[Any, Any, None]]) -> T:
        """The answer of ``work(check)``, which runs in a thread and calls ``check`` now and then.

        Args:
            work: what it raises is raised here.
            seconds: at most so long, waiting included.
            gone: begins what ends when the client does not wait any more.

        Raises:
            Refusal: 429 where the queue is full, 503 where it took too long, 499 where the client is gone.
        """
        if self.unfinished >= self.workers + self.places:
            raise Refusal(429, "all places in the queue are taken.", {"Retry-After": str(self.retry_after)})
        given_up = threading.Event()
        job, watch = self._submit(work, given_up), asyncio.create_task(gone())
        try:
            both: set[asyncio.Future[Any]] = {job, watch}
            await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if job.done():
                return job.result()
            if watch.done():
                raise Refusal(GONE, "the client went away.")
            text = f"the answer took longer than {seconds:g} s."
            raise Refusal(503, text, {"Retry-After": str(self.retry_after)})
        finally:
            given_up.set()
            job.cancel()
            watch.cancel()

    def _submit(self, work: Callable[[Check], T], given_up: threading.Event) -> asyncio.Future[T]:
        loop, spent = asyncio.get_running_loop(), list[float]()

        def check() -> None:
            if given_up.is_set():
                raise Refusal(GONE, "nobody waits for the answer any more.")

        def timed() -> T:
            check()
            began = time.perf_counter()
            try:
                return work(check)
            finally:
                spent.append(time.perf_counter() - began)

        def finished(done: Future[T]) -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(self._finish, spent)

        self.unfinished += 1
        future = self._pool.submit(timed)
        future.add_done_callback(finished)
        return asyncio.wrap_future(future)

    def _finish(self, spent: list[float]) -> None:
        self.unfinished -= 1
        for seconds in spent:
            self._seconds += _SHARE * (seconds - self._seconds)

    def close(self) -> None:
        """Start nothing more; what runs ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
