"""The tail of a split model behind HTTP: features in place of photos, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI

from pocketvit.errors import UsageError
from pocketvit.runtimes.model import Model, load
from pocketvit.runtimes.parts import Joined, encoded, features_of
from pocketvit.serve.http.served import Models, Served
from pocketvit.serve.http.services import Ran
from pocketvit.spec.features import MEDIA, encode
from tests.serve.asking import app_of, ask, client, png
from tests.tiny import photo

PHOTO = photo(60, 70)
KIND = {"content-type": MEDIA}


@pytest.fixture(scope="module")
def models(halves: Path) -> dict[str, Model]:
    names = ("whole", "cut1/head", "cut1/tail", "cut2/head", "cut2/tail")
    return {name: load(halves / name, "onnxruntime:fp32:1") for name in names}


@pytest.fixture(scope="module")
def app(models: dict[str, Model]) -> FastAPI:
    return app_of(models["cut1/tail"])


def test_features_are_answered_as_the_joined_pair_answers(models: dict[str, Model], app: FastAPI) -> None:
    seen: list[Ran] = []
    app.state.services.watchers.append(seen.append)
    answer = ask(app, "POST", "/v1/classify?top=2", content=encoded(models["cut1/head"], PHOTO), headers=KIND)
    assert answer.status_code == 200, answer.text
    assert (answer.headers["content-type"], answer.headers["x-model"]) == ("application/json", "cut1-tail")
    document, expected = answer.json(), Joined(models["cut1/head"], models["cut1/tail"])(PHOTO)
    wanted = json.loads(json.dumps(expected.to_dict(2)))
    assert {key: document[key] for key in wanted} == wanted
    assert document["line"] == expected.line
    assert document["cells"] == expected.cells(2)
    assert document["model"] == "cut1-tail"
    (ran,) = seen
    assert ran.outcome is not None
    assert (ran.outcome.pixels, ran.outcome.result.line) == (None, expected.line)  # type: ignore[union-attr]


def test_what_does_not_go_together_says_where_to_go(models: dict[str, Model], app: FastAPI) -> None:
    good, image = encoded(models["cut1/head"], PHOTO), {"content-type": "image/png"}
    for served, body, headers, status, says in (
        (app, png(PHOTO), image, 415, "takes the features of its head"),
        (app, good, {"content-type": "application/octet-stream"}, 415, "takes the features of its head"),
        (app, encoded(models["cut2/head"], PHOTO), KIND, 422, "this tail takes those of"),
        (app_of(models["cut1/head"]), png(PHOTO), image, 400, "post its features to a server of its tail"),
        (app_of(models["cut1/head"]), good, KIND, 400, "post its features to a server of its tail"),
        (app_of(models["whole"]), good, KIND, 415, "takes photos, not features"),
        (app_of(models["cut1/tail"], max_body_mb=0.0001), good, KIND, 413, "larger than"),
    ):
        answer = ask(served, "POST", "/v1/classify", content=body, headers=headers)
        assert (answer.status_code, says in answer.json()["error"]) == (status, True), answer.text
    for form in ("png", "values"):
        answer = ask(app, "POST", f"/v1/classify?format={form}", content=good, headers=KIND)
        assert (answer.status_code, "no photo to draw on" in answer.text) == (400, True)
    answer = ask(app, "POST", "/v1/classify", content=good, headers={**KIND, "accept": "image/png"})
    assert answer.status_code == 406


def test_of_several_tails_the_features_choose_theirs(models: dict[str, Model]) -> None:
    both = app_of(models["cut1/tail"], models["cut2/tail"])
    for cut in ("cut1", "cut2"):
        head = models[f"{cut}/head"]
        assert head.manifest.split is not None
        headers = {"content-type": f'{MEDIA}; split="{head.manifest.split.id}"'}
        answer = ask(both, "POST", "/v1/classify", content=encoded(head, PHOTO), headers=headers)
        assert (answer.status_code, answer.json().get("model")) == (200, f"{cut}-tail")
    for headers in (KIND, {"content-type": f"{MEDIA}; split=nonsense"}):
        answer = ask(both, "POST", "/v1/classify", content=b"", headers=headers)
        assert (answer.status_code, "say which" in answer.text) == (400, True)


def test_hostile_bodies_are_never_an_error_of_the_server(models: dict[str, Model], app: FastAPI) -> None:
    import asyncio

    good, rng = encoded(models["cut1/head"], PHOTO), np.random.default_rng(0)
    bodies = [good[:cut] for cut in range(0, len(good), 29)] + [good + b"x", good * 2, b"", b"PVF1", b"\xff" * 100]
    bodies += [rng.bytes(int(n)) for n in rng.integers(0, 400, 60)]
    for _ in range(100):
        changed = bytearray(good)
        changed[int(rng.integers(len(good)))] ^= int(rng.integers(1, 256))
        bodies.append(bytes(changed))

    async def all_of_them() -> list[int]:
        async with client(app) as http:
            return [(await http.post("/v1/classify", content=body, headers=KIND)).status_code for body in bodies]

    found = asyncio.run(all_of_them())
    assert set(found) <= {200, 422}
    assert found.count(422) > 80
    assert app.state.services.bodies.held == 0


def test_features_as_a_tensor_of_the_open_inference_protocol(models: dict[str, Model], app: FastAPI) -> None:
    metadata = ask(app, "GET", "/v2/models/cut1-tail").json()
    assert metadata["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [1, 21, 32]}]
    features = features_of(models["cut1/head"], PHOTO)
    entry: dict[str, Any] = {"name": "features", "datatype": "FP32", "shape": [1, 21, 32]}
    request = {"inputs": [{**entry, "data": features.ravel().tolist()}]}
    answer = ask(app, "POST", "/v2/models/cut1-tail/infer", json=request)
    assert answer.status_code == 200, answer.text
    found = {each["name"]: np.array(each["data"]) for each in answer.json()["outputs"]}
    whole = models["whole"]
    straight = whole.infer(whole.prepare(PHOTO))
    for name, values in found.items():
        np.testing.assert_allclose(values, straight[name].ravel(), atol=2e-5)
    request["inputs"][0]["shape"] = [1, 20, 32]
    assert ask(app, "POST", "/v2/models/cut1-tail/infer", json=request).status_code == 400
    shape = [1, *models["cut1/head"].manifest.preprocess.size, 3]
    pixels = {"name": "pixels", "datatype": "UINT8", "shape": shape, "data": [0] * int(np.prod(shape))}
    heads = ask(app_of(models["cut1/head"]), "POST", "/v2/models/cut1-head/infer", json={"inputs": [pixels]})
    assert [each["shape"] for each in heads.json()["outputs"]] == [[1, 21, 32]]


def test_a_description_names_the_format(app: FastAPI) -> None:
    content = ask(app, "GET", "/openapi.json").json()["paths"]["/v1/{task}"]["post"]["requestBody"]["content"]
    assert MEDIA in content


def test_a_full_queue_says_when_to_come_again(models: dict[str, Model]) -> None:
    import asyncio

    from tests.serve.asking import gated

    slow, gate = gated(models["cut1/tail"])
    app = app_of(slow, workers=1, queue=0)
    split = models["cut1/head"].manifest.split
    assert split is not None
    body = encode(features_of(models["cut1/head"], PHOTO), split)

    async def two() -> tuple[Any, Any]:
        async with client(app) as http:
            first = asyncio.create_task(http.post("/v1/classify", content=body, headers=KIND))
            await asyncio.to_thread(gate.entered.acquire)
            second = await http.post("/v1/classify", content=body, headers=KIND)
            gate.open.set()
            return await first, second

    first, second = asyncio.run(two())
    assert (first.status_code, second.status_code) == (200, 429)
    assert int(second.headers["retry-after"]) >= 1


def test_a_tail_is_replaced_by_tails_of_its_split_alone(models: dict[str, Model]) -> None:
    table, served = Models([Served.of(models["cut1/tail"])]), Served.of(models["cut1/tail"])
    assert table.replace("cut1-tail", served) is not served
    other = models["cut2/tail"]
    renamed = replace(other, manifest=other.manifest.model_copy(update={"name": "cut1-tail"}))
    with pytest.raises(UsageError, match="cannot take the place"):
        table.replace("cut1-tail", Served(renamed))
    assert table.current("cut1-tail") is served
