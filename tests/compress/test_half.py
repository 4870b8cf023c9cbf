"""fp16: what float16 cannot hold is found on images, stays in float32, and is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch

from pocketvit.compress.cast import Fp16
from pocketvit.compress.half import LARGEST, fits, scan_onnx
from pocketvit.compress.step import StepReport
from pocketvit.errors import UsageError
from pocketvit.export.artifact import pixel_model_of
from pocketvit.export.built import Built
from pocketvit.export.check import run_file
from pocketvit.export.onnx import write
from pocketvit.export.openvino import save
from tests.compress.helpers import apply
from tests.export.nets import classifier, inputs

LOUD = "backbone.blocks.1.mlp.fc1"
NAMES = ["probs_coarse", "probs_fine"]


def files(folder: Path, factor: float, rows: slice = slice(None)) -> dict[str, Built]:
    """A classifier whose second block is ``factor`` times louder inside (``rows`` of it), and no other outside."""
    trained = classifier()
    block = trained.model.backbone.blocks[1].mlp
    with torch.no_grad():
        block.fc1.weight[rows] *= factor
        block.fc1.bias[rows] *= factor
        block.fc2.weight[:, rows] /= factor
    built = write(pixel_model_of(trained), (32, 40), folder, "net")
    return {"onnxruntime": built, "openvino": save(openvino.convert_model(str(built.path)), folder, "net", "fp32")}


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """Activations are too large for float16, weights are not."""
    return files(tmp_path_factory.mktemp("loud"), 3e4)


@pytest.fixture(scope="module")
def louder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    return files(tmp_path_factory.mktemp("louder"), 1e6, slice(5, 6))


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    return files(tmp_path_factory.mktemp("quiet"), 1.0)


def answers(built: Built) -> np.ndarray:
    found = run_file(built, np.stack(inputs(classifier(), 4)), NAMES)
    return np.concatenate([found[name] for name in NAMES], axis=1)


def made(files: dict[str, Built], runtime: str, folder: Path, **settings: object) -> StepReport:
    return apply(Fp16(**settings), files[runtime], inputs(classifier(), 4), None, folder)  # type: ignore[arg-type]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_layer_that_overflows_stays_in_float_and_is_named(
    loud: dict[str, Built], tmp_path: Path, runtime: str
) -> None:
    report = made(loud, runtime, tmp_path)
    notes = report.notes
    assert notes["images"] == 4
    assert notes["peak"] > LARGEST / 2
    assert notes["float_nodes"]
    assert all("blocks.1.mlp" in name or "gelu" in name.lower() for name in notes["float_nodes"])
    assert notes["float_weights"]
    if runtime == "onnxruntime":  # OpenVINO's constants have no names of their own
        assert any(LOUD in name for name in notes["float_weights"])
    assert not any("blocks.0" in name or "attn" in name for name in notes["float_weights"])
    assert notes["half_weights"] > 3
    assert f"{len(notes['float_nodes'])} operations" in report.told
    assert report.built.bytes < loud[runtime].bytes
    np.testing.assert_allclose(answers(report.built), answers(loud[runtime]), atol=0.02)


def test_the_weights_of_such_a_layer_are_stored_as_they_were(loud: dict[str, Built], tmp_path: Path) -> None:
    graph = onnx.load(made(loud, "onnxruntime", tmp_path).built.path)
    kinds = {x.name: x.data_type for x in graph.graph.initializer}
    assert kinds[f"{LOUD}.weight_t"] == onnx.TensorProto.FLOAT
    assert kinds["backbone.blocks.0.mlp.fc1.weight_t.half"] == onnx.TensorProto.FLOAT16


def test_openvino_reads_the_marks_of_the_file(loud: dict[str, Built], tmp_path: Path) -> None:
    report = made(loud, "openvino", tmp_path)
    graph = openvino.Core().read_model(str(report.built.path))
    marked = {op.get_friendly_name() for op in graph.get_ops() if "DisablePrecisionConversion_0" in op.get_rt_info()}
    assert set(report.notes["float_nodes"]) <= marked
    stored = {op.get_friendly_name(): str(op.data.dtype) for op in graph.get_ops() if op.get_type_name() == "Constant"}
    assert all(stored[name] == "float32" for name in report.notes["float_weights"])
    assert sum(kind == "float16" for kind in stored.values()) >= report.notes["half_weights"]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_weights_that_are_too_large_are_found_without_an_image(
    louder: dict[str, Built], tmp_path: Path, runtime: str
) -> None:
    report = made(louder, runtime, tmp_path, scan=False)
    assert (report.notes["images"], report.notes["peak"], report.notes["float_nodes"]) == (0, 0.0, [])
    assert len(report.notes["float_weights"]) == 1
    if runtime == "openvino":
        assert largest_constant(report.built.path) == largest_constant(louder[runtime].path) > LARGEST


def largest_constant(path: Path) -> float:
    graph = openvino.Core().read_model(str(path))
    constants = [op.data for op in graph.get_ops() if op.get_type_name() == "Constant"]
    return max(float(np.abs(x).max()) for x in constants if x.dtype.kind == "f" and x.size > 100)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_where_nothing_is_left_it_says_so(loud: dict[str, Built], tmp_path: Path, runtime: str) -> None:
    with pytest.raises(UsageError, match="no weight is left for float16") as error:
        made(loud, runtime, tmp_path, headroom=1e9)
    assert error.value.todo == "Leave fp16 out for this model, or take bf16."
    with pytest.raises(UsageError, match="headroom"):
        Fp16(headroom=0.5)


def test_a_network_that_fits_is_left_alone(quiet: dict[str, Built], tmp_path: Path) -> None:
    for runtime in quiet:
        report = made(quiet, runtime, tmp_path)
        assert (report.notes["float_nodes"], report.notes["float_weights"], report.told) == ([], [], "")


def test_peaks_are_those_of_the_activations(quiet: dict[str, Built]) -> None:
    graph = onnx.load(quiet["onnxruntime"].path)
    found = scan_onnx(graph, [np.full((32, 40, 3), 255, np.uint8)], 2.0, 1024)
    assert 255 <= found.peak < 1000  # the pixels as floats are the largest, or nearly so
    assert not fits(float("nan"))
    assert fits(LARGEST)
    assert not fits(LARGEST, 1.01)
