"""Clustering: what is stored is what is run, smaller by what the bits say, and settings do what they say."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import pocketvit
from pocketvit.cli import main
from pocketvit.compress.cluster import Cluster, chosen_layers, edges
from pocketvit.compress.moments import second_moments
from pocketvit.compress.onnxruntime_int8 import outputs
from pocketvit.compress.step import StepReport
from pocketvit.compress.table import attempts
from pocketvit.errors import DataError, UsageError, VerificationError
from pocketvit.export.artifact import create_artifact, make_golden, pixel_model_of
from pocketvit.export.built import Built
from pocketvit.export.onnx import write
from pocketvit.models.trained import Trained
from pocketvit.runtimes.stored import parts_of, unpack
from pocketvit.spec.artifact import Artifact, file_entries, read_artifact, write_manifest
from pocketvit.spec.images import write_image
from tests.compress.helpers import apply, context, mean_error, planned, reports
from tests.export.nets import cases, classifier, inputs, restorer

EVERY = {"least_values": 1000}


@pytest.fixture(scope="module")
def trained() -> Trained:
    return classifier()


@pytest.fixture(scope="module")
def float_file(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return write(pixel_model_of(trained), (32, 40), tmp_path_factory.mktemp("float"), "net")


@pytest.fixture(scope="module")
def pictures(trained: Trained) -> list[np.ndarray]:
    return inputs(trained, 12)


@pytest.fixture(scope="module")
def report(float_file: Built, pictures: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> StepReport:
    return apply(Cluster(**EVERY), float_file, pictures[:8], None, tmp_path_factory.mktemp("cluster"))


def weights(content: bytes) -> dict[str, np.ndarray]:
    return {x.name: numpy_helper.to_array(x) for x in onnx.load_from_string(content).graph.initializer}


def distinct(values: np.ndarray, axis: int) -> int:
    """Most values that one slice along the other axis takes."""
    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    return max(len(np.unique(row)) for row in rows)


def error_of(report: StepReport, float_file: Built, pictures: list[np.ndarray]) -> float:
    graph = onnx.load_from_string(unpack(report.built.path))
    return mean_error(graph, pictures, outputs(onnx.load(float_file.path), pictures))


def test_each_channel_takes_as_many_values_as_the_bits_say(report: StepReport, float_file: Built) -> None:
    before, after = weights(float_file.path.read_bytes()), weights(unpack(report.built.path))
    assert before.keys() == after.keys()
    assert (report.built.key, report.built.path.name) == ("onnxruntime:cluster", "net-cluster.pvw")
    graph = onnx.load(float_file.path)
    chosen = {layer.weight: layer for layer in chosen_layers(graph, 1000)}
    assert [layer.kind for layer in chosen.values()].count("Conv") == 1
    assert len(chosen) == 9
    assert len(edges(graph)) == 3  # and two heads, which are too small to be clustered
    assert edges(graph) & set(chosen) == {name for name, layer in chosen.items() if layer.kind == "Conv"}
    for name, values in after.items():
        if name not in chosen:
            np.testing.assert_array_equal(values, before[name])
            continue
        across = chosen[name].kind == "Conv" or chosen[name].transposed
        assert distinct(values, 0 if across else 1) <= (256 if chosen[name].kind == "Conv" else 16)
        assert distinct(values, 0 if across else 1) > 8


def test_the_file_is_as_small_as_the_codes_allow(report: StepReport, float_file: Built) -> None:
    forms = {form for form, _, size in parts_of(report.built.path) if size > 1000}
    assert "table" in forms
    table = report.notes["forms"]["table"]
    assert 3.4 < table["bits_per_value"] < 6.0  # the convolution has 8 bits, and scales weigh in a net this small
    assert report.notes["bits"] == 4
    assert report.notes["bytes"] == report.built.bytes < float_file.bytes / 2.5
    assert "no faster" in report.told
    assert len(report.ranking) == 9
    assert report.ranking[0].error == max(row.error for row in report.ranking)
    assert all(0 < row.error < 0.3 for row in report.ranking)


def test_calibration_and_scales_help(
    report: StepReport, float_file: Built, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    """On the images it was fitted to: of 168 tokens nothing can be said of others."""
    errors = [error_of(report, float_file, pictures[:8])]
    for name, less in (("plain", {"weighted": False}), ("one scale", {"weighted": False, "scaled": False})):
        (tmp_path / name).mkdir()
        other = apply(Cluster(**EVERY, **less), float_file, pictures[:8], None, tmp_path / name)
        errors.append(error_of(other, float_file, pictures[:8]))
    assert errors[0] < errors[1] < errors[2]


def test_it_is_tried_with_more_bits_and_each_is_closer_and_larger(
    float_file: Built, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    settings = Cluster(bits=2, most_bits=4, edge_bits=2, rounds=1, **EVERY)
    found = [  # one after the other: each attempt takes the place of the file before
        (attempt.notes["bits"], attempt.built.bytes, max(row.error for row in attempt.ranking))
        for attempt in attempts(planned(settings), float_file, context(tmp_path, pictures))
    ]
    assert [bits for bits, _, _ in found] == [2, 3, 4]
    assert found[0][1] < found[1][1] < found[2][1]
    assert found[0][2] > 1.5 * found[1][2] > 2 * found[2][2]


def test_second_moments_are_those_of_the_inputs(float_file: Built, pictures: list[np.ndarray]) -> None:
    graph = onnx.load(float_file.path)
    layers = chosen_layers(graph, 1000)
    found = second_moments(graph, layers, pictures[:8], 1, 1e-9)
    first = next(layer for layer in layers if layer.kind != "Conv")
    graph.graph.output.extend([onnx.helper.make_tensor_value_info(first.input, onnx.TensorProto.FLOAT, None)])
    rows = np.concatenate([answer[-1].reshape(-1, answer[-1].shape[-1]) for answer in outputs(graph, pictures[:8], 1)])
    np.testing.assert_allclose(found[first.input], rows.T @ rows / len(rows), rtol=1e-3, atol=1e-4)
    few = second_moments(graph, layers, pictures[:1], 1, 1e-9)[first.input]  # 21 tokens for 32 channels
    assert np.count_nonzero(few - np.diag(np.diag(few))) == 0
    assert np.count_nonzero(few) == len(few)
    with pytest.raises(DataError, match="no calibration images"):
        second_moments(graph, layers, [], 1, 0.01)


def test_a_restorer_with_convolutions_is_clustered(tmp_path: Path) -> None:
    net = restorer()
    built = write(pixel_model_of(net), net.preprocess.size, tmp_path, "r")
    settings = Cluster(edge_bits=4, least_values=64, weighted=False)
    made = apply(settings, built, [], None, tmp_path, "restore")
    assert made.built.bytes < 0.6 * built.bytes


def test_what_it_cannot_start_from_is_refused(float_file: Built, pictures: list[np.ndarray], tmp_path: Path) -> None:
    where = context(tmp_path, pictures)
    with pytest.raises(UsageError, match="cluster starts from onnxruntime:fp32, not onnxruntime:int8"):
        reports(Cluster(), replace(float_file, precision="int8"), where)
    with pytest.raises(UsageError, match="no layer has 1000000 weights"):
        reports(Cluster(least_values=1_000_000), float_file, where)
    with pytest.raises(DataError, match="no calibration images"):
        reports(Cluster(), float_file, context(tmp_path))
    for wrong in (
        {"bits": 1},
        {"bits": 9},
        {"edge_bits": 1},
        {"bits": 5, "most_bits": 4},
        {"damping": 0},
        {"rounds": 0},
    ):
        with pytest.raises(UsageError):
            Cluster(**wrong)


@pytest.fixture(scope="module")
def artifact(
    trained: Trained, float_file: Built, pictures: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    folder = tmp_path_factory.mktemp("handed")
    made = apply(Cluster(bits=6, **EVERY), float_file, pictures, None, folder)
    golden = make_golden(trained, cases("classify"), 4)
    return create_artifact(trained, folder / "a", name="clustered", golden=golden, built=[made.built, float_file])


def test_an_artifact_holds_it_and_every_command_takes_it(artifact: Artifact, tmp_path: Path) -> None:
    path, photo = str(artifact.path), tmp_path / "photo.png"
    write_image(photo, inputs(classifier(), 1)[0])
    checked = {check.name: check for check in pocketvit.verify(path, target="onnxruntime:cluster").checks}
    assert checked["control: damaged weights"].passed
    assert not checked["control: damaged weights"].skipped
    assert artifact.variant_bytes(artifact.variant()) == (artifact.path / "net-cluster.pvw").stat().st_size
    (timed,) = pocketvit.bench(path, target="onnxruntime:cluster", size="32x40", seconds=0.05, memory=False).results
    assert timed.disk_bytes == (artifact.path / "net-cluster.pvw").stat().st_size
    model = pocketvit.load(path)
    assert model.target.key == "onnxruntime:cluster"
    assert main(["predict", path, str(photo), "--out", str(tmp_path / "answers.json")]) == 0
    assert main(["pack", path, "--out", str(tmp_path / "a.pvit")]) == 0
    packed, answer = pocketvit.load(str(tmp_path / "a.pvit"))(photo), model(photo)
    assert [level.score for level in packed.levels] == [level.score for level in answer.levels]


def test_a_damaged_stored_file_ends_every_command_with_its_code(artifact: Artifact, tmp_path: Path) -> None:
    copy = shutil.copytree(artifact.path, tmp_path / "copy")
    file = copy / "net-cluster.pvw"
    file.write_bytes(file.read_bytes()[:-9] + b"otherwise")
    assert main(["verify", str(copy)]) == VerificationError.exit_code
    with pytest.raises(VerificationError, match="was changed"):
        pocketvit.load(str(copy))
    sealed = read_artifact(copy)  # the change is covered up
    write_manifest(copy, sealed.manifest.model_copy(update={"files": file_entries(copy)}))
    with pytest.raises(VerificationError, match="the stored weights are damaged"):
        pocketvit.load(str(copy), "onnxruntime:cluster")
    assert main(["verify", str(copy), "--target", "onnxruntime:cluster"]) == VerificationError.exit_code
