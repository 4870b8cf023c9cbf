"""Bodies that no client should send: random and damaged ones by the thousand, and a set that is hostile on purpose.

python benchmarks/serve_fuzz.py [--bodies 10000] [--seed 0] [--threads 4]

The server is one with everything: phone app, watching, corrections, updates (two versions are published meanwhile, and
one that must be refused), the tail of a split model; and beside it stands the desk that a phone measures through.

Random: bytes; photos with bytes flipped, cut, doubled or put elsewhere; documents of the Open Inference Protocol with
any value in any place, whole or damaged; forms; features; corrections; what phones post; each under a random content
type and path; and all other routes by any method, with any words in path, query and headers. Hostile: half a body, a
50-megapixel PNG, decompression bombs, deep and endless JSON, NaN, wrong lengths, bytes that are no HTTP. Every body
follows from ``--seed`` and its number. Printed are statuses. Exit code 1: a status of 500 and above that is not 503, an
answer that did not come, a server that died, or answers otherwise afterwards than before, or holds on to something.
"""

import argparse
import json
import random
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
from serve_routes import At, Request, asked, corrected, desk, featured, measured, send
from serving import Everything, Server, everything, packed, serving

from pocketvit.bench.memory import synthetic

TYPES = ("image/png", "image/jpeg", "application/octet-stream", "application/json", "text/plain", "multipart/form-data")
TYPES += ("multipart/form-data; boundary=b", "multipart/form-data; boundary=", "", "image/\x7f", "x" * 300)
INFER = "/v2/models/tiny-classify/infer"
CLASSIFY = "/v1/classify?model=tiny-classify"
PATHS = (CLASSIFY, "/v1/restore", f"{CLASSIFY}&format=png", INFER, "/v2/models/denoise-color/infer", "/v1/x")
PATHS += ("/v1/segment", "/v1/detect", "/v1/segment?format=values", "/v1/detect?format=png")
PATHS += ("/v2/models/cut1-tail/infer", "/v1/feedback?model=tiny-classify&label=red")
NO_ANSWER = 0
"""In place of a status: the server closed the connection without one."""
CALM_S, TAKEN_S = 20.0, 180.0
"""For what is still being done after the last answer, and for a version to be taken."""
VERSIONS = (("0.2.0", False), ("0.3.0", True), ("0.4.0", False))
"""Published meanwhile, and whether each must be refused."""


def damaged(content: bytes, rng: random.Random) -> bytes:
    """With a few bytes flipped, a piece cut out, doubled or overwritten; or only its beginning."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        if not data:
            break
        at, size = rng.randrange(len(data)), rng.choice((1, 1, 4, 16, 200))
        kind = rng.randrange(6)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + size] = rng.randbytes(size)
        elif kind == 2:
            del data[at : at + size]
        elif kind == 3:
            data[at:at] = data[at : at + size]
        elif kind == 4:
            data[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80\0\0\0"))
        else:
            del data[at:]
    return bytes(data)


def value(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON value, and some numbers that are none."""
    simple: list[Callable[[], Any]] = [
        lambda: None,
        lambda: rng.choice((True, False)),
        lambda: rng.choice((0, -1, 1, 255, 256, 2**31, 2**63, 10**30)),
        lambda: rng.choice((0.5, 1e308, float("nan"), float("inf"), -0.0)),
        lambda: rng.choice(("", "pixels", "UINT8", "\0", "\ud800", "x" * 2000, "💾")),
    ]
    if depth < 4 and rng.random() < 0.4:
        if rng.random() < 0.5:
            return [value(rng, depth + 1) for _ in range(rng.randint(0, 5))]
        return {rng.choice(("name", "data", "shape", "parameters", "x")): value(rng, depth + 1) for _ in range(3)}
    return rng.choice(simple)()


def document(rng: random.Random) -> bytes:
    """A request for tensors with something wrong in up to three places."""
    tensor: dict[str, Any] = {"name": "pixels", "shape": [1, 32, 32, 3], "datatype": "UINT8", "data": [7] * 3072}
    whole: dict[str, Any] = {"id": "1", "inputs": [tensor], "outputs": [{"name": "probs_fine"}]}
    for _ in range(rng.randint(0, 3)):
        outputs = whole.get("outputs")
        rows = [x for x in outputs if isinstance(x, dict)] if isinstance(outputs, list) else []
        place = rng.choice([whole, tensor, *rows])
        name = rng.choice(("id", "inputs", "outputs", "parameters", "name", "shape", "datatype", "data", "x"))
        if rng.random() < 0.3:
            place.pop(name, None)
        else:
            place[name] = value(rng)
        if not whole.get("outputs"):
            whole["outputs"] = [{"name": "probs_fine"}]
    return json.dumps(whole).encode("utf-8", "surrogatepass")


def made(number: int, seed: int, photos: list[bytes], whole: Everything) -> Request:
    """The request of this number."""
    rng = random.Random(f"{seed}-{number}")
    kind, path = rng.randrange(10), rng.choice(PATHS)
    if kind > 4:
        routes: list[Callable[[], Request]] = [lambda: asked(rng, whole)] * 2
        routes += [lambda: corrected(rng, photos, damaged), lambda: featured(rng, whole, damaged)]
        routes += [lambda: measured(rng, value, damaged)]
        return routes[kind - 5]()
    headers = {"Content-Type": rng.choice(TYPES)} if rng.random() < 0.9 else {}
    if kind == 0:
        body = rng.randbytes(rng.choice((0, 1, 10, 100, 5000)))
    elif kind == 1:
        body = damaged(rng.choice(photos), rng)
    elif kind == 2:
        body = document(rng)
    elif kind == 3:
        body = damaged(document(rng), rng)
    else:
        parts = [rng.choice(("image", "file", "x")).encode() + rng.choice((b'"; filename="a"', b'"')) for _ in range(2)]
        form = b"".join(
            b'--b\r\nContent-Disposition: form-data; name="' + part + b"\r\n\r\n" + rng.choice(photos) + b"\r\n"
            for part in parts[: rng.randint(0, 2)]
        )
        body = form + b"--b--\r\n" if rng.random() < 0.5 else damaged(form + b"--b--\r\n", rng)
    if rng.random() < 0.1:
        headers["Inference-Header-Content-Length"] = rng.choice(("0", "10", str(len(body)), "-1", "9" * 20, "x", "3e2"))
    if rng.random() < 0.05:
        headers["Content-Encoding"] = rng.choice(("gzip", "br", "identity"))
    headers = {name: text.replace("\x7f", "_") for name, text in headers.items()}
    return Request(path, body, headers)


def ask(server: Server, request: Request, at: At | None = None) -> tuple[int, bytes]:
    """Status and body of an answer; a request for the desk goes to ``at``."""
    if not request.desk:
        return send(server.host, server.port, request)
    assert at is not None
    filled = at.filled(request)
    status, text = send(at.host, at.port, filled)
    at.heard(filled, status, text)
    return status, text


def raw(server: Server, data: bytes) -> tuple[int, bytes]:
    """Bytes as they are; the status of what comes back."""
    try:
        with socket.create_connection((server.host, server.port), timeout=60) as connection:
            connection.sendall(data)
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
    except OSError as error:
        return NO_ANSWER, str(error).encode()
    answer = b"".join(parts)
    status = answer.split(b" ", 2)[1] if answer.startswith(b"HTTP/1.1 ") else b"0"
    return int(status), answer


def png(width: int, height: int, data: bytes, kind: bytes = b"\x08\x02") -> bytes:
    """A PNG of any stated size with these packed samples."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">II", width, height) + kind + b"\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def hostile(whole: Everything) -> dict[str, Request | bytes]:
    """What is hostile on purpose: requests, and bytes for a bare connection."""

    def at(path: str, body: bytes, kind: str = "application/octet-stream") -> Request:
        return Request(path, body, {"Content-Type": kind})

    def tensor(text: str) -> Request:
        head = '{"inputs": [{"name": "pixels", "shape": [1, 32, 32, 3], "datatype": "UINT8", "data": '
        return at(INFER, (head + text + "}]}").encode(), "application/json")

    form = "multipart/form-data; boundary=b"
    head = b"POST /v1/classify?model=tiny-classify HTTP/1.1\r\nHost: x\r\n"
    media, start, tail = "application/x-pocketvit-features", whole.features[:28], "/v1/classify?model=cut1-tail"

    def correction(*pictures: bytes) -> Request:
        names = (b"image", b"target")
        parts = (
            b'--b\r\nContent-Disposition: form-data; name="%b"; filename="a"\r\n\r\n%b\r\n' % pair
            for pair in zip(names, pictures, strict=False)
        )
        return at("/v1/feedback?model=denoise-color", b"".join(parts) + b"--b--\r\n", form)

    def posted(what: str, body: bytes) -> Request:
        headers = {"Authorization": "Bearer {token}", "X-Phone-Session": "{session}"}
        return Request(f"/phone/{what}", body, headers, desk=True)

    app = Request("/phone/", b"", {"Range": "bytes=" + ",".join(f"{i}-{i + 1}" for i in range(0, 60_000, 7))}, "GET")
    zeros = zlib.compress(bytes(8_000 * 3 + 1) * 6_250, 9)
    return {
        "50 megapixels, whole": at(CLASSIFY, png(8_000, 6_250, zeros)),
        "50 megapixels in 1 bit": at("/v1/restore", png(10_000, 5_000, zlib.compress(bytes(1251 * 5_000)), b"\x01\0")),
        "a bomb by its header": at("/v1/restore", png(2**31 - 1, 2**31 - 1, b"")),
        "more samples than stated": at("/v1/restore", png(8, 8, zlib.compress(bytes(100_000_000), 9))),
        "fewer samples than stated": at("/v1/restore", png(5_000, 5_000, zlib.compress(bytes(10)))),
        "a body above the limit": at("/v1/restore", bytes(40_000_000)),
        "zeros": at("/v1/restore", bytes(1_000_000)),
        "JSON of a million levels": at(INFER, b"[" * 1_000_000),
        "a tensor of a hundred thousand levels": tensor("[" * 100_000 + "]" * 100_000),
        "a tensor of two million empty lists": tensor("[" + "[]," * 2_000_000 + "[]]"),
        "a tensor of one long text and many short ones": tensor('["' + "x" * 5_000_000 + '"' + ',""' * 1_000_000 + "]"),
        "a tensor of NaN": tensor("[" + "NaN," * 3071 + "NaN]"),
        "a tensor of 1e999": tensor("[" + "1e999," * 3071 + "1e999]"),
        "a number of a million digits": tensor("[" + "9" * 1_000_000 + "]"),
        "too much JSON": at(INFER, b" " * 20_000_000),
        "a form of a hundred thousand parts": at(CLASSIFY, b"--b\r\n\r\n\r\n" * 100_000, form),
        "a form whose boundary repeats": at(CLASSIFY, b"--b" * 1_000_000, form),
        "features that are a bomb": at(tail, start + zlib.compress(bytes(200_000_000), 9), media),
        "features of no length": at(tail, start, media),
        "a correction of 50 megapixels": correction(png(8_000, 6_250, zeros), png(8, 8, b"")),
        "a correction by two headers": correction(png(2**31 - 1, 2**31 - 1, b""), png(2**31 - 1, 2**31 - 1, b"")),
        "a file in thousands of ranges": app,
        "a phone's outputs of 2 GB by their header": posted("jobs/{job}/outputs", b"\xff\xff\xff\x7f" + bytes(1000)),
        "a phone's rows of NaN": posted("jobs/{job}/rows", b'{"files": [' + b"NaN," * 500_000 + b"1]}"),
        "a phone's hello of many levels": posted("hello", b"[" * 60_000),
        "half a body": head + b"Content-Length: 1000\r\n\r\n" + bytes(500),
        "half a chunk": head + b"Transfer-Encoding: chunked\r\n\r\nffff\r\nabc",
        "a chunk of no size": head + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nabc",
        "a chunk of no size behind a refusal": head.replace(b"classify?", b"nothing?")
        + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nabc",
        "both lengths": head + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "a negative length": head + b"Content-Length: -5\r\n\r\n",
        "two lengths": head + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "a header of 1 MB": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        "half a head": b"POST /v1/clas",
    }  # fmt: skip


def check(server: Server, photo: bytes) -> tuple[int, bytes]:
    """What both models say of a photo, without the time that it took and the version that says it."""
    labels = json.loads(ask(server, Request(CLASSIFY, photo, {}))[1])
    kept = {name: found for name, found in labels.items() if name not in ("ms", "version")}
    status, picture = ask(server, Request("/v1/restore", photo, {}))
    return status, picture + json.dumps(kept).encode()


def is_wrong(status: int) -> bool:
    return status == NO_ANSWER or (status >= 500 and status != 503)


def told(server: Server, path: str) -> Any:
    return json.loads(send(server.host, server.port, Request(path, b"", {}, "GET"))[1])


class Fuzz:
    """A run against one server."""

    def __init__(self, server: Server, whole: Everything, at: At) -> None:
        self.server, self.whole, self.at, self.bad = server, whole, at, 0
        self.photos = [packed(synthetic((40, 48)), kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP")]
        self.process = psutil.Process(server.process.pid)
        self.before = check(server, self.photos[0])

    def fault(self, text: str) -> None:
        self.bad += 1
        print(text)

    def publish(self) -> None:
        """One version after the other, each once the one before is taken or refused."""
        for version, wrong in VERSIONS:
            self.whole.publish(version, wrong=wrong)
            ends = time.monotonic() + TAKEN_S
            while time.monotonic() < ends:
                (follows,) = told(self.server, "/v1/updates")
                if follows["refused"] if wrong else follows["version"] == version:
                    break
                time.sleep(0.5)

    def random(self, bodies: int, seed: int, clients: int) -> None:
        """All random bodies; meanwhile versions are published."""
        found, publisher = Counter[str](), threading.Thread(target=self.publish)
        publisher.start()
        with ThreadPoolExecutor(clients) as pool:
            requests = (made(number, seed, self.photos, self.whole) for number in range(bodies))
            answers = pool.map(lambda one: (one, *ask(self.server, one, self.at)), requests)
            for number, (one, status, text) in enumerate(answers):
                found[f"{'desk ' if one.desk else ''}{status}"] += 1
                if is_wrong(status):
                    said = f"{status or 'no answer'} {text[:200]!r}"
                    self.fault(f"body {number}: {one.method} {one.path[:200]!r} {one.headers} {said}")
        publisher.join()
        print(f"{bodies} random bodies: " + ", ".join(f"{k}: {n}" for k, n in sorted(found.items())))
        print("jobs of the desk: " + ", ".join(f"{k}: {n}" for k, n in sorted(self.at.ended.items())))

    def hostile(self) -> None:
        """What is hostile on purpose."""
        for title, one in hostile(self.whole).items():
            status, text = raw(self.server, one) if isinstance(one, bytes) else ask(self.server, one, self.at)
            wrong = is_wrong(status) and (status != NO_ANSWER or isinstance(one, Request))
            self.bad += wrong
            print(f"{title:46} {status or 'closed'}{'  WRONG ' + repr(text[:200]) if wrong else ''}")

    def held(self) -> tuple[int, int]:
        """Open files and threads of the server."""
        return self.process.num_fds(), self.process.num_threads()

    def after(self, held: tuple[int, int]) -> None:
        """Whether the server is as it was before."""
        ends, metrics = time.monotonic() + CALM_S, ""
        calm = ("pocketvit_requests_in_flight 1.0", "pocketvit_body_bytes 0.0", "pocketvit_queue_depth 0.0")
        while time.monotonic() < ends and not all(line in metrics for line in calm):
            time.sleep(0.5)
            metrics = send(self.server.host, self.server.port, Request("/metrics", b"", {}, "GET"))[1].decode()
        for line in calm:
            if line not in metrics:
                self.fault(f"{line.rpartition(' ')[0]} is not what it was before")
        (files, threads), memory = self.held(), self.process.memory_info().rss / 1e6
        print(f"open files {held[0]} before, {files} after; threads {held[1]} before, {threads} after; {memory:.0f} MB")
        if files > held[0] + 10 or threads > held[1] + 10:
            self.fault("the server holds on to files or threads")
        drift, (follows,) = told(self.server, "/v1/drift"), told(self.server, "/v1/updates")
        print(f"updates: {follows['version']} runs, {len(follows['refused'])} refused, error {follows['error']!r}")
        if (follows["version"], len(follows["refused"])) != (VERSIONS[-1][0], 1):
            self.fault("the versions that were published are not what runs")
        kept = ", ".join(f"{model['model']} {model['version']}: {model['requests']}" for model in drift["models"])
        print(f"watched: {kept}; left out {drift['dropped']}, failed {drift['failed']}")
        self.bad += drift["failed"]
        if check(self.server, self.photos[0]) != self.before or self.before[0] != 200:
            self.fault("the server answers otherwise than before")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bodies", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        whole = everything(Path(name))
        limits = ["--limits.body_seconds", "2", "--limits.workers", "2", "--target", "onnxruntime:fp32:1"]
        with (
            serving(whole.artifacts, [*limits, *whole.options], whole.folder) as server,
            desk(whole.restorer, whole.app) as at,
        ):
            fuzz = Fuzz(server, whole, at)
            held = fuzz.held()
            fuzz.random(options.bodies, options.seed, options.threads)
            fuzz.hostile()
            if server.process.poll() is None:
                fuzz.after(held)
                server.process.send_signal(signal.SIGTERM)
            code = server.process.wait(90)
            traces = [line for line in server.log.read_text().splitlines() if '"trace"' in line]
        print(f"the server ended with {code}; {len(traces)} traces in its log")
        print(*(json.loads(line)["trace"] for line in traces[:5]), sep="\n")
        return 0 if code == 0 and not fuzz.bad and not traces else 1


if __name__ == "__main__":
    sys.exit(main())
