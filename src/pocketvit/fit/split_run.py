"""Every way to share a network between a client and a server, tried in turns over a link that is really slow.

The server is a process of its own, as in use; the client is this one. A time covers a photo from its file to the
answer in the client's hands. What the server says that it took for itself is its part, the client's own work is timed
here, and the rest of the time went by on the link (and in the server's reading of the request).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from pocketvit.bench.link import Link, shaped
from pocketvit.bench.timing import Timing
from pocketvit.errors import PocketvitError
from pocketvit.runtimes.model import Model
from pocketvit.runtimes.parts import features_of, split_of
from pocketvit.serve.remote import TailServer
from pocketvit.spec.features import MEDIA, encode
from pocketvit.spec.images import read_image
from pocketvit.spec.preprocess import Pixels

PHOTO, SHRUNK, HERE = "photo", "shrunk", "here"
"""Ways without a cut: the file is sent as it is; the photo is sent at the model's size, as JPEG; nothing is sent."""
JPEG_QUALITY = 90
FEWEST = 5
"""Rounds, however long they take."""
_START_S = 120.0


@dataclass(frozen=True)
class Way:
    """How one photo gets its answer."""

    name: str
    """``photo``, ``shrunk``, ``here``, or ``block K``: the head ends behind that block."""
    client: Callable[[Path, Callable[[], None]], bytes | None]
    """(photo, to be called between network and encoding) to what is sent; ``None`` where the answer is here."""
    model: str = ""
    """Name of what answers on the server."""
    kind: str = "application/octet-stream"


@dataclass(frozen=True)
class Sample:
    """Of one photo; milliseconds."""

    bytes: int
    client: float
    """Reading, preprocessing and the client's part of the network."""
    encode: float
    """Quantising and deflating, or packing as JPEG."""
    link: float
    server: float
    total: float


def ways_of(whole: Model, heads: Sequence[Model]) -> list[Way]:
    """All ways there are, from everything on the server to everything here."""

    def shrunk(path: Path, encoding: Callable[[], None]) -> bytes:
        pixels = whole.prepare(path)
        encoding()
        return as_jpeg(pixels)

    def here(path: Path, encoding: Callable[[], None]) -> None:
        whole(path)

    def cut(head: Model) -> Callable[[Path, Callable[[], None]], bytes]:
        def client(path: Path, encoding: Callable[[], None]) -> bytes:
            features = features_of(head, read_image(path))
            encoding()
            return encode(features, split_of(head, "head"))

        return client

    name = whole.manifest.name
    found = [Way(PHOTO, lambda path, encoding: path.read_bytes(), name), Way(SHRUNK, shrunk, name, "image/jpeg")]
    for head in heads:
        tail = head.manifest.name.removesuffix("-head") + "-tail"
        found.append(Way(f"block {split_of(head, 'head').after}", cut(head), tail, MEDIA))
    return [*found, Way(HERE, here)]


def as_jpeg(pixels: Pixels) -> bytes:
    """(H, W, 3) uint8 as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def through_jpeg(whole: Model, image: Pixels) -> Pixels:
    """What a server gets of a photo that is sent shrunk."""
    return np.asarray(Image.open(io.BytesIO(as_jpeg(whole.prepare(image)))))


@contextmanager
def serving(folders: Sequence[Path], target: str) -> Iterator[tuple[str, int]]:
    """Host and port of ``pocketvit serve`` with these artifacts, in a process of its own that ends with the block.

    Raises:
        PocketvitError: it does not come up.
    """
    command = [sys.executable, "-P", "-m", "pocketvit.cli", "serve", *map(str, folders)]
    command += ["--port", "0", "--limits.workers", "1", "--target", target]
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(command, text=True, env=environment, **pipes)
    up, lines = threading.Event(), list[str]()
    url = list[str]()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            with contextlib.suppress(ValueError):
                if not url and (document := json.loads(line)).get("event") == "listening":
                    url.append(document["url"])
                    up.set()
            if not url:
                lines.append(line.strip())
        up.set()

    threading.Thread(target=read, daemon=True).start()
    try:
        up.wait(_START_S)
        if not url:
            said = next(filter(None, lines), "it said nothing")
            raise PocketvitError(f"the server did not come up ({said[:300].rstrip('.')}).", "Try `pocketvit serve`.")
        address = urlsplit(url[0])
        yield str(address.hostname), int(address.port or 0)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run_link(
    link: Link,
    server: tuple[str, int],
    task: str,
    ways: Sequence[Way],
    photos: Sequence[Path],
    *,
    seconds: float,
    advance: Callable[..., None] = lambda: None,
) -> dict[str, list[Sample]]:
    """All ways in turns (A B C A B C), a photo for each round, until ``seconds`` are over; one connection for all."""
    found: dict[str, list[Sample]] = {way.name: [] for way in ways}
    with shaped(link, *server) as port, contextlib.closing(TailServer(f"http://127.0.0.1:{port}")) as client:
        for way in ways:  # nothing is counted of the first round, in which engines and connection begin
            ask(way, client, task, photos[0])
        ends, number = time.monotonic() + seconds, 0
        while number < FEWEST or time.monotonic() < ends:
            for way in ways:
                found[way.name].append(ask(way, client, task, photos[number % len(photos)]))
            number += 1
            advance()
    return found


def ask(way: Way, client: TailServer, task: str, photo: Path) -> Sample:
    """One photo, one way."""
    marks: list[float] = []
    began = time.perf_counter()
    body = way.client(photo, lambda: marks.append(time.perf_counter()))
    ready = time.perf_counter()
    worked = marks[0] if marks else ready
    server = 0.0
    if body is not None:
        document: Mapping[str, Any] = client.ask(f"/v1/{task}?model={way.model}&format=json", body, way.kind)
        server = float(document["ms"])
    total = 1e3 * (time.perf_counter() - began)
    head, encoding = 1e3 * (worked - began), 1e3 * (ready - worked)
    return Sample(len(body or b""), head, encoding, total - head - encoding - server, server, total)


@dataclass(frozen=True)
class Timed:
    """Of one way over one link."""

    total: Timing
    client: Timing
    encode: Timing
    link: Timing
    server: Timing
    bytes: float
    """Mean of what is sent of a photo, without HTTP's headers."""

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Timed:
        """Over all photos."""
        parts = {name: Timing(tuple(getattr(x, name) for x in samples)) for name in PARTS}
        return cls(**parts, bytes=sum(x.bytes for x in samples) / len(samples))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {name: getattr(self, name).to_dict() for name in PARTS} | {"bytes": self.bytes}


PARTS = ("total", "client", "encode", "link", "server")


@dataclass(frozen=True)
class LinkResult:
    """All ways over one link."""

    link: Link
    ways: dict[str, Timed]
    best: str
    """The fastest of those that lose no more than the metric's tie."""
    equal: tuple[str, ...]
    """Others as good and, as far as the intervals of the medians tell, as fast."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        ways = {name: timed.to_dict() for name, timed in self.ways.items()}
        return {"link": vars(self.link), "ways": ways, "best": self.best, "equal": list(self.equal)}


def choose(ways: dict[str, Timed], good: set[str]) -> tuple[str, tuple[str, ...]]:
    """The way with the least median among the good ones, and those whose interval overlaps with its own."""
    ranked = sorted(good & set(ways), key=lambda name: ways[name].total.p50)
    best = ranked[0]
    end = ways[best].total.ci95[1]
    return best, tuple(name for name in ranked[1:] if ways[name].total.ci95[0] <= end)
