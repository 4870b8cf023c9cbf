from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pocketvit.runtimes import open_session
from pocketvit.spec.artifact import sha256
from pocketvit.spec.target import Target
from pocketvit.verify import perturb
from tests.tiny import TILE, make_tiny_artifact, photo


@pytest.mark.parametrize(
    ("runtime", "names"), [("onnxruntime", ["model.onnx"]), ("openvino", ["model.xml", "model.bin"])]
)
def test_damaged_copies_open_and_answer_differently(tmp_path: Path, runtime: str, names: list[str]) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", openvino=True)
    before = {name: sha256(artifact.path / name) for name in names}
    (tmp_path / "copy").mkdir()
    copy = perturb.damaged_copy(runtime, [artifact.path / name for name in names], tmp_path / "copy")
    assert {name: sha256(artifact.path / name) for name in names} == before
    pixels = {"pixels": photo(*TILE)[None]}
    whole = open_session(artifact.path / names[0], Target(runtime)).run(pixels)["restored"]
    broken = open_session(copy, Target(runtime)).run(pixels)["restored"]
    assert np.abs(whole - broken).max() > 50


def test_onnx_weights_are_zeroed_in_the_middle_and_shapes_left_alone(tmp_path: Path) -> None:
    weights = {
        "raw": numpy_helper.from_array(np.ones((16, 16), np.float32), "raw"),
        "listed": helper.make_tensor("listed", TensorProto.FLOAT, [64], np.ones(64).tolist()),
        "int8": numpy_helper.from_array(np.ones(64, np.int8), "int8"),
        "half": numpy_helper.from_array(np.ones(64, np.float16), "half"),
        "shape": numpy_helper.from_array(np.ones(64, np.int64), "shape"),
        "scalar": numpy_helper.from_array(np.float32(1), "scalar"),
    }
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [info],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        list(weights.values()),
    )
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    (tmp_path / "copy").mkdir()
    made = onnx.load(perturb.damaged_copy("onnxruntime", [tmp_path / "m.onnx"], tmp_path / "copy"))
    arrays = {x.name: numpy_helper.to_array(x).astype(float).ravel() for x in made.graph.initializer}
    for name in ("raw", "listed", "int8", "half"):
        assert arrays[name].mean() == pytest.approx(0.5), name
        assert arrays[name][0] == arrays[name][-1] == 1
    assert (arrays["shape"] == 1).all()
    assert arrays["scalar"] == [1]


def test_wrong_preprocessings() -> None:
    pixels = photo(8, 8)
    np.testing.assert_array_equal(perturb.swap_channels(perturb.swap_channels(pixels)), pixels)
    assert not np.array_equal(perturb.swap_channels(pixels), pixels)
    twice = perturb.normalise_twice(np.array([[[0, 100, 255]]], np.uint8))
    assert twice.tolist() == [[[115, 140, 178]]]
    assert twice.dtype == np.uint8


def test_grey_is_noticed() -> None:
    assert not perturb.is_grey(photo(20, 20)[None])
    assert perturb.is_grey(np.repeat(photo(20, 20)[None, :, :, :1], 3, axis=3))
