"""The ``serve`` command: artifacts behind HTTP until somebody ends it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvit.errors import MissingDependencyError, UsageError
from pocketvit.files import plain
from pocketvit.runtimes.model import load
from pocketvit.serve.options import Limits, Updates, Watch
from pocketvit.serve.tokens import MIN_TOKEN, read_token

if TYPE_CHECKING:
    from pocketvit.serve.http.services import Services

PACKAGES = ("fastapi", "starlette", "uvicorn", "prometheus_client", "python_multipart", "cryptography", "segno")
"""What the extra ``serve`` brings for this command."""
_LIMITS, _UPDATES, _WATCH = Limits(), Updates(), Watch()


@dataclass(frozen=True)
class ServeReport:
    """What a server did."""

    url: str
    requests: int
    seconds: float
    unfinished: int
    """Requests that were cut off because they took longer than the grace period."""

    @property
    def exit_code(self) -> int:
        """0, or 1 where requests were cut off."""
        return 1 if self.unfinished else 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return plain(vars(self))  # type: ignore[no-any-return]

    def render(self) -> str:
        """One line."""
        cut = f"; {self.unfinished} were cut off" if self.unfinished else "; all that were taken in were answered"
        return f"{self.url}: {self.requests} requests in {self.seconds:.0f} s{cut}."


def serve(
    artifacts: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: str | None = None,
    tls: str | None = None,
    tls_folder: str | None = None,
    phone: bool = False,
    phone_app: str | None = None,
    target: str | None = None,
    trust: bool = False,
    memory_mb: float | None = None,
    limits: Limits = _LIMITS,
    updates: Updates = _UPDATES,
    watch: Watch = _WATCH,
    collect: str | None = None,
) -> ServeReport:
    """Answer over HTTP with artifacts, until SIGTERM or Ctrl-C.

    Images go to POST /v1/TASK, tensors to the Open Inference Protocol (KServe v2) below /v2; /docs lists all, /metrics
    is for Prometheus, and each request is a line of JSON on standard error. On SIGTERM what is running or waiting is
    finished, and new requests get 503; a second Ctrl-C ends at once.

    Args:
        artifacts: artifact folders, run folders, .pvit files or names of shipped artifacts; several versions of one
            name may be served, and the latest answers where no version is asked for.
        host: name or address to listen on; 0.0.0.0 is all of this machine's.
        port: TCP port; 0 takes a free one.
        token_file: file with the bearer token that clients must send; without it everybody is let in.
        tls: auto makes a self-signed certificate once and keeps it; or two files, certificate.pem,key.pem.
        tls_folder: where tls auto keeps its files; ~/.config/pocketvit/tls by default.
        phone: also hand out the phone app, below /phone/; its address is printed as a QR code too.
        phone_app: folder of the built app, for --phone; a checkout's web/dist by default.
        target: runtime:precision[:threads] for all artifacts; by default each one's own.
        trust: also run files that are programs (TorchScript), which may do anything on this machine.
        memory_mb: MB that a photo may take above the idle process; beyond it, it runs in tiles. 1000 by default.
        limits: what one client, and all together, may ask of the server.
        updates: channels that new versions are taken from while the server runs, and who must have signed them.
        watch: statistics of requests and answers, which /v1/drift compares over time.
        collect: folder for the corrections that clients send to /v1/feedback; nothing is kept without it.

    Raises:
        UsageError: no such artifact, a version twice, a port that cannot be listened on, a limit out of range, or no
            token in the file that should hold it.
        DataError: the certificate files cannot be used.
        MissingDependencyError: the extra serve is not installed.
    """
    _check_packages()
    from pocketvit.serve.drift.start import watching
    from pocketvit.serve.http.http_app import make_app
    from pocketvit.serve.http.served import Models, Served
    from pocketvit.serve.http.server import listen, run_server
    from pocketvit.serve.http.telemetry import log_to_stderr
    from pocketvit.serve.http.updates import close, follow, open_models
    from pocketvit.serve.phone.start import app_folder, open_phone

    phone_folder = app_folder(phone, phone_app)
    token = read_token(token_file, MIN_TOKEN) or None
    files = _certificate(tls, tls_folder, host)

    def loaded(name: str) -> Served:
        return Served.of(load(name, target, trust=trust, memory_mb=memory_mb))

    log_to_stderr()
    with ExitStack() as closing:
        names = [artifacts] if isinstance(artifacts, str) else list(artifacts)
        served, followers = open_models(names, loaded, updates, target=target, trust=trust)
        closing.callback(close, followers)
        models = Models(served)
        extras = closing.enter_context(watching(models, watch, collect))
        listener = closing.enter_context(listen(host, port))
        app = make_app(models, limits, token, extras.routers)
        services: Services = app.state.services
        services.watchers += extras.watchers
        follow(services, followers, updates)
        if phone_folder is not None:
            open_phone(app, phone_folder, listener, host, files is not None)
        done = run_server(app, listener, files, limits.grace_seconds, url_of(listener, host, files is not None))
    return ServeReport(done.url, done.requests, done.seconds, services.door.cut)


def _check_packages() -> None:
    import importlib.util

    for package in PACKAGES:
        try:
            there = importlib.util.find_spec(package) is not None
        except (ImportError, ValueError):  # what stands in its place in sys.modules is none
            there = False
        if not there:
            raise MissingDependencyError.of(package, "serve")


def _certificate(tls: str | None, tls_folder: str | None, host: str) -> tuple[Path, Path] | None:
    """Certificate and key; a home folder is asked for only where they are kept there."""
    from pocketvit.serve.http.tls import certificate_files, kept_in

    if tls_folder is not None and tls != "auto":
        raise UsageError("tls_folder goes with --tls auto.", "Leave it out, or add --tls auto.")
    return None if tls is None else certificate_files(tls, kept_in(tls, tls_folder, "tls_folder"), host)


def url_of(listener: socket.socket, host: str, secure: bool) -> str:
    """Where clients on this machine reach a listening socket."""
    address, port = listener.getsockname()[:2]
    shown = "127.0.0.1" if address == "0.0.0.0" else "::1" if address == "::" else address
    if host and host not in ("0.0.0.0", "::"):
        shown = host
    shown = f"[{shown}]" if ":" in shown else shown
    return f"{'https' if secure else 'http'}://{shown}:{port}"
