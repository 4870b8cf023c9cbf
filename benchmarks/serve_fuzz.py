"""Bodies that no client should send: random and damaged ones by the thousand, and a set that is hostile on purpose.

python benchmarks/serve_fuzz.py [--bodies 10000] [--seed 0] [--threads 4]

Random: bytes; photos with bytes flipped, cut, doubled or put elsewhere; documents of the Open Inference Protocol with
any value in any place, whole or damaged; forms; each under a random content type and path. Hostile: half a body, a
50-megapixel PNG, decompression bombs, deep and endless JSON, NaN, wrong lengths, bytes that are no HTTP. Every body
follows from ``--seed`` and its number. Printed are statuses. Exit code 1: a status of 500 and above that is not 503, an
answer that did not come, a server that died, or one that answers otherwise afterwards than before.
"""

import argparse
import http.client
import json
import random
import socket
import struct
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving import Server, packed, serving, tiny_classifier

from pocketvit.bench.memory import synthetic

TYPES = ("image/png", "image/jpeg", "application/octet-stream", "application/json", "text/plain", "multipart/form-data")
TYPES += ("multipart/form-data; boundary=b", "multipart/form-data; boundary=", "", "image/\x7f", "x" * 300)
INFER = "/v2/models/tiny-classify/infer"
PATHS = ("/v1/classify", "/v1/restore", "/v1/classify?format=png", INFER, "/v2/models/denoise-color/infer", "/v1/x")
NO_ANSWER = 0
"""In place of a status: the server closed the connection without one."""


@dataclass(frozen=True)
class Request:
    path: str
    body: bytes
    headers: dict[str, str]


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


def made(number: int, seed: int, photos: list[bytes]) -> Request:
    """The request of this number."""
    rng = random.Random(f"{seed}-{number}")
    kind, path = rng.randrange(5), rng.choice(PATHS)
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


def ask(server: Server, request: Request) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=120)
    try:
        connection.request("POST", request.path, request.body, request.headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        return NO_ANSWER, f"{type(error).__name__}: {error}".encode()
    finally:
        connection.close()


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


def hostile() -> dict[str, Request | bytes]:
    """What is hostile on purpose: requests, and bytes for a bare connection."""

    def at(path: str, body: bytes, kind: str = "application/octet-stream") -> Request:
        return Request(path, body, {"Content-Type": kind})

    def tensor(text: str) -> Request:
        head = '{"inputs": [{"name": "pixels", "shape": [1, 32, 32, 3], "datatype": "UINT8", "data": '
        return at(INFER, (head + text + "}]}").encode(), "application/json")

    form = "multipart/form-data; boundary=b"
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\n"
    zeros = zlib.compress(bytes(8_000 * 3 + 1) * 6_250, 9)
    return {
        "50 megapixels, whole": at("/v1/classify", png(8_000, 6_250, zeros)),
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
        "a form of a hundred thousand parts": at("/v1/classify", b"--b\r\n\r\n\r\n" * 100_000, form),
        "a form whose boundary repeats": at("/v1/classify", b"--b" * 1_000_000, form),
        "half a body": head + b"Content-Length: 1000\r\n\r\n" + bytes(500),
        "half a chunk": head + b"Transfer-Encoding: chunked\r\n\r\nffff\r\nabc",
        "a chunk of no size": head + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nabc",
        "both lengths": head + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "a negative length": head + b"Content-Length: -5\r\n\r\n",
        "two lengths": head + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "a header of 1 MB": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        "half a head": b"POST /v1/clas",
    }  # fmt: skip


def check(server: Server, photo: bytes) -> tuple[int, bytes]:
    """What both models say of a photo, without the time that it took."""
    labels = json.loads(ask(server, Request("/v1/classify", photo, {}))[1])
    labels.pop("ms", None)
    status, picture = ask(server, Request("/v1/restore", photo, {}))
    return status, picture + json.dumps(labels).encode()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bodies", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=4)
    options = parser.parse_args()
    photos = [packed(synthetic((40, 48)), kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP")]
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        limits = ["--limits.body_seconds", "2", "--limits.workers", "2", "--target", "onnxruntime:fp32:1"]
        with serving(["denoise-color", tiny_classifier(folder)], limits, folder) as server:
            before, found = check(server, photos[0]), Counter[int]()
            with ThreadPoolExecutor(options.threads) as pool:
                requests = (made(number, options.seed, photos) for number in range(options.bodies))
                for number, (status, text) in enumerate(pool.map(lambda one: ask(server, one), requests)):
                    found[status] += 1
                    if status == NO_ANSWER or (status >= 500 and status != 503):
                        bad += 1
                        print(f"body {number}: {status or 'no answer'} {text[:200]!r}")
            print(f"{options.bodies} random bodies: " + ", ".join(f"{k}: {n}" for k, n in sorted(found.items())))
            for title, one in hostile().items():
                status, text = raw(server, one) if isinstance(one, bytes) else ask(server, one)
                wrong = (status >= 500 and status != 503) or (status == NO_ANSWER and isinstance(one, Request))
                bad += wrong
                print(f"{title:46} {status or 'closed'}{'  WRONG ' + repr(text[:200]) if wrong else ''}")
            same = check(server, photos[0]) == before and before[0] == 200
            alive = server.process.poll() is None
        print(f"the server {'is alive' if alive else 'DIED'} and answers {'as before' if same else 'OTHERWISE'}")
    return 0 if alive and same and not bad else 1


if __name__ == "__main__":
    sys.exit(main())
