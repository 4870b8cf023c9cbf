"""Small videos for tests, made with PyAV, and a model that needs no file."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np

from pocketvit.spec.preprocess import Pixels


def picture(index: int, height: int = 48, width: int = 64) -> Pixels:
    """A slope of red with a white bar that moves to the right, one column for each frame."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, :, 0] = np.linspace(60, 200, width)
    pixels[:, :, 2] = 90
    pixels[:, index % (width - 8) : index % (width - 8) + 8] = 255
    return pixels


def write_video(
    path: Path, count: int = 30, fps: float = 25, size: tuple[int, int] = (48, 64), form: str | None = None
) -> Path:
    """``count`` frames of :func:`picture`, H.264."""
    options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", format=form, options=options) as container:
        stream: Any = container.add_stream(
            "libx264", rate=Fraction(fps), options={"preset": "ultrafast", "tune": "zerolatency", "g": "10"}
        )
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for index in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def read_video(path: Path) -> tuple[list[Pixels], list[float]]:
    """All frames of a file, and the seconds at which they are shown."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.to_ndarray(format="rgb24") for frame in frames], [float(frame.time or 0) for frame in frames]


class FakeModel:
    """What ``load`` gives, around a function from pixels to an answer; takes at least ``seconds`` for each."""

    def __init__(self, task: str, answer: Callable[[Pixels], Any], seconds: float = 0.0) -> None:
        self.manifest = SimpleNamespace(name="fake", task=task, strength=None)
        self.target = SimpleNamespace(key="onnxruntime:fp32")
        self.answer, self.seconds = answer, seconds
        self.strengths: list[float | None] = []

    def __call__(self, pixels: Pixels, *, strength: float | None = None) -> Any:
        self.strengths.append(strength)
        time.sleep(self.seconds)
        return self.answer(pixels)


@contextmanager
def tcp_server(parts: list[bytes], pause: float = 0.0) -> Iterator[str]:
    """An address that gives one caller after the other one of ``parts``, in pieces, and then hangs up."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(20)

    def work() -> None:
        for part in parts:
            try:
                caller, _ = server.accept()
                with caller:
                    for at in range(0, len(part), 4096):
                        caller.sendall(part[at : at + 4096])
                        time.sleep(pause)
            except OSError:
                continue
        server.close()  # who comes later is refused

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.close()
        thread.join(5)
