"""Dynamic int8: the layers it should take, the settings away from their defaults, and milder versions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pocketvit.compress.onnx_edit import counts
from pocketvit.compress.onnxruntime_dynamic import DynamicInt8
from pocketvit.compress.onnxruntime_int8 import outputs
from pocketvit.compress.step import StepReport
from pocketvit.compress.table import attempts
from pocketvit.errors import UsageError
from pocketvit.export.artifact import make_golden, pixel_model_of
from pocketvit.export.built import Built
from pocketvit.export.check import check_parity
from pocketvit.export.onnx import write
from pocketvit.spec.tasks import TASKS
from tests.compress.helpers import apply, context, mean_error, planned, reports
from tests.export.nets import cases, classifier, inputs, restorer

LAYERS = 10
"""Of the small classifier: four in each of two blocks, two heads."""


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return write(pixel_model_of(classifier()), (32, 40), tmp_path_factory.mktemp("float"), "net")


def integers(report: StepReport) -> dict[str, np.ndarray]:
    """Int8 weights of the file by name."""
    tensors = onnx.load(report.built.path).graph.initializer
    found = {x.name: numpy_helper.to_array(x) for x in tensors if x.data_type == onnx.TensorProto.INT8}
    return {name: values for name, values in found.items() if values.ndim == 2}


def test_every_layer_with_weights_is_quantised_without_an_image(float_file: Built, tmp_path: Path) -> None:
    report = apply(DynamicInt8(), float_file, [], None, tmp_path)
    graph = onnx.load(report.built.path)
    assert report.built.key == "onnxruntime:int8-dynamic"
    assert report.built.path.name == "net-int8-dynamic.onnx"
    assert counts(graph)["MatMulInteger"] == LAYERS
    assert counts(graph)["Gemm"] == 0
    assert counts(graph)["MatMul"] == 4  # attention's, of two activations
    assert report.notes == {"layers": LAYERS, "quantised": LAYERS, "float_share": 0.0}
    assert report.built.bytes < 0.7 * float_file.bytes
    golden = make_golden(classifier(), cases("classify"), 4)
    assert check_parity(report.built, golden, TASKS["classify"].tolerances["int8-dynamic"])["mean_cosine"] < 1


def test_ranges_follow_the_image(float_file: Built, tmp_path: Path) -> None:
    """Where a calibrated range would cut off, this one holds: an input as loud as can be is as near as a quiet one."""
    report = apply(DynamicInt8(), float_file, [], None, tmp_path)
    for value in (20, 255):
        picture = (np.random.default_rng(0).integers(0, 2, (32, 40, 3)) * value).astype(np.uint8)
        want, got = (outputs(onnx.load(file.path), [picture])[0] for file in (float_file, report.built))
        assert TASKS["classify"].change(got, want) < 0.05


def test_per_channel_is_nearer_and_reduce_range_has_seven_bits(float_file: Built, tmp_path: Path) -> None:
    found = {}
    for name, step in {
        "default": DynamicInt8(),
        "tensor": DynamicInt8(per_channel=False),
        "reduced": DynamicInt8(reduce_range=True),
    }.items():
        (tmp_path / name).mkdir()
        found[name] = apply(step, float_file, [], None, tmp_path / name)
    tops = {name: max(np.abs(x.astype(int)).max() for x in integers(report).values()) for name, report in found.items()}
    assert tops["reduced"] <= 64 < 120 < tops["default"]
    scales = [x for x in onnx.load(found["tensor"].built.path).graph.initializer if x.name.endswith("weight_t_scale")]
    assert scales
    assert all(numpy_helper.to_array(x).size == 1 for x in scales)
    pictures = inputs(classifier(), 6)
    reference = outputs(onnx.load(float_file.path), pictures)
    error = {name: mean_error(onnx.load(r.built.path), pictures, reference) for name, r in found.items()}
    assert error["default"] < error["reduced"]
    assert error["default"] < error["tensor"]


def test_ignored_layers_stay_in_float(float_file: Built, tmp_path: Path) -> None:
    report = apply(DynamicInt8(ignored=(r".*fc2", r"heads\.\d")), float_file, [], None, tmp_path)
    assert report.notes["quantised"] == LAYERS - 4
    assert 0 < report.notes["float_share"] < 0.5
    assert not any("fc2" in name or "heads" in name for name in integers(report))
    with pytest.raises(UsageError, match="names no layer"):
        apply(DynamicInt8(ignored=("fc9",)), float_file, [], None, tmp_path)
    with pytest.raises(UsageError, match="every layer is ignored"):
        apply(DynamicInt8(ignored=(".*",)), float_file, [], None, tmp_path)
    with pytest.raises(UsageError, match="no regular expression"):
        DynamicInt8(ignored=("(",))


def test_asked_again_the_worst_layers_go_back_to_float(float_file: Built, tmp_path: Path) -> None:
    pictures = inputs(classifier(), 4)
    found = []
    for report in attempts(planned(DynamicInt8(rank_images=2)), float_file, context(tmp_path, pictures)):
        found.append((report, counts(onnx.load(report.built.path))["MatMulInteger"]))
        if len(found) == 3:
            break
    assert [count for _, count in found] == sorted({count for _, count in found}, reverse=True)
    assert found[0][0].ranking == ()
    second, third = found[1][0], found[2][0]
    assert len(second.ranking) == LAYERS
    assert len(second.float_layers) == LAYERS - found[1][1]
    assert set(second.float_layers) < set(third.float_layers)
    assert second.notes["float_share"] > 0
    worst = [rank.error**2 / rank.macs for rank in second.ranking]
    assert worst == sorted(worst, reverse=True)


def test_it_ends_where_no_more_may_be_left_in_float(float_file: Built, tmp_path: Path) -> None:
    some = inputs(classifier(), 1)
    assert len(reports(DynamicInt8(), float_file, context(tmp_path))) == 1  # no images, no ranking
    assert len(reports(DynamicInt8(max_float_layers=0), float_file, context(tmp_path, some))) == 1
    last = reports(DynamicInt8(max_float_layers=2), float_file, context(tmp_path, some))[-1]
    assert len(last.float_layers) == 2


def test_what_it_refuses(float_file: Built, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="starts from onnxruntime:fp32, not openvino:fp32"):
        apply(DynamicInt8(), replace(float_file, runtime="openvino"), [], None, tmp_path)
    for wrong in ({"rank_images": 0}, {"max_float_layers": -1}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            DynamicInt8(**wrong)  # type: ignore[arg-type]


def test_a_graph_of_convolutions_has_little_for_it(tmp_path: Path) -> None:
    built = write(pixel_model_of(restorer((32, 48))), (32, 48), tmp_path, "net")
    report = apply(DynamicInt8(), built, [], None, tmp_path, "restore")
    assert counts(onnx.load(report.built.path))["ConvInteger"] == 0
