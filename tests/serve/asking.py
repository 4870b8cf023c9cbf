"""For tests of the server: requests to an application in this process, and a server as a process of its own."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI
from PIL import Image

from pocketvit.runtimes.model import Model
from pocketvit.serve.http.http_app import make_app
from pocketvit.serve.http.served import Models, Served
from pocketvit.serve.options import Limits


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pixels_of(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server", timeout=60)


def ask(app: FastAPI, method: str, url: str, **request: Any) -> httpx.Response:
    """One request to an application, in a loop of its own."""

    async def once() -> httpx.Response:
        async with client(app) as http:
            return await http.request(method, url, **request)

    return asyncio.run(once())


async def chunks(*parts: bytes | float) -> AsyncIterator[bytes]:
    """A chunked body; numbers are seconds in which nothing comes."""
    for part in parts:
        if isinstance(part, bytes):
            yield part
        else:
            await asyncio.sleep(part)


class Gate:
    """A session that waits until ``open`` is set; ``entered`` counts who has come."""

    def __init__(self, session: Any) -> None:
        self.info, self.inputs, self.outputs, self._session = session.info, session.inputs, session.outputs, session
        self.open, self.entered = threading.Event(), threading.Semaphore(0)

    def run(self, inputs: Any) -> Any:
        self.entered.release()
        assert self.open.wait(60)
        return self._session.run(inputs)


def app_of(*models: Model, token: str | None = None, **limits: Any) -> FastAPI:
    return make_app(Models(map(Served.of, models)), Limits(**limits), token)


def gated(model: Model) -> tuple[Model, Gate]:
    gate = Gate(model.session)
    return replace(model, session=gate), gate


@dataclass
class Running:
    """A server process."""

    process: subprocess.Popen[str]
    url: str = ""
    lines: list[dict[str, Any]] = field(default_factory=list)
    """What it has logged."""
    other: list[str] = field(default_factory=list)
    """What it printed on standard error beside that."""

    def read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.other.append(line)
            if self.lines and self.lines[-1].get("event") == "listening":
                self.url = self.lines[-1]["url"]

    def terminate(self, seconds: float = 60) -> tuple[int, str]:
        """SIGTERM; exit code and what was printed."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(seconds)
        assert self.process.stdout is not None
        return code, self.process.stdout.read()


@contextmanager
def server(*args: str | Path) -> Iterator[Running]:
    """``pocketvit serve`` on a free port, until the block ends."""
    command = [sys.executable, "-m", "pocketvit.cli", "serve", *map(str, args), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, env=environment, **pipes)
    running = Running(process)
    reader = threading.Thread(target=running.read, daemon=True)
    reader.start()
    try:
        ends = time.monotonic() + 90
        while not running.url and process.poll() is None and time.monotonic() < ends:
            time.sleep(0.02)
        if not running.url:
            reader.join(5)
            raise AssertionError(f"no server: {process.poll()} {running.other}")
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)
        reader.join(10)
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
