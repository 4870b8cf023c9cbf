"""What the server tells about itself: Prometheus metrics, and one line of JSON for each request and event.

Nothing of an image or of a query is logged. Paths are metrics' labels only as the patterns of routes, so that their
number is bounded whatever clients ask for.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily

from pocketvit.serve.http.inference_queue import InferenceQueue
from pocketvit.serve.http.served import Models

log = logging.getLogger("pocketvit.serve")
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ALREADY = "is_json"
_METHODS = frozenset({"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"})


class _ModelInfo:
    """One sample for each version of each model, made when it is asked for: models are exchanged while it runs."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> list[GaugeMetricFamily]:
        """See prometheus_client."""
        labels = ("model", "version", "digest", "variant", "task", "current")
        family = GaugeMetricFamily("pocketvit_model_info", "Models that are served.", labels=labels)
        for one in self._models.all():
            current = str(one is self._models.current(one.name)).lower()
            family.add_metric([one.name, one.version, one.digest, one.model.target.key, one.task, current], 1)
        return [family]


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self, models: Models, queue: InferenceQueue, held: Callable[[], int]) -> None:
        """``held`` tells the bytes of all bodies that are held now."""
        self.registry = registry = CollectorRegistry()
        labels = ("route", "method", "status")
        self.requests = Counter("pocketvit_requests", "Requests by route and status.", labels, registry=registry)
        self.seconds = Histogram(
            "pocketvit_request_seconds", "From a request's head to its last byte.", ("route",), registry=registry,
            buckets=BUCKETS,
        )  # fmt: skip
        self.model_seconds = Histogram(
            "pocketvit_inference_seconds", "Reading, inference and answer of a run.", ("model", "version"),
            registry=registry, buckets=BUCKETS,
        )  # fmt: skip
        self.failures = Counter(
            "pocketvit_model_failures", "Runs that failed for no fault of the input.", ("model", "version"),
            registry=registry,
        )  # fmt: skip
        self.running = Gauge("pocketvit_requests_in_flight", "Requests being answered now.", registry=registry)
        waiting = Gauge("pocketvit_queue_depth", "Inferences that wait for a thread.", registry=registry)
        waiting.set_function(lambda: queue.waiting)
        Gauge("pocketvit_queue_places", "Inferences that may wait.", registry=registry).set(queue.places)
        Gauge("pocketvit_body_bytes", "Bytes of bodies that are held now.", registry=registry).set_function(held)
        registry.register(_ModelInfo(models))
        ProcessCollector(registry=registry)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request."""
        method = method if method in _METHODS else "other"
        self.requests.labels(route, method, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def event(name: str, **fields: Any) -> None:
    """Log one line of JSON: time, event and fields; those that are None are left out."""
    line = {"time": datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds"), "event": name}
    line |= {key: value for key, value in fields.items() if value is not None}
    log.info("%s", json.dumps(line, ensure_ascii=True, default=str), extra={_ALREADY: True})


class _Lines(logging.Formatter):
    """Our events as they are; what else is logged, by uvicorn too, as a line of JSON with its trace."""

    def format(self, record: logging.LogRecord) -> str:
        if getattr(record, _ALREADY, False):
            return record.getMessage()
        line: dict[str, Any] = {"time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")}
        line |= {"event": "server", "level": record.levelname.lower(), "text": record.getMessage()}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)[-4000:]
        return json.dumps(line)


class _Stderr(logging.StreamHandler[Any]):
    """Standard error as it is when a line is written, and not as it was when the handler was made."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def log_to_stderr() -> None:
    """Write our lines, and uvicorn's warnings and errors, to standard error.

    What readers note of single images (alpha, more than 8 bits) is left out: the command line would say it in words.
    """
    logging.getLogger("pocketvit.images").handlers = []
    for name, level in (("pocketvit.serve", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger, handler = logging.getLogger(name), _Stderr()
        handler.setFormatter(_Lines())
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
