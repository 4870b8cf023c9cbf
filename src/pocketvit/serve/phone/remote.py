"""A phone as a device that is not of this machine: :class:`pocketvit.bench.remote.Remote` by way of its browser.

``connect`` opens an address for the phone, in a thread of this process, and says what to do there. What has to be run
becomes jobs (:mod:`pocketvit.serve.phone.jobs`); statistics are made by the caller, from the raw times.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from numpy.typing import NDArray

from pocketvit.bench.remote import Rounds, Times
from pocketvit.bench.timing import Timing
from pocketvit.errors import UsageError, VerificationError
from pocketvit.progress import track
from pocketvit.runtimes.model import Model
from pocketvit.runtimes.onnxfile import external_files
from pocketvit.runtimes.session import Port, SessionInfo, check_inputs
from pocketvit.runtimes.stored import is_stored, unpack
from pocketvit.serve.phone.jobs import Job, Jobs
from pocketvit.serve.phone.messages import Engine, Rows, check_rows, unframed
from pocketvit.serve.phone.routes_jobs import Desk, router
from pocketvit.serve.refusal import Refusal, refusal_of
from pocketvit.serve.server import PatientProtocol, listen
from pocketvit.serve.tls import certificate_files, home_folder
from pocketvit.spec.devices import ContactConfig
from pocketvit.spec.environment import environment
from pocketvit.spec.manifest import Manifest
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.target import Target

NAME, ENGINE = "phone", "onnxruntime-web"
FAREWELL_S, START_S = 3.0, 15.0
"""How long a page may take to hear that all is done, and the server to start."""
Notify = Callable[[str], None]


class Phone:
    """The phone's browser. See :class:`pocketvit.bench.remote.Remote`."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.engine: Engine | None = None
        """What ran last."""

    @property
    def environment(self) -> Mapping[str, Any]:
        """Of the phone, and which version of ours measured; no row of this machine's processor."""
        hello, engine, own = self.jobs.hello, self.engine, environment()
        found: dict[str, Any] = {"device": NAME}
        if hello is not None:
            found |= hello.model_dump(exclude={"phone"})
        if engine is not None:
            simd = " SIMD" if engine.simd and engine.backend == "wasm" else ""
            found |= {"engine": f"{engine.name} {engine.version} ({engine.backend.upper()}{simd})"}
            found |= {"backend": engine.backend, "threads": engine.threads}
        return found | {"measured_by": {"pocketvit": own["versions"].get("pocketvit"), "git": own["git"]}}

    def open(self, file: Path, target: Target, manifest: Manifest) -> PhoneSession:
        """The file on the phone; it travels with the first answer that is asked for.

        Raises:
            UsageError: it reads other files, which do not travel.
        """
        return PhoneSession(self, content_of(file), target, manifest)

    def time(self, files: Sequence[tuple[Model, Sequence[Pixels]]], rounds: Rounds) -> list[Times]:
        """See :class:`pocketvit.bench.remote.Remote`."""
        parcel, told = dict[str, bytes](), []
        for model, images in files:
            assert isinstance(model.session, PhoneSession)
            pixels = [_packed(image, parcel) for image in images]
            told.append({**model.session.described(parcel), "images": pixels})
        names = ", ".join(model.target.key for model, _ in files)
        asked = {"threads": max(model.target.threads for model, _ in files), "files": told}
        limits = {"seconds": rounds.seconds, "least": rounds.least, "most": rounds.most, "warmup": rounds.warmup}
        job = Job("time", f"{rounds.label} of {names}", {**asked, **limits}, parcel)

        def checked(found: Rows) -> Rows:
            check_rows(found, len(files), rounds.least, self.jobs.seconds(job))
            return found

        job.check = checked
        answer: Rows = self._run(job)
        self.engine = answer.engine
        for model, _ in files:
            assert isinstance(model.session, PhoneSession)
            model.session.ran_by(answer.engine)
        return [_times(model, *each) for (model, _), each in zip(files, _columns(answer), strict=True)]

    def run(self, session: PhoneSession, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """The answer of the phone to (1, H, W, 3) uint8."""
        parcel: dict[str, bytes] = {}
        file = session.described(parcel) | {"images": [_packed(pixels[0], parcel)]}
        told = {"threads": session.target.threads, "files": [file]}
        label, manifest, shape = f"answer of {session.target.key}", session.manifest, pixels.shape
        job = Job("run", label, told, parcel, lambda body: unframed(body, manifest, shape))
        self.engine, outputs = self._run(job)
        session.ran_by(self.engine)
        return outputs

    def _run(self, job: Job) -> Any:
        with track(f"{NAME}: {job.label}", None) as advance:
            return self.jobs.run(job, advance)


class PhoneSession:
    """A model file in the phone's engine: see :class:`pocketvit.runtimes.Session`."""

    def __init__(self, phone: Phone, content: bytes, target: Target, manifest: Manifest) -> None:
        self.info = SessionInfo(ENGINE, "", target.precision, target.threads, NAME.upper(), {})
        self.inputs: Mapping[str, Port] = {x.name: Port(tuple(x.shape), x.dtype) for x in manifest.inputs}
        self.outputs: Mapping[str, Port] = {x.name: Port(tuple(x.shape), x.dtype) for x in manifest.outputs}
        self.target, self.manifest = target, manifest
        self._phone, self._content = phone, content
        self._sha256 = hashlib.sha256(content).hexdigest()

    def run(self, inputs: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
        """See :class:`pocketvit.runtimes.Session`. Raises PocketvitError too: the phone does not come or went away."""
        check_inputs(self.inputs, inputs)
        (pixels,) = inputs.values()
        return self._phone.run(self, pixels)

    def described(self, parcel: dict[str, bytes]) -> dict[str, Any]:
        """What the phone is told of the file, which is put into ``parcel``."""
        parcel[self._sha256] = self._content
        fields = {"schema_version", "name", "version", "task", "settings", "levels", "preprocess", "inputs", "outputs"}
        manifest = self.manifest.model_dump(mode="json", include=fields)
        name = {"name": self.target.key, "precision": self.target.precision}
        return {**name, "sha256": self._sha256, "bytes": len(self._content), "manifest": manifest}

    def ran_by(self, engine: Engine) -> None:
        """Note what the phone says of its engine."""
        coverage = {engine.backend.upper(): 1.0}
        self.info = replace(self.info, version=engine.version, threads=engine.threads, coverage=coverage)


def content_of(file: Path) -> bytes:
    """The ONNX model in a file, as a browser takes it.

    Raises:
        UsageError: it reads other files, which do not travel.
        VerificationError: a stored file is damaged.
    """
    if is_stored(file):
        return unpack(file)
    if others := external_files(file):
        what = f"{file}: reads {others[0]!r}, and a phone gets one file."
        raise UsageError(what, "Export the artifact again: its ONNX files hold their weights.")
    return file.read_bytes()


def _packed(image: Pixels, parcel: dict[str, bytes]) -> dict[str, Any]:
    content = np.ascontiguousarray(image).tobytes()
    digest = hashlib.sha256(content).hexdigest()
    parcel[digest] = content
    return {"sha256": digest, "height": image.shape[0], "width": image.shape[1]}


def _columns(rows: Rows) -> Iterator[tuple[list[float], list[float], list[float], list[float]]]:
    for times in rows.files:
        yield times.pre, times.infer, times.post, times.at


def _times(model: Model, pre: list[float], infer: list[float], post: list[float], at: list[float]) -> Times:
    """Raises VerificationError: the browser's clock does not resolve the times."""
    total = Timing(tuple(map(sum, zip(pre, infer, post, strict=True))))
    if total.p50 <= 0:
        what = f"{model.target.key}: is too fast for the clock of the phone's browser."
        raise VerificationError(what, "Time it on a larger image.")
    return Times(Timing(tuple(pre)), Timing(tuple(infer)), Timing(tuple(post)), total, tuple(at))


@contextmanager
def connect(contact: ContactConfig, notify: Notify) -> Iterator[Phone]:
    """Listen for a phone while the block runs; see :func:`pocketvit.bench.remote.connect`."""
    jobs, token = Jobs(contact.wait_seconds, notify), secrets.token_urlsafe(24)
    app = make_desk(Desk(jobs, token))
    with _listening(contact) as listener:
        tls = None if contact.tls == "none" else certificate_files(contact.tls, home_folder(), contact.host)
        with _served(app, listener, tls):
            for line in invitation(address_of(listener, contact.host, tls is not None), token, tls is not None):
                notify(line)
            try:
                yield Phone(jobs)
            finally:
                _say_farewell(jobs)


def make_desk(desk: Desk) -> FastAPI:
    """The application that a phone measures through."""
    app = FastAPI(title="pocketvit phone", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.desk = desk
    app.include_router(router)
    app.add_exception_handler(Exception, _refuse)
    app.add_exception_handler(Refusal, _refuse)
    app.add_exception_handler(RequestValidationError, _invalid)
    return app


def invitation(address: str, token: str, secure: bool) -> list[str]:
    """What to do on the phone, line by line."""
    lines = [f"Open this on the phone, in the same network, and keep it open: {address}#pair={token}"]
    if secure:
        lines.append(
            "The browser warns once of the certificate, which this machine has made itself: go on all the same."
        )
    return lines


def address_of(listener: socket.socket, host: str, secure: bool) -> str:
    """Where a phone in the same network finds the page."""
    bound, port = listener.getsockname()[:2]
    shown = host
    if host in ("", "0.0.0.0", "::"):
        shown = _own_address(bound)
    shown = f"[{shown}]" if ":" in shown else shown
    return f"{'https' if secure else 'http'}://{shown}:{port}/phone/"


def _own_address(bound: str) -> str:
    """This machine's address in its network: the one that it would speak to others from; nothing is sent."""
    if not ipaddress.ip_address(bound).is_unspecified:
        return bound
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # an address for documentation: RFC 5737
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"


@contextmanager
def _listening(contact: ContactConfig) -> Iterator[socket.socket]:
    try:
        context = listen(contact.host, contact.port)
        listener = context.__enter__()
    except UsageError as error:
        todo = "Take another host or port (contact.host, contact.port); port 0 takes any that is free."
        raise UsageError(error.what, todo) from error
    try:
        yield listener
    finally:
        context.__exit__(None, None, None)


@contextmanager
def _served(app: FastAPI, listener: socket.socket, tls: tuple[Path, Path] | None) -> Iterator[None]:
    """The application, answering from a thread of its own while the block runs."""
    config = uvicorn.Config(
        app, http=PatientProtocol, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
        proxy_headers=False, timeout_graceful_shutdown=1, ssl_certfile=tls and tls[0], ssl_keyfile=tls and tls[1],
    )  # fmt: skip
    server = uvicorn.Server(config)
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


def _say_farewell(jobs: Jobs) -> None:
    """Let the page hear that all is done before nobody answers any more."""
    jobs.close()
    if jobs.hello is not None:
        _wait(lambda: jobs.told_closed, FAREWELL_S)


def _wait(ready: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not ready() and time.monotonic() < end:
        time.sleep(0.02)


async def _refuse(request: Request, error: Exception) -> Response:
    refusal = refusal_of(error)
    return Response(refusal.body, refusal.status, refusal.headers, "application/json")


async def _invalid(request: Request, error: Exception) -> Response:
    return await _refuse(request, Refusal(400, "a parameter or header is wrong or missing."))
