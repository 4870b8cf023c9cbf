"""The ``serve`` command: artifacts behind HTTP until somebody ends it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvit.errors import DataError, MissingDependencyError, UsageError
from pocketvit.files import plain, read_text
from pocketvit.runtimes.model import load
from pocketvit.spec.environment import available_cores

if TYPE_CHECKING:
    from pocketvit.serve.services import Services

MIN_TOKEN = 16
"""Characters of a token; fewer could be guessed."""
PACKAGES = ("fastapi", "starlette", "uvicorn", "prometheus_client", "python_multipart", "cryptography", "segno")
"""What the extra ``serve`` brings for this command."""
TOKEN_BYTES = 4096


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
    workers: int | None = None,
    queue: int = 32,
    max_body_mb: float = 32.0,
    max_megapixels: float = 32.0,
    max_held_mb: float = 512.0,
    body_seconds: float = 30.0,
    request_seconds: float = 60.0,
    grace_seconds: float = 30.0,
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
        workers: inferences at once; the number of cores by default.
        queue: inferences that may wait; beyond them clients get 429 and are told when to come again.
        max_body_mb: MB of a request's body.
        max_megapixels: of an image, by its header; it is checked before anything is decoded.
        max_held_mb: MB of all bodies together.
        body_seconds: seconds for a body to arrive.
        request_seconds: seconds for an answer, waiting included.
        grace_seconds: seconds that running and waiting requests get when the server is to end.

    Raises:
        UsageError: no such artifact, a version twice, a port that cannot be listened on, or a limit out of range.
        DataError: the token or certificate files cannot be used.
        MissingDependencyError: the extra serve is not installed.
    """
    _check_packages()
    from pocketvit.serve.http_app import make_app
    from pocketvit.serve.phone.address import announce, phone_urls
    from pocketvit.serve.phone.app_files import find_app
    from pocketvit.serve.phone.routes import add_phone
    from pocketvit.serve.served import Models, Served
    from pocketvit.serve.server import listen, run_server
    from pocketvit.serve.services import Limits
    from pocketvit.serve.tls import certificate_files

    workers = available_cores() if workers is None else workers
    limits = Limits(workers, queue, max_body_mb, max_megapixels, max_held_mb, body_seconds, request_seconds)
    if not 0 <= grace_seconds < 1e6:
        raise UsageError(f"grace_seconds must be at least 0, not {grace_seconds:g}.", "30 is usual.")
    if phone_app is not None and not phone:
        raise UsageError("phone_app goes with --phone.", "Leave it out, or add --phone.")
    app_folder = find_app(phone_app) if phone else None
    token = None if token_file is None else read_token(Path(token_file))
    folder = _tls_folder(tls_folder, tls)
    files = None if tls is None else certificate_files(tls, folder, host)
    names = [artifacts] if isinstance(artifacts, str) else list(artifacts)
    models = Models([Served.of(load(name, target, trust=trust, memory_mb=memory_mb)) for name in names])
    app = make_app(models, limits, token)
    if app_folder is not None:
        add_phone(app, app_folder)
    with listen(host, port) as listener:
        services: Services = app.state.services
        if app_folder is not None:
            urls = phone_urls(host, listener.getsockname()[1], files is not None, token)
            announce(urls, host, files is not None, sys.stderr)
        done = run_server(app, listener, files, grace_seconds, url_of(listener, host, files is not None))
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


def read_token(path: Path) -> str:
    """The bearer token in a file; white space around it does not count.

    Raises:
        DataError: no such file, or it holds no token of at least 16 plain characters.
    """
    try:
        token = read_text(path, TOKEN_BYTES).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "") or "no text file of a token's size"
        raise DataError(f"{path}: the token cannot be read ({reason}).", "Check --token_file.") from error
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        what = f"{path}: holds no token of at least {MIN_TOKEN} printable ASCII characters without spaces."
        raise DataError(what, "Make one, e.g.: python -c 'import secrets; print(secrets.token_urlsafe(32))'.")
    return token


def _tls_folder(folder: str | None, tls: str | None) -> Path:
    if folder is not None:
        if tls != "auto":
            raise UsageError("tls_folder goes with --tls auto.", "Leave it out, or add --tls auto.")
        return Path(folder)
    try:
        return Path.home() / ".config" / "pocketvit" / "tls"
    except RuntimeError as error:
        raise UsageError("there is no home folder for the certificate.", "Name one with --tls_folder.") from error


def url_of(listener: socket.socket, host: str, secure: bool) -> str:
    """Where clients on this machine reach a listening socket."""
    address, port = listener.getsockname()[:2]
    shown = "127.0.0.1" if address == "0.0.0.0" else "::1" if address == "::" else address
    if host and host not in ("0.0.0.0", "::"):
        shown = host
    shown = f"[{shown}]" if ":" in shown else shown
    return f"{'https' if secure else 'http'}://{shown}:{port}"
