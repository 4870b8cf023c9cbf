"""Tells a web address of changes: POST of JSON, in a thread of its own, with time limits, retries and a highest rate.

Whatever the other side does, serving and watching go on; what could not be told is counted and logged.
"""

from __future__ import annotations

import http.client
import json
import logging
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pocketvit import __version__
from pocketvit.errors import UsageError

log = logging.getLogger("pocketvit.serve")
_ENDED = object()


@dataclass(frozen=True)
class Patience:
    """How long and how often."""

    seconds: float = 10.0
    """For one attempt as a whole."""
    waits: tuple[float, ...] = (1.0, 4.0, 15.0, 60.0)
    """Seconds before each further attempt."""
    per_hour: int = 30
    """Alerts; those beyond are counted, and the next one says how many."""
    queue: int = 32


class Alerts:
    """One address; :meth:`tell` never waits and never fails."""

    def __init__(self, url: str, patience: Patience | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises UsageError: ``url`` is no http or https address."""
        self._parts = check_url(url)
        self._patience, self._clock = patience or Patience(), clock
        self.sent = self.failed = self.suppressed = 0
        self._untold = 0
        self._times: deque[float] = deque()
        self._queue: queue.Queue[Any] = queue.Queue(self._patience.queue)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)
        self._thread.start()

    def tell(self, event: dict[str, Any]) -> None:
        """Have an event sent; where there were too many within an hour, it is only counted."""
        now = self._clock()
        while self._times and self._times[0] < now - 3600:
            self._times.popleft()
        try:
            if len(self._times) >= self._patience.per_hour:
                raise queue.Full
            self._queue.put_nowait({**event, "suppressed": self._untold})
        except queue.Full:
            self.suppressed += 1
            self._untold += 1
            return
        self._times.append(now)
        self._untold = 0

    def close(self) -> None:
        """End now; what waits is not sent."""
        self._stop.set()
        with suppress(queue.Full):
            self._queue.put_nowait(_ENDED)
        self._thread.join(2)

    def _run(self) -> None:
        while (event := self._queue.get()) is not _ENDED and not self._stop.is_set():
            body = json.dumps({"source": f"pocketvit {__version__}", "event": event}).encode()
            for wait in (0.0, *self._patience.waits):
                if self._stop.wait(wait):
                    return
                try:
                    fault, again = self._post(body)
                except (OSError, http.client.HTTPException, ValueError) as error:
                    fault, again = type(error).__name__, True
                if not fault or not again:
                    break
            self.sent += not fault
            self.failed += bool(fault)
            if fault:  # the address may hold a secret: its host is enough
                log.warning("an alert could not be sent to %s: %s", self._parts.hostname, fault)

    def _post(self, body: bytes) -> tuple[str, bool]:
        """What went wrong, if anything, and whether it may go better later."""
        parts, seconds = self._parts, self._patience.seconds
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(str(parts.hostname), parts.port, timeout=seconds)
        # A socket's time limit begins anew with each byte that comes.
        timer = threading.Timer(seconds, _shut, (connection,))
        timer.daemon = True
        timer.start()
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            status = connection.getresponse().status
        finally:
            timer.cancel()
            connection.close()
        return ("" if 200 <= status < 300 else f"status {status}"), status >= 500 or status in (408, 429)


def _shut(connection: http.client.HTTPConnection) -> None:
    with suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)


def check_url(url: str) -> Any:
    """The parts of an address. Raises UsageError: it is none of http or https, or has a user name in it."""
    todo = "Write e.g. https://example.org/hooks/drift."
    try:
        parts = urlsplit(url)
        port_known = parts.port is None or parts.port > 0
    except ValueError as error:
        raise UsageError(f"alert_url is no web address ({error}).", todo) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or not port_known:
        raise UsageError("alert_url is no http or https address without a user name.", todo)
    if not (parts.path + parts.query).isascii() or any(c.isspace() or not c.isprintable() for c in url):
        raise UsageError("alert_url holds characters that an address cannot.", todo)
    return parts
