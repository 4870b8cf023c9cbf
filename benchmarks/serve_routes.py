"""Requests for the routes of :mod:`serve_fuzz` beside photos and tensors: what they ask for, and how it is wrong.

``{session}``, ``{job}`` and ``{sha256}`` in a request are filled in when it is sent, with what the desk of
:func:`desk` has told last.
"""

import http.client
import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
from serving import Everything

from pocketvit.bench.remote import Rounds
from pocketvit.errors import PocketvitError
from pocketvit.runtimes.model import load
from pocketvit.serve.http.bodies import Bodies
from pocketvit.serve.phone.desk import listening, make_desk, served
from pocketvit.serve.phone.jobs import Jobs
from pocketvit.serve.phone.messages import Engine, framed
from pocketvit.serve.phone.remote import Phone
from pocketvit.serve.phone.routes_jobs import MOST_BODY, MOST_HELD, Desk
from pocketvit.spec.devices import ContactConfig

METHODS = ("GET",) * 12 + ("HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "FOO", "POST")
PLAIN = ("/v1/drift", "/v1/drift/page", "/v1/updates", "/v1/models", "/docs", "/openapi.json", "/metrics", "/v2", "/")
PLAIN += ("/v2/health/live", "/v2/health/ready", "/phone", "/phone/", "/phone/config.json", "/phone/sw.js")
SHAPED = ("/v2/models/{name}", "/v2/models/{name}/ready", "/v2/models/{name}/versions/{version}")
SHAPED += ("/v2/models/{name}/versions/{version}/ready", "/phone/models/{name}/channel.json", "/phone/{file}")
SHAPED += ("/phone/models/{name}/{version}/files/{file}",) * 3
ODD = ("", "..", "../..", "\0", "x" * 3000, "%", "é", "💾", "a/b", "a b", "?", "#", "None", "-1", "\n", "+", ";", "/")
FILES = ("manifest.json", "model.onnx", "golden.npz", "card.md", "tail.onnx", "../manifest.json", "/etc/passwd")
RANGES = (
    "bytes=0-10",
    "bytes=-5",
    "bytes=9-3",
    "bytes=0-0,2-3,5-",
    "bytes=99999999999-",
    "bytes=a-b",
    "lines=1-2",
    "x",
)
NUMBERS = ("0", "1", "5", "-1", "1001", "1e3", "nan", "inf", "0.5", "2", "", "x", "9" * 400, "1,2", "٣")
LABELS = ("red", "blue", "warm/red", "cold/red", "/", "", "no such", "x" * 5000, "\0", "é")
DESK = ("hello", "jobs/next?wait=", "jobs/{job}/files/{sha256}", "jobs/{job}/progress", "jobs/{job}/error")
DESK += ("jobs/{job}/rows", "jobs/{job}/outputs", "jobs/{job}/outputs", "jobs/{job}/nothing", "", "index.html")
ENGINE: dict[str, Any] = {"name": "onnxruntime-web", "version": "1.30", "backend": "wasm", "threads": 1, "simd": True}
Value = Callable[[random.Random], Any]
Damage = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Request:
    path: str
    body: bytes
    headers: dict[str, str]
    method: str = "POST"
    desk: bool = False
    """For the desk that a phone measures through, and not for the server of models."""


def asked(rng: random.Random, whole: Everything) -> Request:
    """A request for one of the routes that take no body, by any method and with any words in its path."""
    words = {"name": whole.names, "version": ("0.1.0", "0.1.1", "1.0.0"), "file": FILES}
    path = rng.choice(PLAIN if rng.random() < 0.4 else SHAPED)
    for word, usual in words.items():
        chosen = rng.choice(ODD if rng.random() < 0.2 else usual)
        path = path.replace(f"{{{word}}}", quote(chosen, safe=rng.choice(("", "/"))))
    if rng.random() < 0.3:
        path += f"?{query(rng, whole)}"
    headers = {"Range": rng.choice(RANGES)} if rng.random() < 0.3 else {}
    if rng.random() < 0.1:
        headers |= {"If-Range": rng.choice(('"x"', "x", "")), "If-None-Match": "*", "If-Modified-Since": "never"}
    if rng.random() < 0.1:
        headers["Accept"] = rng.choice(("application/json;q=nan", ",", "*/*;q=0", "x" * 3000, "text/html"))
    return Request(path, rng.randbytes(rng.choice((0, 0, 0, 50))), headers, rng.choice(METHODS))


def query(rng: random.Random, whole: Everything) -> str:
    """Parameters of any route, with any values."""
    values = {"model": whole.names, "version": ("0.1.0", "1.0.0"), "format": ("json", "png", "values"), "label": LABELS}
    values |= {"top": NUMBERS, "strength": NUMBERS, "wait": ("0", "nan", "-1", "1e9"), "x": ODD}
    names = rng.sample(sorted(values), rng.randint(1, 4))
    return urlencode([(name, rng.choice(ODD if rng.random() < 0.2 else values[name])) for name in names])


def corrected(rng: random.Random, photos: list[bytes], damage: Damage) -> Request:
    """A correction, most often with something wrong."""
    parts = [("image", rng.choice(photos))] if rng.random() < 0.9 else []
    parts += [
        (rng.choice(("target", "target", "image", "x")), rng.choice(photos)) for _ in range(rng.choice((0, 0, 1)))
    ]
    disposition = b'--b\r\nContent-Disposition: form-data; name="%b"; filename="a.png"\r\n\r\n%b\r\n'
    body = b"".join(disposition % (name.encode(), content) for name, content in parts) + b"--b--\r\n"
    model = rng.choice(("tiny-classify", "tiny-classify", "denoise-color", "cut1-tail", "x"))
    given = {"model": model, "label": rng.choice(LABELS), "version": "0.1.0"}
    kept = {name: value for name, value in given.items() if rng.random() < (0.95 if name == "model" else 0.6)}
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    return Request(f"/v1/feedback?{urlencode(kept)}", damage(body, rng) if rng.random() < 0.3 else body, headers)


def featured(rng: random.Random, whole: Everything, damage: Damage) -> Request:
    """Features for the tail, whole or damaged, to it or to another model."""
    kind, split = "application/x-pocketvit-features", whole.features[4:20].hex()
    kind += rng.choice(("", f"; split={split}", f'; split="{split}"', "; split=", "; split=00", "; x=y"))
    path = "/v1/classify" + rng.choice(("", "?model=cut1-tail", "?model=tiny-classify", "?format=png", "?top=3"))
    body = whole.features if rng.random() < 0.3 else damage(whole.features, rng)
    return Request(path, body, {"Content-Type": kind})


@dataclass
class At:
    """Where the desk is, and what it told last."""

    host: str
    port: int
    token: str
    session: str = ""
    job: str = ""
    sha256: str = ""
    ended: dict[str, int] = field(default_factory=dict)
    """How jobs ended, and how often."""

    def filled(self, one: Request) -> Request:
        """With session, job and file as they are now."""
        headers = {name: self._fill(text) for name, text in one.headers.items()}
        return Request(self._fill(one.path), one.body, headers, one.method, True)

    def _fill(self, text: str) -> str:
        now = {
            "{session}": self.session,
            "{job}": self.job or "0",
            "{sha256}": self.sha256 or "0",
            "{token}": self.token,
        }
        for mark, value in now.items():
            text = text.replace(mark, value)
        return text

    def heard(self, one: Request, status: int, text: bytes) -> None:
        """What an answer tells."""
        if one.path.endswith("/hello") and status == 200:
            self.session = json.loads(text)["session"]
        if "/jobs/next" in one.path and status == 200:
            job = json.loads(text)
            self.job, self.sha256 = job["id"], job["files"][0]["sha256"]


def measured(rng: random.Random, value: Value, damage: Damage) -> Request:
    """What a phone might send to the desk, with something wrong in most of it."""
    name = rng.choice(DESK)
    what = name.rpartition("/")[2]
    if name.endswith("="):
        name += rng.choice(("0", "0.01", "0.05", "-1", "nan", "inf", "1e9", "x", ""))
    said = _message(what, rng, value)
    body = said if isinstance(said, bytes) else json.dumps(said).encode("utf-8", "surrogatepass")
    body = damage(body, rng) if rng.random() < 0.2 else body
    headers = {"Authorization": "Bearer {token}", "X-Phone-Session": "{session}", "Content-Type": "application/json"}
    if rng.random() < 0.1:
        headers[rng.choice(sorted(headers))] = rng.choice(("", "x", "Bearer", "Bearer  x", "é", "y" * 600))
    method = "GET" if what in ("", "index.html", "{sha256}") or "next" in what else "POST"
    method = rng.choice(METHODS) if rng.random() < 0.05 else method
    return Request(f"/phone/{name}", body, headers, method, True)


def _message(what: str, rng: random.Random, value: Value) -> Any:
    engine, count = dict(ENGINE), rng.choice((1, 5, 40))
    times = {name: [0.1 * i for i in range(count)] for name in ("pre", "infer", "post", "at")}
    whole: dict[str, Any] = {
        "hello": {"phone": "0123456789abcdef", "user_agent": "fuzz", "cores": 4, "isolated": True},
        "progress": {"done": rng.randint(0, 9), "note": "n"},
        "error": {"kind": rng.choice(("memory", "download", "other")), "text": "t"},
        "rows": {"engine": engine, "files": [times]},
        "outputs": {"engine": engine, "outputs": [["restored", [1, 48, 64, 3]]]},
    }.get(what, {})
    place: Any = whole
    for _ in range(rng.choice((0, 0, 1, 1, 2)) if whole else 0):
        inner = [x for x in place.values() if isinstance(x, dict)]
        place = rng.choice([place, *inner])
        if place:
            place[rng.choice([*place, "x"])] = value(rng)
    if what != "outputs":
        return whole
    if rng.random() < 0.3:
        return framed(Engine(**ENGINE), {"restored": np.zeros((1, 48, 64, 3), np.float32)})
    head = json.dumps(whole).encode("utf-8", "surrogatepass")
    return len(head).to_bytes(4, "little") + head + bytes(rng.choice((0, 4, 36864, 36860)))


@contextmanager
def desk(artifact: Path, app: Path) -> Iterator[At]:
    """The server that a phone measures through, with jobs that follow one another until the block ends."""
    token, stop = "the-token-of-this-address", threading.Event()
    jobs, contact = Jobs(3600, lambda text: None), ContactConfig("127.0.0.1", 0, "none")
    made = make_desk(Desk(jobs, token, Bodies(MOST_BODY, MOST_HELD, 2.0)), app)
    with listening(contact) as (listener, tls), served(made, listener, tls):
        at = At("127.0.0.1", listener.getsockname()[1], token)
        worker = threading.Thread(target=_jobs, args=(artifact, Phone(jobs), at, stop), daemon=True)
        worker.start()
        try:
            yield at
        finally:
            stop.set()
            jobs.close()


def _jobs(artifact: Path, phone: Phone, at: At, stop: threading.Event) -> None:
    here = load(str(artifact))
    there = phone.open(here.file, here.target, here.manifest)
    rounds, pixels = Rounds(0.1, 1, 5, 0), np.zeros((1, 48, 64, 3), np.uint8)
    turn = 0
    while not stop.is_set():
        turn += 1
        try:
            if turn % 2:
                there.run({"pixels": pixels})
            else:
                phone.time([(replace(here, session=there), [pixels[0]])], rounds)
            end = "answered"
        except PocketvitError as error:
            end = type(error).__name__
        at.ended[end] = at.ended.get(end, 0) + 1


def send(host: str, port: int, one: Request, seconds: float = 120) -> tuple[int, bytes]:
    """Status and body of the answer; status 0 where the server closed the connection without one."""
    connection = http.client.HTTPConnection(host, port, timeout=seconds)
    try:
        connection.request(one.method, one.path, one.body, {k: v.encode() for k, v in one.headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        return 0, f"{type(error).__name__}: {error}".encode()
    finally:
        connection.close()
