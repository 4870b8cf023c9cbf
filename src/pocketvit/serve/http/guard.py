"""What every request passes: shutdown, bearer token, counters, one line of log; and no error leaves without an answer.

It is plain ASGI around the application, so that bodies and answers stream through it untouched.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from pocketvit.serve.http.bodies import Receive, discard
from pocketvit.serve.http.refusal import GONE, Refusal
from pocketvit.serve.http.telemetry import Metrics, event

log = logging.getLogger("pocketvit.serve")
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
PROBES = frozenset({"/v2/health/live", "/v2/health/ready"})
"""What an orchestrator asks: it needs no token, and is answered while the server shuts down."""
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


@dataclass
class Door:
    """Whether new requests come in, and how many are inside."""

    token: str | None = None
    """What clients must send as ``Authorization: Bearer``; None lets everybody in."""
    public: Callable[[str], bool] = lambda path: False
    """Of which paths the token is not asked for: a page that people open cannot send it."""
    closing: bool = False
    """Set once, when the server shuts down: what is inside is finished, what is new is refused."""
    inside: int = 0
    cut: int = 0
    """Requests that were inside when the grace period ended."""
    most_discarded: int = 64_000_000
    _hashed: bytes = field(init=False, default=b"")

    def __post_init__(self) -> None:
        self._hashed = hashlib.sha256((self.token or "").encode()).digest()

    def knows(self, authorization: bytes) -> bool:
        """Whether a header holds the token; how long that takes does not depend on how much of it is right."""
        scheme, _, given = authorization.strip().partition(b" ")
        same = hmac.compare_digest(hashlib.sha256(given.strip()).digest(), self._hashed)
        return scheme.lower() == b"bearer" and same


@dataclass
class _Entry:
    """What is noted of a request."""

    id: str
    began: float = field(default_factory=time.perf_counter)
    status: int = 0
    sent: int = 0


class Guard:
    """The ASGI application around the routes."""

    def __init__(self, app: App, *, door: Door, metrics: Metrics) -> None:
        self.app, self.door, self.metrics = app, door, metrics

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """See ASGI; lifespan events pass."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        entry = _Entry(_request_id(headers))
        scope.setdefault("state", {})
        scope["state"]["noted"] = {}

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry.status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), *self._headers(entry)]}
            else:
                entry.sent += len(message.get("body", b""))
            await send(message)

        try:
            if refusal := self._refused(scope["path"], headers):
                if b"expect" not in headers:
                    await discard(receive, self.door.most_discarded)
                await _answer(refusal, noting)
            else:
                await self._let_in(scope, receive, noting, entry)
        finally:
            self._note(scope, entry)

    async def _let_in(self, scope: Message, receive: Receive, send: Send, entry: _Entry) -> None:
        counts = scope["path"] not in PROBES
        self.door.inside += counts
        self.metrics.running.set(self.door.inside)
        try:
            await self.app(scope, receive, send)
        except asyncio.CancelledError:  # the grace period is over; the process ends
            self.door.cut += 1
            if not entry.status:
                await _answer(Refusal(503, "the server has shut down."), send)
        except Exception:
            log.exception("request %s failed", entry.id)
            if not entry.status:
                await _answer(Refusal(500, "internal error."), send)
        finally:
            self.door.inside -= counts
            self.metrics.running.set(self.door.inside)

    def _refused(self, path: str, headers: dict[bytes, bytes]) -> Refusal | None:
        if path in PROBES:
            return None
        if self.door.closing:
            return Refusal(503, "the server is shutting down.", {"Retry-After": "5"})
        known = self.door.token is None or self.door.public(path)
        if not known and not self.door.knows(headers.get(b"authorization", b"")):
            return Refusal(401, "a bearer token is needed.", {"WWW-Authenticate": "Bearer"})
        return None

    def _headers(self, entry: _Entry) -> list[tuple[bytes, bytes]]:
        closing = [(b"connection", b"close")] if self.door.closing else []
        return [(b"x-request-id", entry.id.encode()), (b"x-content-type-options", b"nosniff"), *closing]

    def _note(self, scope: Message, entry: _Entry) -> None:
        seconds = time.perf_counter() - entry.began
        route = getattr(scope.get("route"), "path", None) or "unmatched"
        status = entry.status or GONE
        self.metrics.request(route, scope["method"], status, seconds)
        path, client = scope["path"][:200], (scope.get("client") or ("",))[0]
        event(
            "request", id=entry.id, client=client, method=scope["method"][:20], path=path, route=route, status=status,
            ms=round(1e3 * seconds, 2), bytes=entry.sent, **scope["state"]["noted"],
        )  # fmt: skip


def _request_id(headers: dict[bytes, bytes]) -> str:
    """The client's own where it is a plain word."""
    given = headers.get(b"x-request-id", b"")
    return given.decode() if _ID.fullmatch(given) else secrets.token_hex(8)


async def _answer(refusal: Refusal, send: Send) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in refusal.headers.items()]
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(refusal.body)).encode())]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": refusal.body})
