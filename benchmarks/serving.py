"""A server process for the benchmarks of serving, and the artifacts and photos that they ask about."""

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
START_S = 120.0


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[str]
    host: str
    port: int
    log: Path


@contextmanager
def serving(artifacts: Sequence[str | Path], options: Sequence[str], folder: Path) -> Iterator[Server]:
    """``pocketvit serve`` on a free port; its log is a file in ``folder``. It is killed where it has not ended."""
    log = folder / "server.log"
    command = [sys.executable, "-m", "pocketvit.cli", "serve", *map(str, artifacts), "--port", "0", *options]
    with log.open("w") as sink:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sink, text=True)
    try:
        yield Server(process, *_address(process, log), log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(60)


def _address(process: subprocess.Popen[str], log: Path) -> tuple[str, int]:
    ends = time.monotonic() + START_S
    while time.monotonic() < ends and process.poll() is None:
        first, newline, _ = log.read_text().partition("\n")
        if newline:
            found = urlsplit(json.loads(first)["url"])
            return str(found.hostname), int(found.port or 0)
        time.sleep(0.05)
    raise SystemExit(f"the server did not start:\n{log.read_text()[-2000:]}")


def tiny_classifier(folder: Path) -> Path:
    """An artifact that looks at mean colours; the tests' own."""
    sys.path.insert(0, str(ROOT))
    from tests.tiny import make_tiny_artifact

    return make_tiny_artifact(folder / "tiny-classify", "classify").path


def packed(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()
