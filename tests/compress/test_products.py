"""Gemms as MatMul and Add: the same answers, every layer found, shared weights turned once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pocketvit.compress.layers import find_layers
from pocketvit.compress.onnx_edit import counts
from pocketvit.compress.onnxruntime_int8 import outputs
from pocketvit.compress.products import as_products
from pocketvit.errors import UsageError
from pocketvit.export.artifact import pixel_model_of
from pocketvit.export.onnx import write
from tests.export.nets import classifier, inputs


def test_a_classifier_keeps_its_answers_and_every_layer_its_name(tmp_path: Path) -> None:
    trained = classifier()
    built = write(pixel_model_of(trained), (32, 40), tmp_path, "net")
    source = onnx.load(built.path)
    graph, layers = as_products(built.path)
    assert counts(source)["Gemm"] == 2  # the heads, with bias and transB
    assert counts(graph)["Gemm"] == 0
    assert [x.node for x in layers] == [x.node for x in find_layers(source, ("Gemm", "MatMul"))]
    assert [x.macs for x in layers] == [x.macs for x in find_layers(source, ("Gemm", "MatMul"))]
    assert len(layers) == 2 * 4 + 2
    onnx.checker.check_model(graph, full_check=True)
    pictures = inputs(trained, 2)
    for want, got in zip(outputs(source, pictures), outputs(graph, pictures), strict=True):
        for a, b in zip(want, got, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def shared(path: Path, *, input_name: str = "pixels", transposed: int = 1) -> Path:
    """Two Gemms with one weight, of which the second has no bias, and one that is no plain layer."""
    rng = np.random.default_rng(0)
    body = helper.make_graph(
        [
            helper.make_node("Cast", [input_name], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["float", "shape"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w", "b"], ["one"], name="first/Gemm", transB=transposed),
            helper.make_node("Gemm", ["one", "w"], ["two"], name="second/Gemm", transB=transposed),
            helper.make_node("Gemm", ["two", "w"], ["three"], name="scaled/Gemm", transB=transposed, alpha=0.5),
        ],
        "g",
        [helper.make_tensor_value_info(input_name, TensorProto.UINT8, [1, 2, 2, 3])],
        [helper.make_tensor_value_info("three", TensorProto.FLOAT, [2, 6])],
        [
            numpy_helper.from_array(rng.normal(size=(6, 6)).astype(np.float32), "w"),
            numpy_helper.from_array(rng.normal(size=6).astype(np.float32), "b"),
            numpy_helper.from_array(np.array([2, 6]), "shape"),
        ],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


@pytest.mark.parametrize("transposed", [0, 1])
def test_shared_weights_gemms_without_bias_and_scaled_ones(tmp_path: Path, transposed: int) -> None:
    file = shared(tmp_path / "g.onnx", transposed=transposed)
    graph, layers = as_products(file)
    assert [x.label for x in layers] == ["first", "second"]
    assert counts(graph) == {"Cast": 1, "Reshape": 1, "MatMul": 2, "Add": 1, "Gemm": 1}
    assert len({x.weight for x in layers}) == 1
    image = np.random.default_rng(1).integers(0, 256, (2, 2, 3)).astype(np.uint8)
    (want,), (got,) = (outputs(m, [image])[0] for m in (onnx.load(file), graph))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_file_of_others_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a file that pocketvit exported"):
        as_products(shared(tmp_path / "g.onnx", input_name="x"))
