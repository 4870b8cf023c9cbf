"""Weights in 8 and 4 bits: every layer is changed, answers stay near, files are as small as the bits say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest

from pocketvit.compress import weight_only
from pocketvit.compress.onnx_edit import attributes, counts
from pocketvit.compress.step import StepReport
from pocketvit.compress.table import Planned, attempts, plan_slots
from pocketvit.compress.weight_only import WeightOnly
from pocketvit.errors import UsageError
from pocketvit.export.artifact import pixel_model_of
from pocketvit.export.built import Built
from pocketvit.export.check import run_file
from pocketvit.export.formats import exporter
from pocketvit.spec.tasks import TASKS
from tests.compress.helpers import context
from tests.export.nets import classifier, inputs

LAYERS = 10
SIZES = {"embed_dim": 96, "num_heads": 2}
"""Wide enough for weights to be most of a file, and 96 is no multiple of 64: the last block of a channel is short."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    trained, folder = classifier(SIZES), tmp_path_factory.mktemp("float")
    made = {x: exporter(x)(pixel_model_of(trained), (32, 40), folder, "net") for x in ("onnx", "openvino")}
    return {"onnxruntime": made["onnx"], "openvino": made["openvino"]}


def step_of(runtime: str, **settings: object) -> Planned:
    ((step,),) = plan_slots([{"weights": settings}], runtime)
    return step


def carried_out(files: dict[str, Built], runtime: str, folder: Path, **settings: object) -> StepReport:
    folder.mkdir(exist_ok=True)
    return next(attempts(step_of(runtime, **settings), files[runtime], context(folder)))


def error_of(files: dict[str, Built], built: Built) -> float:
    pictures = np.stack(inputs(classifier(SIZES), 4))
    names = ["probs_coarse", "probs_fine"]
    want, got = (run_file(file, pictures, names) for file in (files[built.runtime], built))
    sides = [[[x[name][i : i + 1] for name in names] for i in range(len(pictures))] for x in (got, want)]
    return float(np.mean([TASKS["classify"].change(a, b) for a, b in zip(*sides, strict=True)]))


@pytest.mark.parametrize(("bits", "share"), [(8, 0.36), (4, 0.25)])
def test_onnxruntime_changes_every_layer_and_says_so(
    files: dict[str, Built], tmp_path: Path, bits: int, share: float
) -> None:
    report = carried_out(files, "onnxruntime", tmp_path, bits=bits)
    graph = onnx.load(report.built.path)
    assert report.built.key == "onnxruntime:weights"
    assert counts(graph)["MatMulNBits"] == LAYERS  # those that were Gemms with bias and transB among them
    assert counts(graph)["Gemm"] == 0
    assert report.notes == {"bits": bits, "layers": LAYERS, "changed": LAYERS}
    assert report.built.bytes < share * files["onnxruntime"].bytes
    assert f"weights in {bits} bits" in report.told
    assert 0 < error_of(files, report.built) < (0.05 if bits == 8 else 0.5)


def test_settings_of_onnxruntime_reach_the_nodes(files: dict[str, Built], tmp_path: Path) -> None:
    def nodes(**settings: object) -> tuple[list[dict[str, object]], int, int, float]:
        report = carried_out(files, "onnxruntime", tmp_path / "-".join(map(str, settings.values())), **settings)
        found = [node for node in onnx.load(report.built.path).graph.node if node.op_type == "MatMulNBits"]
        inputs_of = {len([x for x in node.input if x]) for node in found}
        return [attributes(n) for n in found], max(inputs_of), report.built.bytes, error_of(files, report.built)

    plain = nodes(bits=4, block=16, activations="float")
    assert {(x["bits"], x["block_size"], x["accuracy_level"]) for x in plain[0]} == {(4, 16, 1)}
    assert plain[1] == 3
    wide = nodes(bits=4, block=64, activations="int8")
    assert {(x["bits"], x["block_size"], x["accuracy_level"]) for x in wide[0]} == {(4, 64, 4)}
    assert wide[2] < plain[2]
    assert wide[3] != plain[3]
    assert nodes(bits=8, symmetric=False)[1] == 4  # zero points


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "symmetric", "kind"), [(8, True, "i8"), (8, False, "u8"), (4, True, "i4")])
def test_openvino_changes_every_layer_and_reads_them_as_stored(
    files: dict[str, Built], tmp_path: Path, bits: int, symmetric: bool, kind: str
) -> None:
    report = carried_out(files, "openvino", tmp_path, bits=bits, symmetric=symmetric)
    assert report.built.key == "openvino:weights"
    assert report.notes["layers"] == report.notes["changed"] == LAYERS
    assert report.notes["stored"] == {kind: LAYERS}
    # Few outputs have no kernel of their own in some versions; what is not read as stored is told.
    found = report.notes["kernels"]
    assert sum(found.values()) == LAYERS
    widened = sum(count for name, count in found.items() if name == "f32")
    assert (f"{widened} of {LAYERS} are computed from widened weights here" in report.told) == bool(widened)
    stored = files["openvino"].path.with_suffix(".bin").stat().st_size
    assert report.built.path.with_suffix(".bin").stat().st_size < (0.36 if bits == 8 else 0.25) * stored
    assert 0 < error_of(files, report.built) < (0.05 if bits == 8 else 0.5)
    assert openvino.Core().read_model(str(report.built.path)) is not None


def test_an_engine_without_a_kernel_is_named(
    files: dict[str, Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(graph: onnx.ModelProto, threads: int) -> None:
        raise RuntimeError("NOT_IMPLEMENTED : Could not find an implementation for MatMulNBits(1)")

    monkeypatch.setattr(weight_only, "session", none)
    with pytest.raises(UsageError, match=r"no kernel for 4 bits in blocks of 32 \(NOT_IMPLEMENTED"):
        carried_out(files, "onnxruntime", tmp_path, bits=4)
    assert not list(tmp_path.glob("*.onnx"))


def test_what_it_refuses(files: dict[str, Built], tmp_path: Path) -> None:
    for runtime, built in files.items():
        with pytest.raises(UsageError, match="weights starts from"):
            next(attempts(step_of(runtime), replace(built, precision="int8"), context(tmp_path)))
    wrong: tuple[dict[str, object], ...] = ({"bits": 2}, {"block": 48}, {"activations": "int4"})
    for settings in wrong:
        with pytest.raises(UsageError, match=next(iter(settings))):
            WeightOnly(**settings)  # type: ignore[arg-type]
