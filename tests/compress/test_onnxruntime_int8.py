from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pocketvit.compress import onnxruntime_int8 as int8
from pocketvit.compress.layers import collect, find_layers, prepare
from pocketvit.compress.onnxruntime_int8 import (
    LibraryDefaultInt8,
    StaticInt8,
    held_back,
    most_float,
    outputs,
    quantise_all,
    smallest,
)
from pocketvit.compress.step import Context, StepReport, milder_counts
from pocketvit.compress.table import attempts
from pocketvit.errors import DataError, UsageError
from pocketvit.export.artifact import pixel_model_of
from pocketvit.export.built import Built
from pocketvit.export.onnx import write
from pocketvit.models.trained import Trained
from tests.compress.helpers import apply, context, mean_error, planned, reports
from tests.export.nets import classifier, inputs, restorer

LOUD = "backbone.blocks.1.mlp.fc2"


def loud_classifier() -> Trained:
    """One hidden channel of the second block is 300 times louder, as trained ViTs have them."""
    trained = classifier()
    block = trained.model.backbone.blocks[1].mlp
    with torch.no_grad():
        block.fc1.weight[5] *= 300
        block.fc2.weight[:, 5] /= 300
    return trained


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return write(pixel_model_of(loud_classifier()), (32, 40), tmp_path_factory.mktemp("float"), "net")


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return inputs(loud_classifier(), 12)


@pytest.fixture(scope="module")
def report(float_file: Built, pictures: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> StepReport:
    return apply(
        StaticInt8(smooth=(), compensate=False, max_error=0.02, rank_images=4),
        float_file,
        pictures,
        None,
        tmp_path_factory.mktemp("int8"),
    )


def kinds(path: Path) -> dict[str, int]:
    graph = onnx.load(path).graph
    return {
        kind: sum(n.op_type == kind for n in graph.node)
        for kind in ("QuantizeLinear", "DequantizeLinear", "Gemm", "MatMul", "Conv", "Relu", "Mul")
    }


def error_of(built: Built, float_file: Built, pictures: list[np.ndarray]) -> float:
    return mean_error(onnx.load(built.path), pictures, outputs(onnx.load(float_file.path), pictures))


def test_ranking_finds_the_planted_outlier_and_puts_it_back_in_float(report: StepReport) -> None:
    worst = max(report.ranking, key=lambda row: row.error)
    assert worst.name == LOUD
    assert worst.kept_float
    assert LOUD in report.float_layers
    others = [row.error for row in report.ranking if row.name != LOUD]
    assert worst.error > 3 * max(others)
    order = [row.error**2 / row.macs for row in report.ranking]
    assert order == sorted(order, reverse=True)
    assert len(report.ranking) == 2 * 4 + 2  # qkv, proj, fc1, fc2 of both blocks and two heads


def test_file_is_smaller_close_to_float_and_only_linear_layers_are_quantised(
    report: StepReport, float_file: Built, pictures: list[np.ndarray]
) -> None:
    assert report.built.key == "onnxruntime:int8"
    assert report.built.path.name == "net-int8.onnx"
    assert report.built.bytes < 0.75 * float_file.bytes
    assert error_of(report.built, float_file, pictures) < 0.03
    assert report.notes["accepted"]
    assert report.notes["error"] <= 0.02
    quantised = len(report.ranking) - len(report.float_layers)
    assert kinds(report.built.path)["QuantizeLinear"] in (quantised, quantised - 1)  # two heads may share one input
    graph = onnx.load(report.built.path).graph
    fed = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    assert all(node.op_type == "Gemm" for node in graph.node if set(node.input) & fed)
    names = {x.name for x in graph.initializer}
    assert not any(n.endswith("fc1.weight_t") for n in names)  # no float copy of a quantised weight is left


def test_library_default_collapses_and_shows_it_in_its_score(
    float_file: Built, pictures: list[np.ndarray], report: StepReport, tmp_path: Path
) -> None:
    reference = outputs(onnx.load(float_file.path), pictures)

    def score(path: Path) -> float:
        return -mean_error(onnx.load(path), pictures, reference)

    stock = apply(LibraryDefaultInt8(), float_file, pictures, score, tmp_path)
    assert stock.step == "int8-library-default"
    assert stock.built.key == "onnxruntime:int8"
    assert score(stock.built.path) < 5 * score(report.built.path)  # errors are negative scores
    assert stock.ranking == ()
    assert kinds(stock.built.path)["QuantizeLinear"] > 2 * len(report.ranking)


def test_evening_out_channels_removes_the_outlier(
    float_file: Built, pictures: list[np.ndarray], report: StepReport, tmp_path: Path
) -> None:
    evened = apply(
        StaticInt8(smooth=(0.5, 0.8), compensate=False, max_error=0.02, rank_images=4),
        float_file,
        pictures,
        None,
        tmp_path,
    )
    before = next(row.error for row in report.ranking if row.name == LOUD)
    after = next(row.error for row in evened.ranking if row.name == LOUD)
    assert after < before / 3
    assert evened.notes["evened_by_multiplication"] >= 1
    # Work left in float, not layers: a head on one token weighs next to nothing either way.
    assert evened.notes["float_share"] <= report.notes["float_share"] + 0.005


def test_compensation_lowers_the_error_of_weights(float_file: Built, tmp_path: Path) -> None:
    trained = loud_classifier()
    many = inputs(trained, 40)
    errors = []
    for compensate in (False, True):
        step = StaticInt8(compensate=compensate, max_float_layers=0, reduce_range=True, rank_images=8)
        errors.append(error_of(apply(step, float_file, many, None, tmp_path).built, float_file, many))
    assert errors[1] < errors[0]


def test_clipping_the_range_changes_the_quantiser(
    float_file: Built, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    scales = []
    for clip in ((1.0,), (0.25,)):
        step = StaticInt8(clip=clip, smooth=(), compensate=False, max_float_layers=0, rank_images=2)
        graph = onnx.load(apply(step, float_file, pictures, None, tmp_path).built.path).graph
        scales.append(
            {
                x.name: onnx.numpy_helper.to_array(x)
                for x in graph.initializer
                if x.name.endswith("_scale") and not x.dims
            }
        )
    assert scales[0].keys() == scales[1].keys()
    for name, value in scales[0].items():
        assert scales[1][name] == pytest.approx(value / 4, rel=1e-3)


def test_reduced_range_uses_seven_bits(float_file: Built, pictures: list[np.ndarray], tmp_path: Path) -> None:
    peaks = []
    for reduce_range in (False, True):
        built = apply(
            StaticInt8(reduce_range=reduce_range, max_float_layers=0, rank_images=2),
            float_file,
            pictures,
            None,
            tmp_path,
        ).built
        weights = [
            onnx.numpy_helper.to_array(x)
            for x in onnx.load(built.path).graph.initializer
            if x.data_type == onnx.TensorProto.INT8 and len(x.dims) == 2
        ]
        peaks.append(max(np.abs(w.astype(int)).max() for w in weights))
    assert peaks == [127, 63]


def test_limits_on_float_layers(float_file: Built, pictures: list[np.ndarray], tmp_path: Path) -> None:
    strict = {"max_error": 1e-6, "smooth": (), "compensate": False, "rank_images": 2}
    none = apply(StaticInt8(max_float_layers=0, **strict), float_file, pictures, None, tmp_path)
    assert none.float_layers == ()
    assert not none.notes["accepted"]
    two = apply(StaticInt8(max_float_layers=2, max_float_share=1.0, **strict), float_file, pictures, None, tmp_path)
    assert two.float_layers == tuple(row.name for row in two.ranking[:2])
    share = apply(StaticInt8(max_float_share=0.2, **strict), float_file, pictures, None, tmp_path)
    assert 0 < share.notes["float_share"] <= 0.2


def test_score_decides_with_max_drop(float_file: Built, pictures: list[np.ndarray], tmp_path: Path) -> None:
    seen: list[str] = []

    def score(path: Path) -> float:
        seen.append(path.name)
        quantised = kinds(path)["QuantizeLinear"]
        return 100.0 - quantised  # every quantised layer costs a point

    step = StaticInt8(max_error=10, max_drop=6, max_float_share=1.0, rank_images=2)
    report = apply(step, float_file, pictures, score, tmp_path)
    assert kinds(report.built.path)["QuantizeLinear"] <= 6
    assert report.notes["accepted"]
    assert seen[0] == "net.onnx"
    assert dict(report.scores)[len(report.float_layers)] >= 94
    free = apply(StaticInt8(max_error=10, max_drop=50, rank_images=2), float_file, pictures, score, tmp_path)
    assert free.float_layers == ()


def test_kinds_choose_the_layers(float_file: Built, pictures: list[np.ndarray], tmp_path: Path) -> None:
    report = apply(StaticInt8(kinds=("Conv",), max_float_layers=0, rank_images=2), float_file, pictures, None, tmp_path)
    assert [row.name for row in report.ranking] == ["backbone.patch_embed.proj"]
    assert error_of(report.built, float_file, pictures) < 0.2
    dense = onnx.load(float_file.path)
    for node in dense.graph.node:
        node.op_type = node.op_type.replace("Conv", "ConvTranspose")
    with pytest.raises(UsageError, match="no Conv layers"):
        find_layers(dense, ("Conv",))


def test_restorer_quantises_convolutions_and_swallows_relus(tmp_path: Path) -> None:
    trained = restorer((32, 48))
    built = write(pixel_model_of(trained), (32, 48), tmp_path, "net")
    pictures = inputs(trained, 6)
    step = StaticInt8(max_float_layers=0, rank_images=2)
    report = apply(step, built, pictures, lambda path: 30.0, tmp_path, "restore")
    before, after = kinds(built.path), kinds(report.built.path)
    assert {row.name for row in report.ranking} >= {"stem", "head", "down.0", "up.0"}
    assert before["Relu"] > after["Relu"]
    reference, got = outputs(onnx.load(built.path), pictures), outputs(onnx.load(report.built.path), pictures)
    assert np.corrcoef(np.ravel(reference), np.ravel(got))[0, 1] > 0.97
    assert report.built.bytes < built.bytes
    better = apply(
        StaticInt8(max_error=0.5 * report.notes["error"], max_float_share=0.9, rank_images=2),
        built,
        pictures,
        lambda path: 30.0,
        tmp_path,
        "restore",
    )
    assert better.notes["error"] < report.notes["error"]
    assert better.notes["max_drop"] == 0.05  # dB, as the answer is an image


def test_all_layers_can_be_quantised_without_ranking_any(
    float_file: Built, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    built = quantise_all(StaticInt8(smooth=(), compensate=False), float_file, Context(pictures, tmp_path))
    stored = [x for x in onnx.load(built.path).graph.initializer if x.data_type == onnx.TensorProto.INT8]
    assert built.key == "onnxruntime:int8"
    assert built.bytes < 0.7 * float_file.bytes
    assert len([x for x in stored if x.name.endswith("/weight")]) >= 4
    with pytest.raises(DataError, match="no calibration"):
        quantise_all(StaticInt8(), float_file, Context([], tmp_path))


def test_statistics_cover_all_images(float_file: Built, pictures: list[np.ndarray]) -> None:
    graph = prepare(float_file.path)
    layers = find_layers(graph)
    all_images, first = collect(graph, layers, pictures), collect(graph, layers, pictures[:1])
    for layer in layers:
        assert (all_images[layer.input].high >= first[layer.input].high - 1e-5).all()
        rows = all_images[layer.input].rows
        assert rows is not None
        assert (rows <= all_images[layer.input].high + 1e-5).all()
    assert sum(x.macs for x in layers) == 2 * 12 * 32 * 32 * 21 + 32 * 5


@pytest.mark.parametrize(
    ("good_from", "most", "want"), [(0, 9, 0), (1, 9, 1), (5, 9, 5), (9, 9, 9), (20, 9, 9), (3, 0, 0)]
)
def test_bisection(good_from: int, most: int, want: int) -> None:
    assert smallest(lambda count: count >= good_from, most) == want


def test_images_for_ranking_are_held_back() -> None:
    images = [np.full((1, 1, 3), i, np.uint8) for i in range(10)]
    rank, seen = held_back(images, 3)
    assert [x[0, 0, 0] for x in rank] == [0, 1, 2]
    assert [x[0, 0, 0] for x in seen] == list(range(3, 10))
    assert len(held_back(images, 99)[0]) == 5
    assert held_back(images[:1], 4) == (images[:1], images[:1])


def test_most_float_leaves_one_layer_quantised(float_file: Built) -> None:
    layers = find_layers(prepare(float_file.path))
    assert most_float(layers, StaticInt8(max_float_share=1.0)) == len(layers) - 1
    assert most_float(layers, StaticInt8(max_float_share=0.0)) == 0
    assert most_float(layers, StaticInt8(max_float_share=1.0, max_float_layers=3)) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_drop": -1},
        {"max_error": 0},
        {"max_float_share": -0.1},
        {"rank_images": 0},
        {"max_float_layers": -1},
        {"kinds": ("Softmax",)},
        {"clip": ()},
        {"clip": (2.0,)},
        {"smooth": (1.5,)},
    ],
)
def test_wrong_settings_are_usage_errors(wrong: dict) -> None:
    with pytest.raises(UsageError) as error:
        StaticInt8(**wrong)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("step", [StaticInt8(), LibraryDefaultInt8()])
def test_wrong_files_and_missing_images(
    step: object, float_file: Built, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="starts from onnxruntime:fp32"):
        apply(step, Built("openvino", "fp32", float_file.path), pictures, None, tmp_path)
    with pytest.raises(DataError, match="no calibration images") as error:
        apply(step, float_file, [], None, tmp_path)
    assert error.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_foreign_onnx_file_is_refused(float_file: Built, tmp_path: Path) -> None:
    graph = onnx.load(float_file.path)
    graph.graph.input[0].name = "x"
    graph.graph.node[0].input[0] = "x"
    onnx.save(graph, tmp_path / "foreign.onnx")
    with pytest.raises(UsageError, match="is not a file that pocketvit exported"):
        int8.prepare(tmp_path / "foreign.onnx")


def test_asked_again_it_leaves_more_layers_in_float_until_one_is_left(
    float_file: Built, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    found = []
    step = StaticInt8(max_float_layers=None, smooth=(), compensate=False, max_error=10.0, rank_images=2)
    for report in attempts(planned(step), float_file, context(tmp_path, pictures)):
        found.append((len(report.float_layers), kinds(report.built.path)["QuantizeLinear"]))
    counts, quantisers = zip(*found, strict=True)
    assert counts[0] == 0
    assert list(counts) == sorted(set(counts))
    assert counts[-1] == len(report.ranking) - 1
    assert list(quantisers) == sorted(quantisers, reverse=True)
    assert quantisers[-1] >= 1
    capped = reports(StaticInt8(max_float_layers=2, rank_images=2), float_file, context(tmp_path, pictures))
    assert max(len(report.float_layers) for report in capped) <= 2


def test_probabilities_are_judged_by_how_far_they_move_and_never_scored(
    float_file: Built, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    def score(path: Path) -> float:
        raise AssertionError("agreement on a few calibration images has no vote")

    assert apply(StaticInt8(rank_images=2), float_file, pictures, score, tmp_path).scores == ()


@pytest.mark.parametrize(
    ("macs", "first", "most", "want"),
    [
        ([1] * 10, 0, 9, [0, 2, 4, 6, 8, 9]),
        ([1] * 10, 3, 4, [3, 4]),
        ([50, 1, 1, 1], 0, 3, [0, 1, 3]),
        ([5, 5], 1, 1, [1]),
    ],
)
def test_milder_counts_add_a_share_of_the_work_each_time(
    macs: list[int], first: int, most: int, want: list[int]
) -> None:
    assert list(milder_counts(macs, first, most)) == want


def test_collect_uses_the_threads_it_is_given(
    float_file: Built, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pocketvit.compress import layers

    seen = []
    real = layers.session
    monkeypatch.setattr(layers, "session", lambda graph, threads=2: seen.append(threads) or real(graph, threads))
    graph = prepare(float_file.path)
    collect(graph, find_layers(graph), pictures[:1], threads=1)
    assert seen == [1]
