"""The Open Inference Protocol: tensors as the manifest states them, in JSON and in binary, and clear refusals."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI

from pocketvit.runtimes.model import Model, load
from pocketvit.serve.http.http_app import make_app
from pocketvit.serve.http.oip import MAX_JSON, Question, read_request, write_response
from pocketvit.serve.http.refusal import Refusal
from pocketvit.serve.http.served import Models, Served
from pocketvit.spec.tasks.base import TensorSpec
from tests.serve.asking import ask
from tests.tiny import make_tiny_artifact, photo

PIXELS = TensorSpec(name="pixels", shape=[1, -1, -1, 3], dtype="uint8", meaning="")
FEATURES = TensorSpec(name="features", shape=[1, 3], dtype="float32", meaning="")
OUTPUTS = [
    TensorSpec(name="a", shape=[1, 2], dtype="float32", meaning=""),
    TensorSpec(name="b", shape=[1, 1], dtype="int64", meaning=""),
]
LENGTH = "Inference-Header-Content-Length"


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "pixels", "shape": [1, 1, 2, 3], "datatype": "UINT8", "data": [1, 2, 3, 4, 5, 255]} | changes


def read(document: Any, specs: list[TensorSpec] | None = None, blob: bytes = b"") -> Question:
    head = document if isinstance(document, bytes) else json.dumps(document).encode()
    return read_request(head + blob, str(len(head)) if blob else None, specs or [PIXELS], OUTPUTS)


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 255], [[[[1, 2, 3], [4, 5, 255]]]]])
def test_data_may_be_flat_or_nested(data: Any) -> None:
    question = read({"id": "x", "inputs": [tensor(data=data)]})
    assert question.inputs["pixels"].tolist() == [[[[1, 2, 3], [4, 5, 255]]]]
    assert question.inputs["pixels"].dtype == np.uint8
    assert (question.id, question.outputs) == ("x", {"a": False, "b": False})


def test_data_may_be_binary() -> None:
    entry = tensor(parameters={"binary_data_size": 6})
    del entry["data"]
    both = [entry, {"name": "features", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}]
    blob = bytes([1, 2, 3, 4, 5, 255]) + struct.pack("<3f", 0.5, -1, 1e-3)
    question = read({"inputs": both}, [PIXELS, FEATURES], blob)
    assert question.inputs["pixels"].ravel().tolist() == [1, 2, 3, 4, 5, 255]
    np.testing.assert_array_equal(question.inputs["features"], np.array([[0.5, -1, 1e-3]], np.float32))
    with pytest.raises(Refusal, match="1 bytes of binary data belong to no input"):
        read({"inputs": both}, [PIXELS, FEATURES], blob + b"x")


def test_outputs_may_be_chosen() -> None:
    outputs = [{"name": "b", "parameters": {"binary_data": True}}]
    assert read({"inputs": [tensor()], "outputs": outputs}).outputs == {"b": True}
    always = {"inputs": [tensor()], "parameters": {"binary_data_output": True}}
    assert read(always).outputs == {"a": True, "b": True}


DEEP = b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
WRONG: dict[str, tuple[Any, str]] = {
    "nothing": (b"", "not JSON"),
    "no JSON": (b"{", "not JSON"),
    "no text": (b"\xff\xfe{}", "not JSON"),
    "NaN": (b'{"inputs": [NaN]}', "NaN is no JSON"),
    "infinity": (b'{"id": -Infinity}', "Infinity is no JSON"),
    "deep": (DEEP, "nested too deeply"),
    "a number of a million digits": (b'{"id": ' + b"1" * 1_000_000 + b"}", "not JSON"),
    "a list": ([], "the request must be a JSON object"),
    "no inputs": ({}, "inputs must be a list"),
    "inputs of another kind": ({"inputs": {"pixels": 1}}, "inputs must be a list"),
    "no tensor": ({"inputs": [3]}, "every input must be a JSON object"),
    "no name": ({"inputs": [{"shape": [1]}]}, "no input None; there is pixels"),
    "none": ({"inputs": []}, "input 'pixels' is missing"),
    "twice": ({"inputs": [tensor(), tensor()]}, "given twice"),
    "another datatype": ({"inputs": [tensor(datatype="FP32")]}, "has datatype UINT8, not 'FP32'"),
    "a datatype of another kind": ({"inputs": [tensor(datatype=[[1]])]}, "not [[...]]"),
    "no shape": ({"inputs": [tensor(shape=None)]}, "where -1 is any size; not None"),
    "a batch": ({"inputs": [tensor(shape=[2, 1, 1, 3])]}, "not [2, 1, 1, 3]"),
    "a size of nothing": ({"inputs": [tensor(shape=[1, 0, 2, 3])]}, "not [1, 0, 2, 3]"),
    "a true size": ({"inputs": [tensor(shape=[True, 1, 2, 3])]}, "where -1 is any size"),
    "huge sizes": ({"inputs": [tensor(shape=[1, 2**40, 2**40, 3])]}, "where -1 is any size"),
    "too few": ({"inputs": [tensor(data=[1, 2])]}, "must hold 6 numbers"),
    "too many": ({"inputs": [tensor(data=[1] * 7)]}, "must hold 6 numbers"),
    "ragged": ({"inputs": [tensor(data=[[1, 2], [3]])]}, "flat, or nested"),
    "nested otherwise": ({"inputs": [tensor(data=[[1, 2, 3], [4, 5, 6]])]}, "flat or nested as [1, 1, 2, 3]"),
    "nested deeper": ({"inputs": [tensor(data=[[[[[[1]]]]]])]}, "flat, or nested"),
    "empty lists": ({"inputs": [tensor(data=[[], []])]}, "must hold 6 numbers"),
    "no data": ({"inputs": [{k: v for k, v in tensor().items() if k != "data"}]}, "either data or the parameter"),
    "both": ({"inputs": [tensor(parameters={"binary_data_size": 6})]}, "either data or the parameter"),
    "data of another kind": ({"inputs": [tensor(data="abc")]}, "must be an array"),
    "texts": ({"inputs": [tensor(data=["1"] * 6)]}, "must be whole numbers"),
    "fractions": ({"inputs": [tensor(data=[1.5] * 6)]}, "must be whole numbers"),
    "truths": ({"inputs": [tensor(data=[True] * 6)]}, "must be whole numbers"),
    "mixed": ({"inputs": [tensor(data=[1, [2], 3, 4, 5, 6])]}, "must be whole numbers"),
    "negative": ({"inputs": [tensor(data=[-1] * 6)]}, "from 0 to 255"),
    "huge": ({"inputs": [tensor(data=[10**30] * 6)]}, "from 0 to 255"),
    "shared memory": ({"inputs": [tensor(parameters={"shared_memory_region": "x"})]}, "not offered"),
    "classification": (
        {"inputs": [tensor()], "outputs": [{"name": "a", "parameters": {"classification": 3}}]},
        "not offered",
    ),
    "parameters of another kind": ({"inputs": [tensor()], "parameters": 3}, "parameters must be a JSON object"),
    "an unknown output": ({"inputs": [tensor()], "outputs": [{"name": "c"}]}, "no output 'c'; there is a, b"),
    "an id of another kind": ({"inputs": [tensor()], "id": {}}, "id must be a text"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_request_is_refused_in_words(name: str) -> None:
    document, words = WRONG[name]
    with pytest.raises(Refusal) as caught:
        read(document)
    assert caught.value.status == 400
    assert words in caught.value.text
    assert len(caught.value.text) < 400


@pytest.mark.parametrize("data", [["1.0"] * 3, [1, 2, 1e39], [1, 2, 10**400], [[0.5, 1, True]]])
def test_floats_are_numbers_that_fit(data: Any) -> None:
    entry = {"name": "features", "shape": [1, 3], "datatype": "FP32"}
    with pytest.raises(Refusal) as caught:
        read({"inputs": [{**entry, "data": data}]}, [FEATURES])
    assert caught.value.status == 400
    fine = read({"inputs": [{**entry, "data": [1, 2.5, -3]}]}, [FEATURES]).inputs["features"]
    np.testing.assert_array_equal(fine, np.array([[1, 2.5, -3]], np.float32))


def test_binary_floats_are_finite() -> None:
    entry = {"name": "features", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}
    with pytest.raises(Refusal, match="NaN or infinity"):
        read({"inputs": [entry]}, [FEATURES], struct.pack("<3f", 1, float("nan"), 2))
    for size in (11, 13, -12, True, "12", 10**30):
        wrong = {**entry, "parameters": {"binary_data_size": size}}
        with pytest.raises(Refusal, match="takes 12 bytes"):
            read({"inputs": [wrong]}, [FEATURES], bytes(12))


@pytest.mark.parametrize("length", ["-1", "x", "9" * 30, "999", "1.5", "²"])
def test_the_length_of_the_json_is_a_number_within_the_body(length: str) -> None:
    with pytest.raises(Refusal, match="within the body"):
        read_request(b'{"inputs": []}', length, [PIXELS], OUTPUTS)


def test_json_has_a_limit_of_its_own() -> None:
    with pytest.raises(Refusal) as caught:
        read(b" " * (MAX_JSON + 1))
    assert caught.value.status == 413


def test_a_response_has_what_was_wanted() -> None:
    answers = {"a": np.array([[0.1, 0.9]], np.float32), "b": np.array([[7]], np.int64)}
    body, headers = write_response(Question("x", {}, {"a": False, "b": True}), "m", "1.0.0", answers, OUTPUTS)
    head = json.loads(body[: int(headers[LENGTH])])
    a, b = head.pop("outputs")
    assert head == {"model_name": "m", "model_version": "1.0.0", "id": "x"}
    assert (a["name"], a["datatype"], a["shape"]) == ("a", "FP32", [1, 2])
    np.testing.assert_array_equal(np.array(a["data"], np.float32), answers["a"][0])
    assert b == {"name": "b", "datatype": "INT64", "shape": [1, 1], "parameters": {"binary_data_size": 8}}
    assert body[int(headers[LENGTH]) :] == struct.pack("<q", 7)
    plain, headers = write_response(Question(None, {}, {"b": False}), "m", "1.0.0", answers, OUTPUTS)
    assert headers == {"Content-Type": "application/json"}
    assert json.loads(plain)["outputs"] == [{"name": "b", "datatype": "INT64", "shape": [1, 1], "data": [7]}]
    assert "id" not in json.loads(plain)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("oip")
    loaded = [load(make_tiny_artifact(folder / task, task).path) for task in ("restore", "classify")]
    return {model.manifest.name: model for model in [*loaded, load("denoise-color")]}


@pytest.fixture(scope="module")
def app(models: dict[str, Model]) -> FastAPI:
    return make_app(Models(map(Served.of, models.values())))


SIZES = {"tiny-restore": (48, 64), "tiny-classify": (32, 32), "denoise-color": (37, 51)}


@pytest.mark.parametrize("name", SIZES)
def test_the_answer_is_the_files_own(app: FastAPI, models: dict[str, Model], name: str) -> None:
    pixels = photo(*SIZES[name])[None]
    raw = models[name].session.run({"pixels": pixels})
    entry = {"name": "pixels", "shape": list(pixels.shape), "datatype": "UINT8", "data": pixels.ravel().tolist()}
    answer = ask(app, "POST", f"/v2/models/{name}/infer", json={"inputs": [entry]})
    assert answer.status_code == 200
    assert (answer.json()["model_name"], answer.json()["model_version"]) == (name, models[name].manifest.version)
    for output in answer.json()["outputs"]:
        got = np.array(output["data"], np.float32).reshape(output["shape"])
        np.testing.assert_array_equal(got, raw[output["name"]])
    assert [output["name"] for output in answer.json()["outputs"]] == [x.name for x in models[name].manifest.outputs]


def test_metadata_is_the_manifests(app: FastAPI, models: dict[str, Model]) -> None:
    server = ask(app, "GET", "/v2").json()
    assert (server["name"], server["extensions"]) == ("pocketvit", ["binary_tensor_data"])
    about = ask(app, "GET", "/v2/models/tiny-classify").json()
    assert about["inputs"] == [{"name": "pixels", "datatype": "UINT8", "shape": [1, 32, 32, 3]}]
    assert about["outputs"][1] == {"name": "probs_fine", "datatype": "FP32", "shape": [1, 4]}
    assert (about["versions"], about["parameters"]["task"]) == (["0.1.0"], "classify")
    assert ask(app, "GET", "/v2/models/tiny-classify/versions/0.1.0").json() == about
    assert ask(app, "GET", "/v2/models/tiny-classify/versions/0.1.0/ready").json()["ready"] is True
    for url in ("/v2/models/x", "/v2/models/x/ready", "/v2/models/tiny-classify/versions/2.0.0"):
        assert ask(app, "GET", url).status_code == 404


def test_infer_refuses_pictures_other_sizes_and_too_many_pixels(app: FastAPI) -> None:
    picture = ask(app, "POST", "/v2/models/tiny-classify/infer", content=b"x", headers={"content-type": "image/png"})
    assert (picture.status_code, "/v1/classify" in picture.json()["error"]) == (415, True)
    entry = {"name": "pixels", "shape": [1, 8, 8, 3], "datatype": "UINT8", "data": [0] * 192}
    other = ask(app, "POST", "/v2/models/tiny-classify/infer", json={"inputs": [entry]})
    assert (other.status_code, "[1, 32, 32, 3]" in other.json()["error"]) == (400, True)
    unknown = ask(app, "POST", "/v2/models/x/infer", json={"inputs": [entry]})
    assert unknown.status_code == 404


def test_pixels_of_tensors_are_counted_too(models: dict[str, Model]) -> None:
    from pocketvit.serve.options import Limits

    app = make_app(Models([Served.of(models["denoise-color"])]), Limits(max_megapixels=0.001))
    entry = {"name": "pixels", "shape": [1, 40, 40, 3], "datatype": "UINT8", "data": [0] * 4800}
    assert ask(app, "POST", "/v2/models/denoise-color/infer", json={"inputs": [entry]}).status_code == 413


def test_tritons_client_talks_to_it_unchanged(tmp_path: Path) -> None:
    import tritonclient.http as http

    from tests.serve.asking import server

    artifact = make_tiny_artifact(tmp_path / "c", "classify")
    pixels = photo(32, 32)[None]
    raw = load(artifact.path).session.run({"pixels": pixels})
    with server(artifact.path) as running:
        triton = http.InferenceServerClient(running.url.removeprefix("http://"))
        assert triton.is_server_live()
        assert triton.is_server_ready()
        assert triton.is_model_ready("tiny-classify")
        assert triton.is_model_ready("tiny-classify", "0.1.0")
        assert triton.get_server_metadata()["name"] == "pocketvit"
        assert triton.get_model_metadata("tiny-classify")["inputs"][0]["datatype"] == "UINT8"
        for binary in (True, False):
            given = http.InferInput("pixels", list(pixels.shape), "UINT8")
            given.set_data_from_numpy(pixels, binary_data=binary)
            wanted = [http.InferRequestedOutput("probs_fine", binary_data=binary)]
            for outputs in (None, wanted):
                answer = triton.infer("tiny-classify", [given], outputs=outputs, request_id="7")
                np.testing.assert_array_equal(answer.as_numpy("probs_fine"), raw["probs_fine"])
                assert answer.get_response()["id"] == "7"
        with pytest.raises(http.InferenceServerException if hasattr(http, "InferenceServerException") else Exception):
            triton.get_model_metadata("none")
