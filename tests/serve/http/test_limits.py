"""What one client, and all together, may ask: sizes, times, places, tokens, and a server that closes."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from pocketvit.runtimes.model import Model, load
from tests.serve.asking import app_of, ask, chunks, client, gated, png
from tests.tiny import make_tiny_artifact, noisy, photo

GOOD = png(photo(20, 30))


@pytest.fixture(scope="module")
def restorer(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_tiny_artifact(tmp_path_factory.mktemp("limits") / "r").path)


def test_a_body_is_measured_stated_or_not(restorer: Model) -> None:
    app = app_of(restorer, max_body_mb=0.01)
    body = png(noisy(photo(100, 100)))
    assert len(body) > 10_000
    stated = ask(app, "POST", "/v1/restore", content=body)
    chunked = ask(app, "POST", "/v1/restore", content=chunks(body[:9_000], body[9_000:]))
    lying = ask(app, "POST", "/v1/restore", content=chunks(body[:9_000], body[9_000:]), headers={"content-length": "9"})
    endless = ask(app, "POST", "/v1/restore", content=chunks(*[bytes(2000)] * 50))
    for answer in (stated, chunked, lying, endless):
        assert answer.status_code == 413
        assert "0.01 MB" in answer.json()["error"]
    assert app.state.services.bodies.held == 0
    assert ask(app, "POST", "/v1/restore", content=chunks(GOOD[:50], GOOD[50:])).status_code == 200


def test_half_a_body_is_not_waited_for(restorer: Model) -> None:
    app = app_of(restorer, body_seconds=0.2)
    answer = ask(app, "POST", "/v1/restore", content=chunks(GOOD[:50], 30.0, GOOD[50:]))
    assert (answer.status_code, answer.headers["connection"]) == (408, "close")
    assert "0.2 s" in answer.json()["error"]
    assert app.state.services.bodies.held == 0


def test_all_bodies_together_are_bounded(restorer: Model) -> None:
    app = app_of(restorer, max_body_mb=0.02, max_held_mb=0.03)

    async def several() -> list[int]:
        async with client(app) as http:
            bodies = [chunks(bytes(15_000), 0.3, b"") for _ in range(3)]
            asked = (http.post("/v1/restore", content=body) for body in bodies)
            return sorted(answer.status_code for answer in await asyncio.gather(*asked))

    assert asyncio.run(several()) == [422, 422, 429]
    assert app.state.services.bodies.held == 0


def test_the_queue_is_bounded_and_the_loop_stays_free(restorer: Model) -> None:
    slow, gate = gated(restorer)
    app = app_of(slow, workers=1, queue=1)

    async def crowd() -> tuple[httpx.Response, list[httpx.Response], str]:
        async with client(app) as http:
            taken = [asyncio.create_task(http.post("/v1/restore", content=GOOD)) for _ in range(2)]
            while app.state.services.queue.unfinished < 2:
                await asyncio.sleep(0.01)
            refused = await http.post("/v1/restore", content=GOOD)
            assert (await http.get("/v2/health/live")).json() == {"live": True}
            metrics = (await http.get("/metrics")).text
            gate.open.set()
            return refused, list(await asyncio.gather(*taken)), metrics

    refused, taken, metrics = asyncio.run(crowd())
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert [answer.status_code for answer in taken] == [200, 200]
    assert "pocketvit_queue_depth 1.0" in metrics
    assert "pocketvit_requests_in_flight 3.0" in metrics


def test_an_answer_that_takes_too_long_is_given_up(restorer: Model) -> None:
    slow, gate = gated(restorer)
    app = app_of(slow, workers=1, request_seconds=0.2)
    answer = ask(app, "POST", "/v1/restore", content=GOOD)
    assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
    assert "0.2 s" in answer.json()["error"]
    gate.open.set()


TOKEN = "correct-horse-battery-staple"


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer wrong-horse-battery-staple", 401),
        ("Bearer", 401),
        (f"Basic {TOKEN}", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN} ", 200),
    ],
)
def test_a_token_is_asked_for(restorer: Model, header: str | None, status: int) -> None:
    app = app_of(restorer, token=TOKEN)
    for method, url in (("GET", "/v2"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("POST", "/v1/restore")):
        request: dict[str, Any] = {"content": GOOD} if method == "POST" else {}
        answer = ask(app, method, url, headers={"authorization": header} if header else {}, **request)
        assert answer.status_code == status
        if status == 401:
            assert answer.headers["www-authenticate"] == "Bearer"
            assert list(answer.json()) == ["error"]
    assert ask(app, "GET", "/v2/health/ready").status_code == 200


def test_a_closing_server_finishes_what_is_inside_and_refuses_what_is_new(restorer: Model) -> None:
    slow, gate = gated(restorer)
    app = app_of(slow, workers=1)

    async def close() -> tuple[httpx.Response, ...]:
        async with client(app) as http:
            inside = asyncio.create_task(http.post("/v1/restore", content=GOOD))
            while not app.state.services.queue.unfinished:
                await asyncio.sleep(0.01)
            app.state.services.door.closing = True
            late, ready, live = [
                await http.request(method, url)
                for method, url in (("POST", "/v1/restore"), ("GET", "/v2/health/ready"), ("GET", "/v2/health/live"))
            ]
            gate.open.set()
            return late, ready, live, await inside

    late, ready, live, inside = asyncio.run(close())
    assert (late.status_code, late.headers["connection"], late.headers["retry-after"]) == (503, "close", "5")
    assert (ready.status_code, ready.json()) == (503, {"ready": False})
    assert live.status_code == 200
    assert (inside.status_code, inside.headers["connection"]) == (200, "close")
    assert app.state.services.door.inside == 0
