"""Products on processors with AVX2 and without VNNI: what is emulated is what ONNX Runtime does there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pocketvit.compress import onnxruntime_int8 as module
from pocketvit.compress.avx2 import OnAvx2, count_saturated, emulated, on_avx2, products, saturated_product, saturation
from pocketvit.compress.onnx_graph import LeanGraph, rewrite
from pocketvit.compress.onnxruntime_dynamic import DynamicInt8
from pocketvit.compress.onnxruntime_int8 import StaticInt8, outputs
from pocketvit.errors import UsageError
from pocketvit.export.artifact import pixel_model_of
from pocketvit.export.built import Built
from pocketvit.export.onnx import write
from pocketvit.runtimes.onnxruntime import saturates
from tests.compress.helpers import apply
from tests.export.nets import classifier, inputs

QEMU = shutil.which("qemu-x86_64")
LOUD = 100


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return write(pixel_model_of(classifier()), (32, 40), tmp_path_factory.mktemp("float"), "net")


def file(path: Path, kind: str, inner: int = 33, top: int = 127) -> tuple[Path, np.ndarray]:
    """A product of pixels as they are with weights of which many pairs are loud; written in three ways."""
    rng = np.random.default_rng(0)
    weights = (np.sign(rng.normal(size=(inner, 8))) * rng.integers(top // 2, top + 1, (inner, 8))).astype(np.int8)
    scales = {"a": np.float32(1.0), "b": np.full(8, 0.5, np.float32), "zero": np.uint8(0), "no": np.zeros(8, np.int8)}
    shape = np.array([4, inner])
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "shape"], ["flat"]),
        helper.make_node("QuantizeLinear", ["flat", "a", "zero"], ["q"]),
    ]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    if kind == "qdq":
        nodes += [
            helper.make_node("DequantizeLinear", ["q", "a", "zero"], ["x"]),
            helper.make_node("DequantizeLinear", ["w", "b", "no"], ["y"], axis=0),
            helper.make_node("Gemm", ["x", "y"], ["out"], name="product", transB=1),
        ]
    elif kind == "integer":
        nodes += [
            helper.make_node("MatMulInteger", ["q", "w"], ["whole"], name="product"),
            helper.make_node("Cast", ["whole"], ["out"], to=TensorProto.FLOAT),
        ]
    else:
        names = ["q", "w", "a", "b"]
        nodes += [helper.make_node("MatMulIntegerToFloat", names, ["out"], name="product", domain="com.microsoft")]
    stored = weights.T if kind == "qdq" else weights
    tensors = {**scales, "w": np.ascontiguousarray(stored), "shape": shape}
    body = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, [1, 4, inner // 3, 3])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [4, 8])],
        [numpy_helper.from_array(np.asarray(x), name) for name, x in tensors.items()],
    )
    onnx.save(helper.make_model(body, opset_imports=opsets, ir_version=10), path)
    return path, weights


def loud(inner: int = 33) -> np.ndarray:
    return np.random.default_rng(1).integers(150, 256, (4, inner // 3, 3)).astype(np.uint8)


def test_counts_and_sums_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    rows, weights = rng.integers(0, 256, (5, 7)).astype(np.uint8), rng.integers(-127, 128, (7, 3)).astype(np.int8)
    total, count = np.zeros((5, 3), int), 0
    for r in range(5):
        for n in range(3):
            for k in range(0, 7, 2):
                pair = sum(int(rows[r, i]) * int(weights[i, n]) for i in (k, k + 1) if i < 7)
                count += not -32768 <= pair <= 32767
                total[r, n] += min(max(pair, -32768), 32767)
    assert count > 0
    assert count_saturated(rows, weights) == count
    np.testing.assert_array_equal(saturated_product(rows, weights), total)


@pytest.mark.parametrize("kind", ["qdq", "integer", "fused"])
def test_an_emulated_graph_answers_as_the_definition_says(tmp_path: Path, kind: str) -> None:
    path, weights = file(tmp_path / "a.onnx", kind)
    graph, image = onnx.load(path), loud()
    (found,) = saturation(graph, [image])
    rows = image.reshape(4, -1)
    assert (found.node, found.saturated) == ("product", count_saturated(rows, weights))
    assert found.pairs == 4 * 17 * 8
    assert found.share > 0.1
    scale = 1.0 if kind == "integer" else 0.5
    np.testing.assert_allclose(outputs(emulated(graph), [image])[0][0], saturated_product(rows, weights) * scale)
    exact = rows.astype(np.int32) @ weights.astype(np.int32)
    np.testing.assert_allclose(outputs(graph, [image])[0][0], exact * scale)
    onnx.checker.check_model(emulated(graph))


def test_seven_bits_never_saturate_and_leave_the_graph_as_it_is(tmp_path: Path) -> None:
    path, _ = file(tmp_path / "a.onnx", "qdq", top=63)
    graph = onnx.load(path)
    assert [(x.pairs, x.saturated) for x in saturation(graph, [np.full((4, 11, 3), 255, np.uint8)])] == [(0, 0)]
    assert len(emulated(graph).graph.node) == len(graph.graph.node)


@pytest.mark.slow
@pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 is not installed")
def test_onnxruntime_on_an_emulated_processor_without_vnni_gives_the_same_and_exact_ones_where_asked(
    tmp_path: Path,
) -> None:
    """The engine itself, run on an emulated Haswell: as it stands, and with the option that our runtime sets."""
    files = {kind: file(tmp_path / f"{kind}.onnx", kind)[0] for kind in ("qdq", "integer", "fused")}
    np.save(tmp_path / "image.npy", loud())
    code = f"""
import sys, json
sys.path.insert(0, {sysconfig.get_paths()["purelib"]!r})
import numpy as np, onnxruntime
for kind in ("qdq", "integer", "fused"):
    for option in ("0", "1"):
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.x64quantprecision", option)
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession({str(tmp_path)!r} + f"/{{kind}}.onnx", options)
        (answer,) = session.run(None, {{"pixels": np.load({str(tmp_path / "image.npy")!r})[None]}})
        print(json.dumps([kind, option, answer.tolist()]), flush=True)
"""
    command = [str(QEMU), "-cpu", "Haswell", str(Path(sys.executable).resolve()), "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(answers) == 6, run.stderr[-2000:]
    for kind, option, answer in answers:
        graph = onnx.load(files[kind])
        wanted = outputs(graph if option == "1" else emulated(graph), [loud()])[0][0]
        np.testing.assert_allclose(np.array(answer), wanted, rtol=1e-6, err_msg=f"{kind} {option}")


def test_every_quantised_layer_of_our_files_is_found(built: Built, tmp_path: Path) -> None:
    pictures = inputs(classifier(), 4)
    report = apply(StaticInt8(rank_images=2, max_float_layers=0, weigh="work"), built, pictures, None, tmp_path)
    graph = onnx.load(report.built.path)
    assert len(products(graph)) == report.notes["layers"] == report.notes["avx2"]["products"] == 10
    lean, _ = rewrite(graph, LeanGraph())
    assert len(products(lean)) >= 10  # queries, keys and values stand apart there
    dynamic = apply(DynamicInt8(), built, [], None, tmp_path)
    assert len(products(onnx.load(dynamic.built.path))) == 10


def test_what_is_harmed_is_what_is_worse_there_than_here_and_than_accepted() -> None:
    base = OnAvx2(10, 3, 1e-4, 0.01, 0.011, 0.02)
    assert not base.harmed
    assert not replace(base, error_there=0.019).harmed  # accepted
    assert replace(base, error_there=0.021).harmed
    assert not replace(base, error=0.05, error_there=0.06).harmed  # no worse than here
    assert replace(base, error_there=float("nan")).harmed
    assert base.told == "on AVX2 without VNNI (emulated) 3 of 10 products saturate, error 0.01 becomes 0.011"
    assert replace(base, saturating=0).told == ""
    assert base.to_dict()["how"] == "emulated"


def test_nothing_is_run_twice_where_nothing_saturates(tmp_path: Path) -> None:
    graph = onnx.load(file(tmp_path / "a.onnx", "qdq", top=63)[0])
    found = on_avx2(graph, [loud()], lambda graph: 1 / 0, 0.25, 0.1)
    assert (found.saturating, found.error_there, found.harmed) == (0, 0.25, False)


def test_a_file_that_is_wrong_there_says_so_and_seven_bits_are_asked_for(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def harmful(*arguments: object) -> OnAvx2:
        return replace(on_avx2(*arguments), saturating=2, error_there=9.0)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "on_avx2", harmful)
    step = StaticInt8(rank_images=2, max_float_layers=0, weigh="work")
    report = apply(step, built, inputs(classifier(), 4), None, tmp_path)
    assert report.told.startswith("on AVX2 without VNNI (emulated) 2 of 10 products saturate")
    assert report.notes["avx2"]["harmed"] is True
    seven = apply(replace(step, reduce_range=True), built, inputs(classifier(), 4), None, tmp_path)
    tensors = [x for x in onnx.load(seven.built.path).graph.initializer if x.data_type == TensorProto.INT8]
    assert max(np.abs(numpy_helper.to_array(x).astype(int)).max() for x in tensors) == 63


@pytest.mark.parametrize(("flags", "wanted"), [(["avx2"], True), (["avx2", "avx_vnni"], False), ([], False)])
def test_exact_products_are_asked_for_where_they_would_saturate(
    flags: list[str], wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocketvit.runtimes.onnxruntime.processor", lambda: {"flags": flags})
    assert saturates.__wrapped__() is wanted


def test_settings_stay_checked() -> None:
    with pytest.raises(UsageError, match="weigh"):
        StaticInt8(weigh="luck")  # type: ignore[arg-type]
