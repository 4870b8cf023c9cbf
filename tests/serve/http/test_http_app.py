"""Images over HTTP: what is answered is what the model answers, and whatever else is sent is refused in words."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from pocketvit.errors import VerificationError
from pocketvit.runtimes.model import Model, load
from pocketvit.serve.http.http_app import make_app
from pocketvit.serve.http.served import Models, Served
from pocketvit.serve.http.services import Limits, Ran
from tests.serve.asking import app_of, ask, client, gated, pixels_of, png
from tests.tiny import coloured, make_tiny_artifact, noisy, photo


@pytest.fixture(scope="module")
def restorer(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_tiny_artifact(tmp_path_factory.mktemp("http") / "r").path)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_tiny_artifact(tmp_path_factory.mktemp("http") / "c", "classify").path)


@pytest.fixture(scope="module")
def app(restorer: Model, classifier: Model) -> FastAPI:
    return app_of(restorer, classifier)


@pytest.mark.parametrize("strength", [None, 0.5, 2])
def test_a_picture_is_what_the_model_answers(app: FastAPI, restorer: Model, strength: float | None) -> None:
    image = noisy(photo(61, 87))
    asked = {} if strength is None else {"strength": strength}
    answer = ask(app, "POST", "/v1/restore", params=asked, content=png(image), headers={"content-type": "image/png"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert (answer.headers["x-model"], answer.headers["x-model-version"]) == ("tiny-restore", "0.1.0")
    np.testing.assert_array_equal(pixels_of(answer.content), restorer(image, strength=strength).image)


def test_labels_are_what_the_model_answers(app: FastAPI, classifier: Model) -> None:
    for label in range(4):
        image = coloured(label, seed=label)
        answer = ask(app, "POST", "/v1/classify?top=2", files={"image": ("x.png", png(image))}).json()
        assert answer.pop("ms") > 0
        assert answer == {"model": "tiny-classify", "version": "0.1.0", **classifier(image).to_dict(2)}


def test_a_turned_jpeg_is_read_as_everywhere(app: FastAPI, restorer: Model, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(40, 90)).save(tmp_path / "turned.jpg", exif=exif)
    answer = ask(app, "POST", "/v1/restore", content=(tmp_path / "turned.jpg").read_bytes())
    np.testing.assert_array_equal(pixels_of(answer.content), restorer(tmp_path / "turned.jpg").image)
    assert pixels_of(answer.content).shape == (90, 40, 3)


@pytest.mark.parametrize(
    ("url", "accept", "kind"),
    [
        ("/v1/restore", "*/*", "image/png"),
        ("/v1/restore", "application/json", "application/json"),
        ("/v1/restore", "image/png;q=0.2, application/json;q=0.9", "application/json"),
        ("/v1/restore?format=json", "image/png", "application/json"),
        ("/v1/classify", "*/*", "application/json"),
        ("/v1/classify", "image/*", "image/png"),
        ("/v1/classify?format=png", "application/json", "image/png"),
    ],
)
def test_the_client_chooses_the_form(app: FastAPI, url: str, accept: str, kind: str) -> None:
    answer = ask(app, "POST", url, content=png(coloured(1)), headers={"accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    if kind == "image/png":
        assert pixels_of(answer.content).ndim == 3
    elif "restore" in url:
        assert {"task": "restore", "height": 40, "width": 56}.items() <= answer.json().items()


def bomb(width: int, height: int, kind: bytes = b"\x08\x02") -> bytes:
    """A PNG of zeros whose header states any size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">II", width, height) + kind + b"\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(9999)))


GOOD = png(photo(20, 30))
TOKEN = "correct-horse-battery-staple"
_FORM = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
REFUSED: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "truncated": ("/v1/restore", {"content": GOOD[: len(GOOD) // 2]}, 422, "cannot be decoded"),
    "no image": ("/v1/restore", {"content": b"<html>404</html>"}, 422, "not an image"),
    "nothing": ("/v1/restore", {"content": b""}, 400, "no image"),
    "50 megapixels": ("/v1/restore", {"content": bomb(10_000, 5_000)}, 413, "50.0 megapixels"),
    "a bomb": ("/v1/restore", {"content": bomb(2**31 - 1, 2**31 - 1)}, 413, "megapixels"),
    "no pixels": ("/v1/restore", {"content": bomb(0, 0)}, 422, ""),
    "text": ("/v1/restore", {"content": GOOD, "headers": {"content-type": "text/plain"}}, 415, "multipart/form-data"),
    "json": ("/v1/restore", {"json": {"image": "x"}}, 415, "image/*"),
    "compressed": ("/v1/restore", {"content": GOOD, "headers": {"content-encoding": "gzip"}}, 415, "compressed"),
    "a form without a boundary": (
        "/v1/restore",
        {"content": GOOD, "headers": {"content-type": "multipart/form-data"}},
        400,
        "boundary",
    ),
    "half a form": (
        "/v1/restore",
        {"content": _FORM + GOOD[:50], "headers": {"content-type": "multipart/form-data; boundary=b"}},
        400,
        "too early",
    ),
    "no form": (
        "/v1/restore",
        {"content": GOOD, "headers": {"content-type": "multipart/form-data; boundary=b"}},
        400,
        "form is damaged",
    ),
    "two files": ("/v1/restore", {"files": [("a", ("a", GOOD)), ("b", ("b", GOOD))]}, 400, "2 files"),
    "no file": ("/v1/restore", {"files": {"text": (None, "words")}}, 400, "0 files"),
    "many parts": ("/v1/restore", {"files": [("a", ("a", b"x"))] * 30}, 400, "more than 20"),
    "an unknown task": ("/v1/fly", {"content": GOOD}, 404, "there is restore, classify"),
    "an unknown model": ("/v1/restore?model=x", {"content": GOOD}, 404, "no model 'x'"),
    "an unknown version": ("/v1/restore?version=9.9.9", {"content": GOOD}, 404, "it has 0.1.0"),
    "another task's model": ("/v1/restore?model=tiny-classify", {"content": GOOD}, 404, "/v1/classify"),
    "a wrong number": ("/v1/classify?top=many", {"content": GOOD}, 400, "top must be a whole number"),
    "nan": ("/v1/restore?strength=nan", {"content": GOOD}, 400, "strength must be"),
    "infinity": ("/v1/restore?strength=inf", {"content": GOOD}, 400, "strength must be"),
    "strength of a classifier": ("/v1/classify?strength=1", {"content": GOOD}, 400, "tiny-classify"),
    "values of a restorer": ("/v1/restore?format=values", {"content": GOOD}, 400, "no values"),
    "an unknown form": ("/v1/restore?format=gif", {"content": GOOD}, 400, "format must be json, png or values"),
    "another medium": ("/v1/restore", {"content": GOOD, "headers": {"accept": "text/html"}}, 406, "image/png"),
    "nowhere": ("/v3", {}, 404, "/docs"),
    "another method": ("/v2", {"content": GOOD}, 405, "Not Allowed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_words(app: FastAPI, name: str) -> None:
    url, request, status, words = REFUSED[name]
    answer = ask(app, "POST", url, **request)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert words in answer.json()["error"]
    assert app.state.services.bodies.held == 0


def test_pixels_are_counted_before_anything_is_decoded(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    assert ask(app, "POST", "/v1/restore", content=bomb(8_000, 4_001)).status_code == 413


def test_a_failing_model_is_503_and_counted_and_a_fault_of_ours_is_500(
    restorer: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_of(restorer)
    seen: list[Ran] = []

    def fails(ran: Ran) -> None:
        seen.append(ran)
        raise ValueError("of a watcher")

    app.state.services.watchers.append(fails)
    assert ask(app, "POST", "/v1/restore", content=GOOD).status_code == 200
    for error, status in ((VerificationError("/secret/file: fails.", "x"), 503), (KeyError("x"), 500)):

        def run(inputs: Any, error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr(restorer.session, "run", run)
        answer = ask(app, "POST", "/v1/restore", content=GOOD)
        assert (answer.status_code, list(answer.json())) == (status, ["error"])
        assert "secret" not in answer.text
    assert [type(ran.error).__name__ for ran in seen] == ["NoneType", "VerificationError", "KeyError"]
    assert seen[0].outcome is not None
    np.testing.assert_array_equal(seen[0].outcome.pixels, photo(20, 30))
    failures = 'pocketvit_model_failures_total{model="tiny-restore",version="0.1.0"} 2.0'
    assert failures in ask(app, "GET", "/metrics").text


def test_a_fault_outside_a_run_is_an_answer_too(restorer: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_of(restorer)
    monkeypatch.setattr(app.state.services.models, "of_task", lambda task: 1 / 0)
    answer = ask(app, "POST", "/v1/restore", content=GOOD)
    assert (answer.status_code, answer.json()) == (500, {"error": "internal error."})


def test_metrics_count_by_route_and_not_by_path(restorer: Model) -> None:
    app = app_of(restorer)
    for url in ("/v1/restore", "/v1/fly", "/x", "/y"):
        ask(app, "POST", url, content=GOOD)
    text = ask(app, "GET", "/metrics").text
    for line in (
        'pocketvit_requests_total{method="POST",route="/v1/{task}",status="200"} 1.0',
        'pocketvit_requests_total{method="POST",route="/v1/{task}",status="404"} 1.0',
        'pocketvit_requests_total{method="POST",route="unmatched",status="404"} 2.0',
        'pocketvit_inference_seconds_count{model="tiny-restore",version="0.1.0"} 1.0',
        'pocketvit_request_seconds_count{route="/v1/{task}"} 2.0',
        "pocketvit_queue_places 32.0",
        "process_resident_memory_bytes",
    ):
        assert line in text
    assert 'pocketvit_model_info{current="true",digest="' in text


def test_each_request_is_one_line_of_json(restorer: Model, caplog: pytest.LogCaptureFixture) -> None:
    app = app_of(restorer)
    with caplog.at_level(logging.INFO, "pocketvit.serve"):
        answer = ask(app, "POST", "/v1/restore?model=tiny-restore", content=GOOD, headers={"x-request-id": "a-7"})
        ask(app, "GET", "/a%0Ab%E2%80%A8c", headers={"x-request-id": "bad id"})
    first, second = (json.loads(record.getMessage()) for record in caplog.records)
    assert answer.headers["x-request-id"] == "a-7"
    wanted = {"event": "request", "id": "a-7", "method": "POST", "path": "/v1/restore", "route": "/v1/{task}"}
    assert (wanted | {"status": 200, "model": "tiny-restore", "version": "0.1.0"}).items() <= first.items()
    assert first["ms"] >= first["run_ms"] > 0
    assert first["bytes"] == len(answer.content)
    assert "model=" not in json.dumps(first)
    assert (second["status"], second["route"]) == (404, "unmatched")
    assert len(second["id"]) == 16
    assert "\n" not in caplog.records[1].getMessage()


def test_the_description_and_its_page(restorer: Model, classifier: Model) -> None:
    app = app_of(restorer, classifier, token=TOKEN)
    headers = {"authorization": f"Bearer {TOKEN}"}
    document = ask(app, "GET", "/openapi.json", headers=headers).json()
    assert {"/v1/{task}", "/v2/models/{name}/infer", "/metrics"} <= set(document["paths"])
    task = next(p for p in document["paths"]["/v1/{task}"]["post"]["parameters"] if p["name"] == "task")
    assert task["schema"]["examples"] == ["restore", "classify"]
    assert document["security"] == [{"token": []}]
    page = ask(app, "GET", "/docs", headers=headers).text
    assert "POST /v1/{task}" in page
    assert "src=" not in page
    assert "://" not in page  # nothing from elsewhere is loaded


def test_versions_and_a_swap_under_way(tmp_path: Path) -> None:
    old, new, newer = (
        load(make_tiny_artifact(tmp_path / version, version=version).path) for version in ("0.9.0", "0.10.0", "0.11.0")
    )
    slow, gate = gated(new)
    models = Models([Served.of(old), Served.of(slow)])
    app = make_app(models, Limits(workers=2))

    async def swap() -> list[httpx.Response]:
        async with client(app) as http:
            before = asyncio.create_task(http.post("/v1/restore?format=json", content=GOOD))
            while not app.state.services.queue.unfinished:
                await asyncio.sleep(0.01)
            assert models.replace("tiny-restore", Served.of(newer)).model is slow
            after = await http.post("/v1/restore?format=json", content=GOOD)
            gate.open.set()
            return [await before, after, await http.post("/v1/restore?format=json&version=0.9.0", content=GOOD)]

    assert [answer.json()["version"] for answer in asyncio.run(swap())] == ["0.10.0", "0.11.0", "0.9.0"]
    assert ask(app, "GET", "/v2/models/tiny-restore").json()["versions"] == ["0.11.0", "0.9.0"]
    assert ask(app, "GET", "/v2/models/tiny-restore/versions/0.10.0/ready").status_code == 404
    listed = ask(app, "GET", "/v1/models").json()
    assert [(row["version"], row["current"]) for row in listed] == [("0.11.0", True), ("0.9.0", False)]


def test_one_of_several_models_must_be_named(tmp_path: Path) -> None:
    pair = [load(make_tiny_artifact(tmp_path / name, name=name).path) for name in ("one", "two")]
    app = app_of(*pair)
    answer = ask(app, "POST", "/v1/restore", content=GOOD)
    assert (answer.status_code, "one, two" in answer.json()["error"]) == (400, True)
    assert ask(app, "POST", "/v1/restore?model=two", content=GOOD).headers["x-model"] == "two"


def test_odd_images_that_are_images(app: FastAPI) -> None:
    for mode in ("1", "L", "P", "CMYK", "RGBA", "I;16"):
        buffer = io.BytesIO()
        grey = Image.fromarray(np.full((20, 30), 77, np.uint16 if mode == "I;16" else np.uint8))
        grey = grey if mode == "I;16" else grey.convert(mode)
        grey.save(buffer, "JPEG" if mode == "CMYK" else "PNG")
        assert ask(app, "POST", "/v1/restore", content=buffer.getvalue()).status_code == 200, mode
    tiny = ask(app, "POST", "/v1/restore", content=png(photo(1, 1)))
    assert pixels_of(tiny.content).shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("method", "path", "option"),
    [
        ("GET", "/v1/drift", "--watch.folder"),
        ("POST", "/v1/feedback", "--collect"),
        ("GET", "/phone/", "--phone"),
        ("GET", "/phone", "--phone"),
    ],
)
def test_what_an_option_brings_names_the_option(restorer: Model, method: str, path: str, option: str) -> None:
    answer = ask(app_of(restorer), method, path)
    assert answer.status_code == 404
    assert option in answer.json()["error"]
    assert "there is nothing here" in ask(app_of(restorer), "GET", "/phones").json()["error"]
