"""What a phone may ask and post: token, session, limits, and messages that are refused in words."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from pocketvit.serve.http.refusal import Refusal
from pocketvit.serve.phone import routes_jobs
from pocketvit.serve.phone.desk import make_desk
from pocketvit.serve.phone.jobs import Job, Jobs
from pocketvit.serve.phone.messages import Engine, Rows, check_rows, framed, unframed
from pocketvit.serve.phone.routes_jobs import Desk
from pocketvit.spec.manifest import Manifest
from tests.tiny import make_tiny_artifact

from .fake import ENGINE, HELLO

TOKEN = "a-token-of-the-tests"


class Asked:
    """Requests to a desk on which one job lies."""

    def __init__(self, folder: Path, job: Job) -> None:
        (folder / "index.html").write_text("<title>page</title>", encoding="utf-8")
        self.jobs, self.job = Jobs(30.0, lambda line: None), job
        self.app: FastAPI = make_desk(Desk(self.jobs, TOKEN), folder)
        self.headers = {"Authorization": f"Bearer {TOKEN}"}
        self.found: list[Any] = []
        threading.Thread(target=lambda: self.found.append(self.jobs.run(job)), daemon=True).start()

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None, **request: Any) -> httpx.Response:
        async def once() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://here/phone") as http:
                return await http.request(method, path, headers=self.headers | (headers or {}), **request)

        return asyncio.run(once())

    def take(self) -> None:
        """Say hello and get the job."""
        self.headers["X-Phone-Session"] = self.ask("POST", "/hello", json=HELLO).json()["session"]
        assert self.ask("GET", "/jobs/next?wait=5").json()["id"] == self.job.id

    def post(self, what: str, body: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask("POST", f"/jobs/{self.job.id}/{what}", content=content)


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    job = Job("time", "timing", {}, {"abc": b"content"})
    job.check = lambda rows: check_rows(rows, 1, 2, 10.0) or rows
    found = Asked(tmp_path, job)
    yield found
    found.job.failed = found.job.failed or routes_jobs.Failed(kind="other", text="the test is over")


def rows(**changed: Any) -> dict[str, Any]:
    times = {"pre": [0.0, 0.1], "infer": [5.0, 6], "post": [1, 1.5], "at": [10.0, 20.0]} | changed
    return {"engine": ENGINE, "files": [times]}


def test_the_token_is_needed_everywhere(asked: Asked) -> None:
    for method, path in [
        ("POST", "/hello"), ("GET", "/jobs/next"), ("GET", "/jobs/1/files/abc"), ("POST", "/jobs/1/rows"),
        ("POST", "/jobs/1/progress"), ("POST", "/jobs/1/error"), ("POST", "/jobs/1/outputs"),
    ]:  # fmt: skip
        for wrong in ("", "Bearer ", "Bearer another-token", f"Basic {TOKEN}", "Bearer \xe9".encode("latin1")):
            answer = asked.ask(method, path, headers={"Authorization": wrong})
            assert (answer.status_code, answer.json()["error"][:27]) == (401, "this is not the address tha")


def test_a_job_from_hello_to_its_rows(asked: Asked) -> None:
    assert asked.ask("GET", "/jobs/next").status_code == 409, "nobody has said hello"
    asked.take()
    assert asked.ask("GET", f"/jobs/{asked.job.id}/files/abc").content == b"content"
    assert asked.ask("GET", f"/jobs/{asked.job.id}/files/abd").status_code == 404
    assert asked.ask("GET", "/jobs/another/files/abc").status_code == 409
    assert asked.post("progress", {"done": 1, "note": "rounds"}).status_code == 204
    assert asked.post("outputs", b"....").status_code == 409, "a job is answered as it asks"
    assert asked.post("rows", rows()).status_code == 204
    while not asked.found:
        time.sleep(0.01)
    assert asked.found[0].files[0].infer == [5.0, 6.0]
    assert asked.ask("GET", "/jobs/next?wait=0.1").status_code == 204
    assert asked.post("rows", rows()).status_code == 409, "a job is answered once"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"infer": [float("nan"), 1.0]}, "files.0.infer.0: Input should be a finite number"),
        ({"infer": [float("inf"), 1.0]}, "finite number"),
        ({"infer": [-1.0, 1.0]}, "greater than or equal to 0"),
        ({"infer": [1e300, 1.0]}, "less than or equal to"),
        ({"infer": ["5", 1.0]}, "valid number"),
        ({"infer": [5.0]}, "the rounds are [1, 2], and should be as many of each"),
        ({"pre": [1.0], "infer": [5.0], "post": [1.0], "at": [9.0]}, "at least 2"),
        ({"infer": [9000.0, 9000.0]}, "more milliseconds were counted than the 10 s"),
        ({"at": [20.0, 10.0]}, "not in order"),
        ({"at": [20.0, 99000.0]}, "more milliseconds"),
        ({"more": []}, "Extra inputs"),
    ],
)
def test_times_that_are_none(asked: Asked, changed: dict[str, Any], words: str) -> None:
    asked.take()
    answer = asked.post("rows", rows(**changed))
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    assert asked.post("rows", rows()).status_code == 204, "and the right ones are still taken"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/hello", HELLO | {"phone": "x"}),
        ("/hello", HELLO | {"user_agent": "x" * 600}),
        ("/hello", HELLO | {"cores": 0}),
        ("/hello", HELLO | {"extra": 1}),
        ("/hello", b"\xff\xfe"),
        ("/hello", b""),
    ],
)
def test_hellos_that_are_none(asked: Asked, path: str, body: Any) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert asked.ask("POST", path, content=content).status_code == 400
    assert asked.ask("GET", "/jobs/next?wait=999").status_code == 400


def test_long_and_compressed_bodies(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    asked.take()
    assert asked.post("progress", b" " * (routes_jobs.MOST_MESSAGE + 1)).status_code == 413
    asked.app.state.desk.bodies.most = 1000
    assert asked.post("rows", b" " * 1001).status_code == 413
    packed = asked.ask("POST", f"/jobs/{asked.job.id}/rows", {"Content-Encoding": "gzip"}, content=b"x")
    assert packed.status_code == 415
    assert asked.app.state.desk.bodies.held == 0


def test_outputs_are_those_of_the_manifest(tmp_path: Path) -> None:
    manifest: Manifest = make_tiny_artifact(tmp_path / "a", "restore").manifest
    shape = tuple(manifest.outputs[0].shape)
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    body = framed(Engine(**ENGINE), {"restored": values})
    engine, outputs = unframed(body, manifest, (1, 48, 64, 3))
    assert engine.version == "1.30.0"
    np.testing.assert_array_equal(outputs["restored"], values)
    other = framed(Engine(**ENGINE), {"other": values})
    cut = framed(Engine(**ENGINE), {"restored": values[:, :1]})
    two = framed(Engine(**ENGINE), {"restored": values, "more": values})
    for wrong in (b"", body[:3], body[:20], body[:-4], body + b"\0\0\0\0", b"\xff" * 64, other, cut, two):
        with pytest.raises(Refusal) as refused:
            unframed(wrong, manifest, (1, 48, 64, 3))
        assert refused.value.status == 400


def test_rows_must_be_of_the_files_that_were_asked_for() -> None:
    found = Rows.model_validate_json(json.dumps(rows()))
    check_rows(found, 1, 2, 1.0)
    with pytest.raises(Refusal, match="1 were timed, 2 were asked for"):
        check_rows(found, 2, 2, 1.0)
