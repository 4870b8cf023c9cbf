from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from pocketvit.compress.fuse import Fuse, folded
from pocketvit.compress.onnx_edit import attributes, counts
from pocketvit.compress.onnx_graph import LeanGraph, executed, rewrite
from pocketvit.compress.onnxruntime_int8 import StaticInt8, outputs
from pocketvit.errors import DataError, UsageError, VerificationError
from pocketvit.export.artifact import pixel_model_of
from pocketvit.export.built import Built
from pocketvit.export.onnx import write
from tests.compress.helpers import apply
from tests.export.nets import classifier, inputs, restorer


def exported(folder: Path, **vit: object) -> Built:
    return write(pixel_model_of(classifier(vit)), (32, 40), folder, "net")


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return exported(tmp_path_factory.mktemp("float"))


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return inputs(classifier(), 8)


@pytest.fixture(scope="module")
def int8_file(float_file: Built, pictures: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Built:
    step = StaticInt8(max_float_layers=0, rank_images=2)
    return apply(step, float_file, pictures, None, tmp_path_factory.mktemp("int8")).built


def kinds(built: Built) -> Counter[str]:
    return counts(onnx.load(built.path))


def difference(a: Built, b: Built, pictures: list[np.ndarray]) -> float:
    """Largest difference of any output."""
    one, other = (outputs(onnx.load(x.path), pictures) for x in (a, b))
    return max(float(np.abs(p - q).max()) for x, y in zip(one, other, strict=True) for p, q in zip(x, y, strict=True))


def test_what_fuse_has_folded_is_understood(int8_file: Built, pictures: list[np.ndarray], tmp_path: Path) -> None:
    network, found = folded(Fuse(), classifier())
    assert found == {"norms": 5, "attention": 2}
    built = write(pixel_model_of(network), (32, 40), tmp_path, "net")
    lean = apply(LeanGraph(), built, pictures, None, tmp_path).built
    assert difference(built, lean, pictures) < 1e-5
    attentions = [node for node in onnx.load(lean.path).graph.node if node.op_type == "MultiHeadAttention"]
    assert [attributes(node)["scale"] for node in attentions] == [1.0, 1.0]
    # The norms, which share one constant now, take over what evens out channels in int8 as they did with their own.
    step = StaticInt8(max_float_layers=0, rank_images=2)
    int8 = apply(step, built, pictures, None, tmp_path).built
    evened = [sum(node.name.endswith("/even") for node in onnx.load(x.path).graph.node) for x in (int8_file, int8)]
    assert evened[0] == evened[1]
    assert difference(built, int8, pictures) < 0.2
    assert kinds(apply(LeanGraph(), int8, pictures, None, tmp_path).built)["MultiHeadAttention"] == 2


def test_a_float_file_becomes_lean_and_answers_the_same(
    float_file: Built, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    report = apply(LeanGraph(), float_file, pictures, None, tmp_path)
    assert (report.step, report.built.key, report.built.path.name) == ("graph", "onnxruntime:fp32", "net-lean.onnx")
    assert difference(float_file, report.built, pictures) < 1e-5
    before, after = kinds(float_file), kinds(report.built)
    assert after.total() < 0.6 * before.total()
    assert (after["MultiHeadAttention"], after["BiasGelu"], after["LayerNormalization"]) == (2, 2, 5)
    assert not after.keys() & {"Gelu", "Split", "Squeeze"}
    assert before["Softmax"] - after["Softmax"] == 2  # the heads keep theirs
    notes = report.notes
    assert notes["nodes"] == [before.total(), after.total()]
    assert notes["nodes_run"][1] == executed(report.built.path).total() < notes["nodes_run"][0]
    assert notes["max_abs"] == difference(float_file, report.built, pictures)
    assert notes["rewrites"]["attention"] == 2
    assert f"{notes['nodes_run'][0]} nodes became {notes['nodes_run'][1]}" in report.told
    onnx.checker.check_model(onnx.load(report.built.path))


def test_behind_int8_every_quantised_layer_becomes_one_integer_kernel(
    float_file: Built, int8_file: Built, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    report = apply(LeanGraph(), int8_file, pictures, None, tmp_path)
    assert report.built.key == "onnxruntime:int8"
    after = executed(report.built.path)
    # Of the two blocks: Q, K, V, projection, two layers of the MLP; and the two heads.
    assert after["MatMulIntegerToFloat"] == 2 * 6 + 2
    assert not after.keys() & {"Gemm", "MatMul", "QGemm", "DequantizeLinear", "Split"}
    assert after["QuantizeLinear"] <= 2 * 4 + 2  # one for Q, K and V together
    assert after["Reshape"] <= 1  # of the patches
    assert after.total() < 0.75 * executed(int8_file.path).total()
    assert difference(int8_file, report.built, pictures) < 0.02
    assert difference(float_file, report.built, pictures) > 1e-4  # it is quantised still
    assert report.built.bytes < 1.1 * int8_file.bytes


def test_layers_left_in_float_and_seven_bits_go_along(
    float_file: Built, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    step = StaticInt8(max_error=1e-6, max_float_layers=3, max_float_share=1.0, rank_images=2, reduce_range=True)
    mixed = apply(step, float_file, pictures, None, tmp_path)
    assert len(mixed.float_layers) == 3
    report = apply(LeanGraph(), mixed.built, pictures, None, tmp_path)
    assert difference(mixed.built, report.built, pictures) < 0.02
    after = executed(report.built.path)
    assert after["MultiHeadAttention"] == 2
    assert after["MatMulIntegerToFloat"] >= 2 * 4 + 2 - 3


def test_only_the_class_token_is_computed_behind_the_last_attention(
    float_file: Built, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    model = onnx.load(float_file.path)
    lean, found = rewrite(model, LeanGraph())
    full, without = rewrite(model, LeanGraph(drop_rows=False))
    assert found["dead_rows"] > 5
    assert "dead_rows" not in without
    answers = [outputs(graph, pictures) for graph in (lean, full)]
    np.testing.assert_allclose(np.concatenate(answers[0][0], axis=1), np.concatenate(answers[1][0], axis=1), atol=1e-5)
    wide = onnx.ModelProto()
    wide.CopyFrom(lean)
    for node in [node for node in wide.graph.node if node.op_type == "BiasGelu"]:
        wide.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None))
    shapes = [x.shape for x in outputs(wide, pictures[:1])[0][-2:]]
    assert shapes == [(1, 21, 128), (1, 1, 128)]


@pytest.mark.parametrize(
    ("vit", "attention", "rows"),
    [
        ({"pool": "gap"}, 2, False),
        ({"pool": "map"}, 2, False),
        ({"layer_scale": 0.7}, 2, True),
        ({"attention": "linear"}, 0, True),
        ({"patch_embed": "linear", "positions": "sinusoidal"}, 2, True),
        ({"num_heads": 4, "final_norm": False}, 2, True),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_kind_of_vit(
    vit: dict[str, object], attention: int, rows: bool, precision: str, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    source = exported(tmp_path, **vit)
    if precision == "int8":
        source = apply(StaticInt8(max_float_layers=0, rank_images=2), source, pictures, None, tmp_path).built
    report = apply(LeanGraph(), source, pictures, None, tmp_path)
    found = report.notes["rewrites"]
    assert found.get("attention", 0) == attention
    # Of what int8 has cut to one row, only the queries of attention are left.
    assert ("dead_rows" in found) == (rows and (precision == "fp32" or attention > 0))
    assert ("layer_scale" in found) == ("layer_scale" in vit)
    assert difference(source, report.built, pictures) < (1e-5 if precision == "fp32" else 0.02)
    assert report.notes["nodes"][1] <= (0.8 if attention else 1) * report.notes["nodes"][0]


def test_approximate_gelus_are_measured(float_file: Built, pictures: list[np.ndarray], tmp_path: Path) -> None:
    errors, used = {}, {}
    for kind in ("exact", "tanh", "sigmoid"):
        report = apply(LeanGraph(gelu=kind, max_error=1.0), float_file, pictures, None, tmp_path)  # type: ignore[arg-type]
        errors[kind], used[kind] = report.notes["max_abs"], kinds(report.built)
    assert errors["exact"] < 1e-5 < errors["tanh"] < errors["sigmoid"]
    assert used["tanh"]["FastGelu"] == used["sigmoid"]["QuickGelu"] == 2
    with pytest.raises(VerificationError, match="answers differently"):
        apply(LeanGraph(gelu="sigmoid", max_error=1e-6), float_file, pictures, None, tmp_path)


def test_attention_of_another_scale_is_left_alone(
    float_file: Built, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    model = onnx.load(float_file.path)
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    half = onnx.helper.make_node("Mul", [softmax.input[0], "factor"], ["other"], name="other")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.5), "factor"))
    at = list(model.graph.node).index(softmax)
    model.graph.node.insert(at, half)
    softmax.input[0] = "other"
    lean, found = rewrite(model, LeanGraph())
    assert found["attention"] == 1
    for a, b in zip(outputs(model, pictures), outputs(lean, pictures), strict=True):
        np.testing.assert_allclose(a[-1], b[-1], atol=1e-5)


def test_a_switch_leaves_attention_as_it_is(float_file: Built, pictures: list[np.ndarray], tmp_path: Path) -> None:
    report = apply(LeanGraph(fuse_attention=False), float_file, pictures, None, tmp_path)
    assert kinds(report.built)["Softmax"] == kinds(float_file)["Softmax"]
    assert "attention" not in report.notes["rewrites"]
    assert difference(float_file, report.built, pictures) < 1e-5


def test_a_graph_without_such_patterns_stays_as_it_is(tmp_path: Path) -> None:
    trained = restorer((32, 48))  # convolutions, and attention in windows: many small pictures, not one row of tokens
    built = write(pixel_model_of(trained), (32, 48), tmp_path, "net")
    with pytest.raises(UsageError, match="stays as it is") as error:
        apply(LeanGraph(), built, inputs(trained, 2), None, tmp_path)
    assert error.value.exit_code == 2
    assert [x.name for x in tmp_path.iterdir()] == ["net.onnx"]


def test_refusals(float_file: Built, pictures: list[np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown gelu 'fast'"):
        LeanGraph(gelu="fast")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="max_error"):
        LeanGraph(max_error=0.0)
    with pytest.raises(DataError, match="no calibration images"):
        apply(LeanGraph(), float_file, [], None, tmp_path)
    for runtime, precision in (("openvino", "fp32"), ("onnxruntime", "fp16")):
        with pytest.raises(UsageError, match="graph starts from"):
            apply(LeanGraph(), Built(runtime, precision, float_file.path), pictures, None, tmp_path)
