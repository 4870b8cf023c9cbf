"""uvicorn with two things more: a shutdown that refuses new requests while it finishes the others, and patience's end.

A shutdown keeps the port open: who comes now gets 503 at once and can go elsewhere, and does not hang or find nobody.
It ends when all that was inside is answered and nobody has come for a moment, or when the grace period is over.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from pocketvit.errors import UsageError
from pocketvit.serve.http.guard import Door
from pocketvit.serve.http.refusal import Refusal
from pocketvit.serve.http.services import Services
from pocketvit.serve.http.telemetry import event

CALM_TICKS = 4
"""Of 0.1 s without a request inside, before a closing server ends."""
HEAD_SECONDS = 15.0
"""A connection that brings no whole request head in this time, or goes on sending a refused body, is closed."""
MAX_CONNECTIONS = 1000


@dataclass(frozen=True)
class Done:
    """What a server did until it ended."""

    url: str
    requests: int
    seconds: float


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that closes connections on which no request comes about."""

    def connection_made(self, transport: Any) -> None:
        """See asyncio."""
        super().connection_made(transport)
        self._seen: Any = self
        self._timer = self.loop.call_later(HEAD_SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, as all errors are answered.

        Where it came behind a head, in a chunked body, the request that runs is over and must not answer as well; where
        it has begun to, nothing more can be said.
        """
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = Refusal(400, "this is not HTTP/1.1.").body
            headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
            head = h11.Response(status_code=400, headers=[*headers, ("connection", "close")])
            for part in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(part))
        self.transport.close()

    def _look(self) -> None:
        """Close where since the last look no request was running and none has come."""
        running = self.cycle is not None and not self.cycle.response_complete
        first = self._seen is self and self.cycle is None
        if not running and (first or self._seen is self.cycle):
            self.transport.close()
            return
        self._seen = None if running else self.cycle
        self._timer = self.loop.call_later(HEAD_SECONDS, self._look)


class Server(uvicorn.Server):
    """uvicorn's server with our shutdown."""

    def __init__(self, config: uvicorn.Config, door: Door, grace_seconds: float) -> None:
        super().__init__(config)
        self._door, self._grace = door, grace_seconds
        self._ends, self._calm = 0.0, 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal closes the door; a second Ctrl-C ends at once. It is not raised again: this is an end."""
        if self._door.closing:
            self.should_exit = self.force_exit = self.force_exit or sig == signal.SIGINT
            return
        self._ends = time.monotonic() + self._grace
        self._door.closing = True

    async def on_tick(self, counter: int) -> bool:
        """Whether to end, asked ten times a second."""
        if self._door.closing and not self.should_exit:
            self._calm = 0 if self._door.inside else self._calm + 1
            self.should_exit = self._calm >= CALM_TICKS or time.monotonic() >= self._ends
        return await super().on_tick(counter)


@contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket.

    Raises:
        UsageError: there is no such address here, or the port is taken or out of range.
    """
    todo = "Take another --host or --port; port 0 takes any that is free."
    if not 0 <= port < 65536:  # the resolver would take it modulo 65536
        raise UsageError(f"{host}:{port} cannot be listened on (ports are 0 to 65535).", todo)
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", "") or error
        raise UsageError(f"{host}:{port} cannot be listened on ({reason}).", todo) from error
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1024)
        except OSError as error:
            raise UsageError(f"{host}:{port} cannot be listened on ({error.strerror or error}).", todo) from error
        yield listener


def config_of(app: FastAPI, tls: tuple[Path, Path] | None, **more: Any) -> uvicorn.Config:
    """What every server of ours asks of uvicorn: our protocol, no log and no headers of its own."""
    return uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ssl_certfile=tls and tls[0],
        ssl_keyfile=tls and tls[1],
        **more,
    )


def run_server(
    app: FastAPI, listener: socket.socket, tls: tuple[Path, Path] | None, grace_seconds: float, url: str
) -> Done:
    """Serve until a signal comes, and finish what was begun; ``tls`` is a certificate and its key."""
    services: Services = app.state.services
    config = config_of(app, tls, limit_concurrency=MAX_CONNECTIONS, timeout_graceful_shutdown=2)
    server = Server(config, services.door, grace_seconds)
    began = time.perf_counter()
    models = [f"{one.name} {one.version}" for one in services.models.all()]
    event("listening", url=url, models=models, certificate=tls and str(tls[0]))
    try:
        asyncio.run(server.serve(sockets=[listener]))
    finally:
        services.queue.close()
    requests = server.server_state.total_requests
    event("ended", requests=requests, unfinished=services.door.cut)
    return Done(url, requests, time.perf_counter() - began)
