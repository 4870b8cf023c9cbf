"""A local HTTP server whose answers are planned, one for each request; the last one of the plan is repeated."""

from __future__ import annotations

import io
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

from tests.bad_images import photo

Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


class Server(ThreadingHTTPServer):
    """Serves ``content`` under every name."""

    daemon_threads = True

    def __init__(self, content: bytes, *plan: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.plan = content, list(plan) or [serve()]
        self.asked: list[dict[str, str]] = []
        """Headers of every request."""
        self.most_open = 0
        self.lock = threading.Lock()
        self.busy = set[object]()
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 20

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.asked.append({"path": self.path, **self.headers})
            answer = self.server.plan.pop(0) if len(self.server.plan) > 1 else self.server.plan[0]
            self.server.busy.add(self)
            self.server.most_open = max(self.server.most_open, len(self.server.busy))
        try:
            answer(self, self.server.content)
        except OSError:
            pass  # the client went away
        finally:
            self.left()

    def left(self) -> None:
        with self.server.lock:
            self.server.busy.discard(self)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(content: bytes, *plan: Answer) -> Iterator[Server]:
    server = Server(content, *plan)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def serve(
    *,
    tag: str | None = '"one"',
    ranges: bool = True,
    send: int | None = None,
    length: int | None = None,
    pause: float = 0.0,
    chunk: int = 1 << 16,
    kind: str = "application/zip",
    body: bytes | None = None,
) -> Answer:
    """The file or the rest of it; ``send`` bytes of it and then the end, ``length`` announced, ``pause`` per chunk."""

    def answer(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        content = content if body is None else body
        asked, start = handler.headers.get("Range"), 0
        if asked and ranges and handler.headers.get("If-Range") in (None, tag):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content) > 0:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(content)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if length != -1:
            handler.send_header("Content-Length", str(len(content) - start if length is None else length))
        handler.send_header("Content-Type", kind)
        if tag:
            handler.send_header("ETag", tag)
        handler.end_headers()
        rest = content[start:] if send is None else content[start : start + send]
        for i in range(0, len(rest), chunk):
            time.sleep(pause if i else 0)
            if i + chunk >= len(rest):
                handler.left()  # type: ignore[attr-defined]
            handler.wfile.write(rest[i : i + chunk])
            handler.wfile.flush()
        time.sleep(pause if send else 0)

    return answer


def status(code: int, **headers: str) -> Answer:
    """An answer without a file."""

    def answer(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def hang(seconds: float = 20) -> Answer:
    """No answer at all."""
    return lambda handler, content: time.sleep(seconds)


def archive(members: dict[str, bytes | None], **options: int) -> bytes:
    """A zip archive; ``None`` makes a folder."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, content in members.items():
            made.writestr(zipfile.ZipInfo(name if content is not None else f"{name}/"), content or b"", **options)
    return file.getvalue()


def png(seed: int = 0, side: int = 40) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo(side, side, seed)).save(file, "png")
    return file.getvalue()


def sidd(scenes: int = 2, above: str = "SIDD_Small_sRGB_Only/", side: int = 40) -> bytes:
    """An archive as that of SIDD-Small."""
    members: dict[str, bytes | None] = {f"{above}Scene_Instances.txt": b"0001\n", "__MACOSX/Data/x": b"x"}
    for i in range(scenes):
        folder = f"{above}Data/{i:04}_001_S6_00100_00060_3200_L"
        members[f"{folder}/GT_SRGB_010.PNG"] = png(2 * i, side)
        members[f"{folder}/NOISY_SRGB_010.PNG"] = png(2 * i + 1, side)
    return archive(members)


def gopro() -> bytes:
    """An archive as that of GoPro."""
    sides = ("blur", "blur_gamma", "sharp")
    parts = {"train": ("GOPR0372_07_00", "GOPR0374_11_00"), "test": ("GOPR0384_11_00",)}
    names = [f"GOPRO_Large/{part}/{s}/{side}/000001.png" for part in parts for s in parts[part] for side in sides]
    return archive({name: png(i) for i, name in enumerate(names)})
