from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest

from pocketvit.compress.cast import Bf16, Fp16
from pocketvit.compress.onnxruntime_int8 import StaticInt8
from pocketvit.compress.openvino_int8 import NncfInt8
from pocketvit.compress.qdq import activation_parameters, fake, fit_weight, weight_parameters
from pocketvit.compress.table import STEPS, attempts, plan_slots
from pocketvit.errors import DataError, UsageError
from pocketvit.export.artifact import make_golden, pixel_model_of
from pocketvit.export.built import Built
from pocketvit.export.check import check_parity, run_file
from pocketvit.export.formats import exporter
from pocketvit.spec.golden import Golden
from pocketvit.spec.parity import compare_all
from pocketvit.spec.tasks import TASKS
from tests.compress.helpers import apply, context, planned
from tests.export.nets import cases, classifier, inputs, restorer


@pytest.fixture(scope="module")
def golden() -> Golden:
    return make_golden(classifier(), cases("classify"), 4)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    trained, folder = classifier(), tmp_path_factory.mktemp("float")
    return {
        name: exporter(name)(pixel_model_of(trained), trained.preprocess.size, folder, "net")
        for name in ("onnx", "openvino")
    }


def test_bf16_is_the_same_files_under_another_precision(
    files: dict[str, Built], golden: Golden, tmp_path: Path
) -> None:
    report = apply(Bf16(), files["openvino"], [], lambda path: 7.0, tmp_path)
    assert report.built == Built("openvino", "bf16", files["openvino"].path, files["openvino"].companions)
    assert list(tmp_path.iterdir()) == []
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert check_parity(report.built, golden, TASKS["classify"].tolerances["bf16"])["max_abs"] > 1e-5


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_fp16_stores_half(files: dict[str, Built], golden: Golden, tmp_path: Path, format: str) -> None:
    report = apply(Fp16(), files[format], [], None, tmp_path)
    assert (report.step, report.built.precision, report.built.runtime) == ("fp16", "fp16", files[format].runtime)
    assert report.built.bytes < 0.75 * files[format].bytes
    assert check_parity(report.built, golden, TASKS["classify"].tolerances["fp16"])["max_abs"] > 0
    assert report.scores == ()


def nncf_answers(
    files: dict[str, Built], golden: Golden, folder: Path, **options: object
) -> tuple[Built, dict[str, float], int]:
    folder.mkdir()
    report = apply(NncfInt8(**options), files["openvino"], list(golden.inputs), None, folder)  # type: ignore[arg-type]
    graph = openvino.Core().read_model(str(report.built.path))
    found = compare_all(run_file(report.built, golden.inputs, list(golden.outputs)), golden.outputs)
    return report.built, found, sum(op.get_type_name() == "FakeQuantize" for op in graph.get_ops())


@pytest.mark.slow
def test_nncf_int8_and_its_options(files: dict[str, Built], golden: Golden, tmp_path: Path) -> None:
    built, found, quantisers = nncf_answers(files, golden, tmp_path / "a")
    assert built.key == "openvino:int8"
    assert built.path.name == "net-int8.xml"
    assert built.bytes < 0.9 * files["openvino"].bytes
    assert found["min_cosine"] > 0.95
    assert quantisers > 5
    without_fc2 = nncf_answers(files, golden, tmp_path / "b", ignored=(".*fc2.*",))
    assert without_fc2[2] < quantisers
    plain = nncf_answers(
        files,
        golden,
        tmp_path / "c",
        transformer=False,
        preset="performance",
        fast_bias_correction=False,
        smooth_quant=-1.0,
    )
    assert plain[1] != found


def test_nncf_errors(files: dict[str, Built], golden: Golden, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ignored"):
        apply(NncfInt8(ignored=("no such layer",)), files["openvino"], list(golden.inputs), None, tmp_path)
    with pytest.raises(UsageError, match="starts from openvino:fp32"):
        apply(NncfInt8(), files["onnx"], list(golden.inputs), None, tmp_path)
    with pytest.raises(DataError, match="no calibration images"):
        apply(NncfInt8(), files["openvino"], [], None, tmp_path)
    with pytest.raises(UsageError, match="preset"):
        NncfInt8(preset="fast")  # type: ignore[arg-type]


@pytest.mark.slow
def test_nncf_on_a_restorer(tmp_path: Path) -> None:
    trained = restorer((32, 48))
    built = exporter("openvino")(pixel_model_of(trained), (32, 48), tmp_path, "net")
    pictures = inputs(trained, 4)
    report = apply(NncfInt8(), built, pictures, None, tmp_path, "restore")
    answers = [run_file(b, pictures, ["restored"])["restored"] for b in (built, report.built)]
    assert np.corrcoef(np.ravel(answers[0]), np.ravel(answers[1]))[0, 1] > 0.97


@pytest.mark.parametrize(
    ("step", "runtime", "precision"),
    [
        (Bf16(), "onnxruntime", "fp32"),
        (Bf16(), "openvino", "int8"),
        (Fp16(), "torchscript", "fp32"),
        (Fp16(), "openvino", "bf16"),
    ],
)
def test_casts_refuse_what_does_not_exist(step: object, runtime: str, precision: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        apply(step, Built(runtime, precision, tmp_path / "x"), [], None, tmp_path)
    assert error.value.exit_code == 2


def test_steps_of_a_recipe_are_planned_per_runtime_with_their_settings() -> None:
    entries = ["bf16", {"int8": {"max_float_layers": 3, "rank_images": 5}}]
    nothing, (int8,) = plan_slots(entries, "onnxruntime")
    assert nothing == []
    assert int8.config == StaticInt8(max_float_layers=3, rank_images=5)
    assert int8.settings["rank_images"] == 5
    (bf16,), (nncf,) = plan_slots(entries, "openvino")
    assert (bf16.label, nncf.config) == ("bf16", NncfInt8(max_float_layers=3))
    (both,) = plan_slots(["int8"], "onnxruntime", baselines=True)
    assert [step.label for step in both] == ["int8 (library default)", "int8"]
    assert [step.kind.baseline for step in both] == [True, False]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("int9", "unknown step 'int9'"),
        ({"int8": {"smoth": []}}, "has no setting 'smoth'"),
        ({"int8": {"rank_images": "many"}}, r"compress.steps.int8.rank_images"),
        ({"int8": {"rank_images": 0}}, "rank_images"),
        ({"int8": {}, "bf16": {}}, "is no step"),
        ({"int8": 3}, "is no step"),
    ],
)
def test_wrong_steps_are_usage_errors(entry: object, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        plan_slots([entry], "onnxruntime")  # type: ignore[list-item]
    assert error.value.exit_code == 2


@pytest.mark.parametrize("late", ["int8", "int8-dynamic", "weights", "cluster"])
def test_a_step_behind_one_that_rewrites_its_file_is_refused_with_the_right_order(late: str) -> None:
    with pytest.raises(UsageError) as error:
        plan_slots(["graph", {late: {}}, "fp16"], "onnxruntime")
    assert error.value.exit_code == 2
    assert error.value.what == f"compress.steps: {late} stands behind graph, which rewrites the file it starts from."
    assert error.value.todo == f"Write {late} before graph: [{late}, fp16, graph]."
    slots = plan_slots([late, "fp16", "graph"], "onnxruntime")
    assert [step.kind.name for (step,) in slots] == [late, "fp16", "graph"]


def test_alternatives_of_one_entry_stand_behind_each_other_and_other_runtimes_are_free() -> None:
    assert len(plan_slots([["graph", "int8"], "bf16"], "onnxruntime")[0]) == 2
    with pytest.raises(UsageError, match="int8 stands behind graph"):
        plan_slots([["prune", "graph"], ["int8", "cluster"]], "onnxruntime")
    assert [step.label for slot in plan_slots(["graph", "int8"], "openvino") for step in slot] == ["int8"]


def test_every_step_that_a_row_refuses_in_front_exists() -> None:
    names = {kind.name for kind in STEPS}
    assert all(set(kind.not_behind) <= names - {kind.name} for kind in STEPS)


def test_the_calibration_set_is_known_by_pixels_shapes_and_order(tmp_path: Path) -> None:
    one, two = np.zeros((2, 4, 3), np.uint8), np.ones((2, 4, 3), np.uint8)
    known = context(tmp_path, [one, two]).calibration_set
    assert known == context(tmp_path / "b", [one.copy(), two.copy()]).calibration_set
    assert known[0] == 2
    assert len(known[1]) == 64
    for other in ([two, one], [one], [one, two, two], [one.reshape(4, 2, 3), two]):
        assert context(tmp_path, other).calibration_set[1] != known[1]


def test_the_nearest_step_and_setting_are_named() -> None:
    with pytest.raises(UsageError, match="Did you mean int8"):
        plan_slots(["int9"], "onnxruntime")
    with pytest.raises(UsageError, match="Did you mean smooth"):
        plan_slots([{"int8": {"smoth": []}}], "onnxruntime")


@pytest.mark.slow
def test_nncf_asked_again_leaves_more_layers_in_float(files: dict[str, Built], golden: Golden, tmp_path: Path) -> None:
    found = []
    for report in attempts(planned(NncfInt8()), files["openvino"], context(tmp_path, list(golden.inputs))):
        graph = openvino.Core().read_model(str(report.built.path))
        quantisers = sum(op.get_type_name() == "FakeQuantize" for op in graph.get_ops())
        found.append((len(report.float_layers), quantisers, report.built.bytes))
        if len(found) == 3:
            break
    assert [count for count, _, _ in found] == sorted({count for count, _, _ in found})
    assert found[0][0] == 0
    assert found[0][1] > found[1][1] > found[2][1]
    assert len(report.ranking) > 5
    assert all(rank.error >= 0 and rank.macs > 0 for rank in report.ranking)


def test_report_is_plain_json(files: dict[str, Built], golden: Golden, tmp_path: Path) -> None:
    report = apply(
        StaticInt8(rank_images=2, max_float_layers=1, max_error=1e-6),
        files["onnx"],
        list(golden.inputs),
        lambda path: 1.0,
        tmp_path,
    )
    document = json.loads(json.dumps(report.to_dict()))
    assert document["file"] == "net-int8.onnx"
    assert document["bytes"] == report.built.bytes
    assert document["settings"]["rank_images"] == 2
    assert document["ranking"][0]["kept_float"] is True
    assert len(document["ranking"]) == len(report.ranking)


def test_the_float_file_is_never_changed(files: dict[str, Built], golden: Golden, tmp_path: Path) -> None:
    before = {name: b.path.read_bytes() for name, b in files.items()}
    for step, name in (
        (StaticInt8(rank_images=2), "onnx"),
        (Fp16(), "onnx"),
        (NncfInt8(), "openvino"),
        (Fp16(), "openvino"),
    ):
        apply(step, files[name], list(golden.inputs), None, tmp_path)
    assert before == {name: b.path.read_bytes() for name, b in files.items()}
    onnx.checker.check_model(str(tmp_path / "net-int8.onnx"))


def test_activation_range_holds_zero_and_its_ends() -> None:
    scale, zero = activation_parameters(-1.0, 3.0)
    assert scale == pytest.approx(4 / 255)
    assert zero == 64
    values = np.array([-1.0, 0.0, 0.5, 3.0, 99.0], np.float32)
    np.testing.assert_allclose(fake(values, -1.0, 3.0), [-1.0, 0.0, 0.5, 3.0, 3.0], atol=4 / 255)
    assert fake(np.zeros(1, np.float32), -1.0, 3.0)[0] == 0
    assert activation_parameters(2.0, 3.0)[1] == 0  # ranges are widened to zero
    assert activation_parameters(0.0, 0.0)[0] > 0


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_are_symmetric_per_channel(axis: int) -> None:
    weight = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32) * (
        10.0 ** np.arange(5 if axis else 6)
    ).reshape((1, -1) if axis else (-1, 1)).astype(np.float32)
    values, scale = weight_parameters(weight, axis, False)
    assert (np.abs(values).max(axis=1 - axis) == 127).all()
    shape = (1, -1) if axis else (-1, 1)
    assert (np.abs(values * scale.reshape(shape) - weight) <= scale.reshape(shape) * 0.5001).all()
    assert np.abs(weight_parameters(weight, axis, True)[0]).max() == 63


def test_fitted_weights_beat_rounding_on_correlated_inputs() -> None:
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(6, 24)).astype(np.float32)
    train, test = (
        (rng.normal(size=(n, 6)).astype(np.float32) @ mix + 0.05 * rng.normal(size=(n, 24)).astype(np.float32))
        for n in (400, 200)
    )
    weight = rng.normal(size=(24, 10)).astype(np.float32)
    plain, fitted = weight_parameters(weight, 1, True), fit_weight(train, train @ weight, weight, True)
    errors = [np.mean((test @ (v * s) - test @ weight) ** 2) for v, s in (plain, fitted)]
    assert errors[1] < 0.5 * errors[0]
