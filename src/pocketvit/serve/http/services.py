"""What the routes of a server share: models, limits, queue, counters; and how one inference goes through them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from pocketvit.serve.channels.channel import Channel
from pocketvit.serve.channels.signing import PublicKey
from pocketvit.serve.http.bodies import Bodies, disconnected
from pocketvit.serve.http.guard import Door
from pocketvit.serve.http.inference_queue import Check, InferenceQueue
from pocketvit.serve.http.refusal import GONE, refusal_of
from pocketvit.serve.http.served import Models, Served
from pocketvit.serve.http.telemetry import Metrics
from pocketvit.serve.options import Limits
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.tasks.base import Result

log = logging.getLogger("pocketvit.serve")


@dataclass(frozen=True)
class Outcome:
    """What an inference gave."""

    content: bytes
    """Body of the response."""
    headers: dict[str, str]
    pixels: Pixels | None = None
    """(H, W, 3) uint8, the image that was asked about."""
    result: Result | None = None
    """The typed answer, where tensors were not asked for."""


@dataclass(frozen=True)
class Ran:
    """What those who watch a model are told of each run, in the thread that ran it."""

    served: Served
    seconds: float
    outcome: Outcome | None
    """None where it failed."""
    error: Exception | None = None


class Services:
    """Everything behind the routes of one server."""

    def __init__(self, models: Models, limits: Limits, token: str | None = None) -> None:
        self.models, self.limits = models, limits
        self.queue = InferenceQueue(limits.workers, limits.queue)
        sizes = round(limits.max_body_mb * 1e6), round(limits.max_held_mb * 1e6)
        self.bodies = Bodies(*sizes, limits.body_seconds)
        self.door = Door(token, most_discarded=2 * sizes[0])
        self.metrics = Metrics(models, self.queue, lambda: self.bodies.held)
        self.watchers: list[Callable[[Ran], None]] = []
        """Called after each run; they must be quick, and what they raise is logged and nothing else."""
        self.channels: Mapping[str, Channel] = {}
        """By name of the artifact, where it follows one."""
        self.update_keys: Sequence[PublicKey] = ()
        """Those that are pinned."""

    @property
    def most_pixels(self) -> int:
        """Of an image."""
        return round(self.limits.max_megapixels * 1e6)

    async def run(self, request: Request, served: Served, work: Callable[[Check], Outcome]) -> Outcome:
        """The outcome of ``work`` with a model, by way of the queue; ``request``'s body must have been read.

        Raises:
            Refusal: it failed, whatever it was, or the queue refused it.
        """
        arrived = time.perf_counter()
        noted: dict[str, Any] = request.scope.get("state", {}).get("noted", {})
        noted |= {"model": served.name, "version": served.version}

        def timed(check: Check) -> Outcome:
            began = time.perf_counter()
            noted["queue_ms"] = round(1e3 * (began - arrived), 2)
            outcome: Outcome | None = None
            failure: Exception | None = None
            try:
                outcome = work(check)
                return outcome
            except Exception as error:
                failure = error
                raise self._refusal(served, error) from error
            finally:
                seconds = time.perf_counter() - began
                noted["run_ms"] = round(1e3 * seconds, 2)
                self.metrics.model_seconds.labels(served.name, served.version).observe(seconds)
                self._tell(Ran(served, seconds, outcome, failure))

        return await self.queue.run(timed, self.limits.request_seconds, lambda: disconnected(request.receive))

    def _refusal(self, served: Served, error: Exception) -> Exception:
        refusal = refusal_of(error)
        if refusal.status >= 500:
            self.metrics.failures.labels(served.name, served.version).inc()
            log.error("%s %s failed", served.name, served.version, exc_info=error)
        return refusal

    def _tell(self, ran: Ran) -> None:
        if getattr(ran.error, "status", 0) == GONE:
            return
        for watcher in self.watchers:
            try:
                watcher(ran)
            except Exception:
                log.exception("a watcher failed")
