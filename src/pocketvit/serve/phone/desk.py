"""The server that a phone measures through: the page, the jobs' routes, and what is said in the terminal about it.

It answers from a thread of the process that measures, for as long as that takes, and serves no models.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from pocketvit.errors import PocketvitError, UsageError
from pocketvit.serve.http.refusal import Refusal, refusal_of
from pocketvit.serve.http.server import config_of, listen
from pocketvit.serve.http.tls import certificate_files, kept_in
from pocketvit.serve.http.wrong import wrong_of
from pocketvit.serve.phone.address import LOCAL, phone_urls, qr
from pocketvit.serve.phone.jobs import Jobs
from pocketvit.serve.phone.pages import pages
from pocketvit.serve.phone.routes_jobs import Desk, router
from pocketvit.spec.devices import ContactConfig

FAREWELL_S, START_S = 3.0, 15.0
"""How long a page may take to hear that all is done, and the server to start."""


def make_desk(desk: Desk, app_folder: Path) -> FastAPI:
    """The application: routes for jobs, and the page as it lies built in ``app_folder``."""
    app = FastAPI(title="pocketvit phone", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.desk = desk
    app.include_router(router)
    app.include_router(pages(app_folder))
    for kind in (Exception, Refusal, PocketvitError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _refuse)
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        error = Refusal(error.status_code, "there is nothing here.")
    if isinstance(error, RequestValidationError):
        error = wrong_of(error)
    refusal = refusal_of(error)
    return Response(refusal.body, refusal.status, refusal.headers, "application/json")


@contextmanager
def listening(contact: ContactConfig) -> Iterator[tuple[socket.socket, tuple[Path, Path] | None]]:
    """A listening socket, and certificate and key where there is TLS.

    Raises:
        UsageError: the address cannot be listened on, or there is no such certificate.
    """
    tls = None
    if contact.tls != "none":
        folder = kept_in(contact.tls, contact.tls_folder, "contact.tls_folder")
        tls = certificate_files(contact.tls, folder, contact.host)
    opened = listen(contact.host, contact.port)
    try:
        listener = opened.__enter__()
    except UsageError as error:
        todo = "Take another host or port (contact.host, contact.port); port 0 takes any that is free."
        raise UsageError(error.what, todo) from error
    try:
        yield listener, tls
    finally:
        opened.__exit__(None, None, None)


@contextmanager
def served(app: FastAPI, listener: socket.socket, tls: tuple[Path, Path] | None) -> Iterator[None]:
    """Answer from a thread of its own while the block runs."""
    server = uvicorn.Server(config_of(app, tls, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), name="phone", daemon=True)
    thread.start()
    try:
        _wait(lambda: server.started or not thread.is_alive(), START_S)
        if not server.started:
            raise UsageError("the address for the phone could not be served.", "Run again with -v for the reason.")
        yield
    finally:
        server.should_exit = True
        thread.join(START_S)


def invite(listener: socket.socket, host: str, token: str, *, secure: bool) -> None:
    """Say on standard error what to open on the phone, as a QR code too; it must be read even where all else is quiet.

    The token stands behind the ``#``, which browsers keep to themselves.
    """
    urls = [f"{url}#pair={token}" for url in phone_urls(host, listener.getsockname()[1], secure)]
    code = qr(urls[0], colour=sys.stderr.isatty() and "NO_COLOR" not in os.environ)
    lines = ["Open on the phone, in the same network, and keep it open and in front:", *(f"  {url}" for url in urls)]
    if host in LOCAL:
        lines.append("Only this machine reaches that address: over a cable, `adb reverse` brings it to the phone.")
    elif secure:
        lines.append("The browser warns of the certificate, which this machine has made itself: go on all the same.")
    else:
        lines.append("Without TLS the browser gives the page one thread alone, and the screen may turn off.")
    try:
        print("\n".join([code, *lines]), file=sys.stderr, flush=True)
    except UnicodeEncodeError:  # a terminal without such letters
        print("\n".join(lines), file=sys.stderr, flush=True)


def farewell(jobs: Jobs) -> None:
    """Let the page hear that all is done before nobody answers any more."""
    jobs.close()
    if jobs.here:
        _wait(lambda: jobs.told_closed, FAREWELL_S)


def _wait(ready: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not ready() and time.monotonic() < end:
        time.sleep(0.02)
