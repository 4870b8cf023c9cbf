"""A phone of a test: speaks the protocol of the page and runs the files in ONNX Runtime of this process."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import onnxruntime
import pytest

from pocketvit.serve.phone import remote
from pocketvit.serve.phone.messages import Engine, framed
from pocketvit.spec.devices import ContactConfig

ENGINE = {"name": "onnxruntime-web", "version": "1.30.0", "backend": "wasm", "threads": 1, "simd": True}
HELLO = {"phone": "0123456789abcdef", "user_agent": "FakePhone/1.0 (test)", "cores": 8, "isolated": True}


def address_in(url: str) -> tuple[str, str]:
    """Address of the server, and the token of an address that was printed."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/phone/", parts.fragment.removeprefix("pair=")


class FakePhone:
    """``bend`` may change what is posted: (path's last word, content) -> content; None posts nothing."""

    def __init__(self, url: str, bend: Callable[[str, Any], Any] = lambda what, content: content) -> None:
        base, token = address_in(url)
        self.http = httpx.Client(base_url=base, timeout=30, headers={"Authorization": f"Bearer {token}"})
        self.bend, self.jobs, self.ended = bend, list[dict[str, Any]](), ""
        self.stop = threading.Event()
        self.hello = dict(HELLO)

    def greet(self) -> None:
        answer = self.http.post("hello", json=self.hello)
        answer.raise_for_status()
        self.http.headers["X-Phone-Session"] = answer.json()["session"]

    def next(self, wait: float = 1.0) -> dict[str, Any] | None:
        answer = self.http.get("jobs/next", params={"wait": wait})
        answer.raise_for_status()
        return None if answer.status_code == 204 else answer.json()

    def live(self) -> None:
        """Until all is done, or :attr:`stop`."""
        try:
            self.greet()
            while not self.stop.is_set():
                job = self.next()
                if job is not None:
                    self.jobs.append(job)
                    self.work(job)
        except httpx.HTTPStatusError as error:
            self.ended = f"{error.response.status_code} {error.response.json()['error']}"

    def work(self, job: dict[str, Any]) -> None:
        if job["kind"] == "run":
            (file,) = job["files"]
            self.post(job, "outputs", framed(Engine(**ENGINE), self.answers(job, file)))
            return
        n = job["least"] + 1
        files = [
            {"pre": [0.001] * n, "infer": [0.010 * k] * n, "post": [0.0] * n, "at": [float(i) for i in range(n)]}
            for k, _ in enumerate(job["files"], 1)
        ]
        self.post(job, "rows", {"engine": ENGINE, "files": files})

    def answers(self, job: dict[str, Any], file: dict[str, Any]) -> dict[str, np.ndarray]:
        content = self.file(job, file["sha256"])
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        image = file["images"][0]
        pixels = np.frombuffer(self.file(job, image["sha256"]), np.uint8)
        names = [each.name for each in session.get_outputs()]
        pixels = pixels.reshape(1, image["height"], image["width"], 3)
        return dict(zip(names, session.run(names, {"pixels": pixels}), strict=True))

    def file(self, job: dict[str, Any], sha256: str) -> bytes:
        content = self.http.get(f"jobs/{job['id']}/files/{sha256}").raise_for_status().content
        assert hashlib.sha256(content).hexdigest() == sha256
        return content

    def post(self, job: dict[str, Any], what: str, content: Any) -> httpx.Response | None:
        content = self.bend(what, content)
        if content is None:
            return None
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        answer = self.http.post(f"jobs/{job['id']}/{what}", content=body)
        answer.raise_for_status()
        return answer


class Invited:
    """In place of what is printed: a phone comes as soon as there is an address."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, bend: Callable[[str, Any], Any]) -> None:
        self.url, self.phone, self.bend, self.comes = "", FakePhone("http://nowhere/#"), bend, True
        self.work: Callable[[dict[str, Any]], None] | None = None
        """What the phone does with its jobs, where it is not what they ask for."""
        (folder / "index.html").write_text("<title>page</title>", encoding="utf-8")
        self.contact = ContactConfig("127.0.0.1", 0, "none", app=str(folder), wait_seconds=60)
        monkeypatch.setattr(remote, "invite", self._invite)

    def _invite(self, listener: Any, host: str, token: str, *, secure: bool) -> None:
        port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/phone/#pair={token}"
        self.phone = FakePhone(self.url, self.bend)
        if self.work is not None:
            self.phone.work = self.work  # type: ignore[method-assign]
        if self.comes:
            threading.Thread(target=self.phone.live, daemon=True).start()
