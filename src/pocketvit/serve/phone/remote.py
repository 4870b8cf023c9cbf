"""A phone as a device that is not of this machine: :class:`pocketvit.bench.remote.Remote` by way of its browser.

``connect`` opens an address for the phone, in a thread of this process, and says what to do there. What has to be run
becomes jobs (:mod:`pocketvit.serve.phone.jobs`); statistics are made by the caller, from the raw times.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.bench.remote import Rounds, Times
from pocketvit.bench.timing import Timing
from pocketvit.errors import UsageError, VerificationError
from pocketvit.progress import track
from pocketvit.runtimes.model import Model
from pocketvit.runtimes.onnxfile import external_files
from pocketvit.runtimes.session import Port, SessionInfo, check_inputs
from pocketvit.runtimes.stored import is_stored, unpack
from pocketvit.serve.phone.app_files import find_app
from pocketvit.serve.phone.desk import farewell, invite, listening, make_desk, served
from pocketvit.serve.phone.jobs import Job, Jobs
from pocketvit.serve.phone.messages import Engine, Rows, check_rows, unframed
from pocketvit.serve.phone.routes_jobs import Desk
from pocketvit.spec.devices import ContactConfig
from pocketvit.spec.environment import environment
from pocketvit.spec.manifest import Manifest
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.target import Target

NAME, ENGINE = "phone", "onnxruntime-web"
Notify = Callable[[str], None]


class Phone:
    """The phone's browser. See :class:`pocketvit.bench.remote.Remote`."""

    memory_mb = 400.0

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
        manifest["variants"] = [self._variant()]
        return {"name": self.target.key, "sha256": self._sha256, "bytes": len(self._content), "manifest": manifest}

    def _variant(self) -> dict[str, Any]:
        """The one that runs there, with what the manifest knows of its memory: the page cuts tiles by it."""
        here = (self.target.runtime, self.target.precision)
        known = next((v for v in self.manifest.variants if (v.runtime, v.precision) == here), None)
        memory = known.memory.model_dump() if known is not None and known.memory is not None else None
        which = {"runtime": self.target.runtime, "precision": self.target.precision, "device": self.target.device}
        return {**which, "path": "model.onnx", "memory": memory}

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
    try:
        folder = find_app(contact.app)
    except UsageError as error:
        todo = "Run `make web` in a checkout (it needs Node.js), and name its web/dist with --contact.app elsewhere."
        raise UsageError(error.what, todo) from error
    app = make_desk(Desk(jobs, token), folder)
    with listening(contact) as (listener, tls), served(app, listener, tls):
        invite(listener, contact.host, token, secure=tls is not None)
        try:
            yield Phone(jobs)
        finally:
            farewell(jobs)
