"""The device side of segmentation: what it refuses, its answers, its scores, what it writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from pocketvit.errors import DataError, UsageError
from pocketvit.spec.hierarchy import LevelSpec
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.tasks import config_of
from pocketvit.spec.tasks.base import Wishes
from pocketvit.spec.tasks.segment import SEGMENT, Segmentation, SegmentConfig, SegmentEvaluator

SPEC = Preprocess(size=(30, 40), resize="stretch")
LABELS = ("road", "sky", "tree", "car")
LEVELS = (LevelSpec(name="label", labels=list(LABELS)),)
PHOTO = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)


@dataclass
class Case:
    truth: np.ndarray
    condition: str = ""
    image: np.ndarray = field(default_factory=lambda: PHOTO)


def answer(seed: int = 0, sharp: float = 3.0) -> Segmentation:
    raw = np.random.default_rng(seed).normal(0, sharp, (4, 15, 20))
    return Segmentation((np.exp(raw) / np.exp(raw).sum(axis=0)).astype(np.float32), LABELS)


def mask(seed: int, size: tuple[int, int] = (60, 80), count: int = 4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = np.kron(rng.integers(0, count, (6, 8)), np.ones((10, 10))).astype(np.uint8)[: size[0], : size[1]]
    found[rng.random(found.shape) < 0.1] = 255
    return found


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"stride": 0}, "task.stride"),
        ({"stride": 2.5}, "task.stride"),
        ({"dice_weight": -1}, "task.dice_weight"),
        ({"class_weights": "most"}, "task.class_weights"),
        ({"dice_weigth": 1}, "task.dice_weigth"),
    ],
)
def test_impossible_settings_are_named(wrong: dict, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        config_of({"name": "segment", **wrong})


def test_outputs_are_probabilities_at_the_stride() -> None:
    (half,) = SEGMENT.outputs(LEVELS, SPEC, SegmentConfig())
    assert (half.name, half.shape, half.dtype) == ("probs", [1, 4, 15, 20], "float32")
    (odd,) = SEGMENT.outputs(LEVELS, SPEC, SegmentConfig(stride=7))
    assert odd.shape == [1, 4, 5, 6]
    for levels in ((), (*LEVELS, *LEVELS), (LevelSpec(name="label", labels=[f"{k}" for k in range(256)]),)):
        with pytest.raises(UsageError, match="one level of 2 to 255 classes"):
            SEGMENT.outputs(levels, SPEC, SegmentConfig())


def test_photos_are_stretched() -> None:
    SEGMENT.check_preprocess(SPEC)
    for resize in ("crop", "tile"):
        with pytest.raises(UsageError, match="stretch"):
            SEGMENT.check_preprocess(Preprocess(resize=resize))


def test_the_answer_says_what_is_there_and_how_much() -> None:
    probs = np.zeros((4, 4, 10), np.float32)
    probs[0, :, :6], probs[2, :, 6:] = 0.9, 0.8
    found = SEGMENT.finish({"probs": probs[None]}, LEVELS)
    assert isinstance(found, Segmentation)
    assert (found.classes.shape, found.classes.dtype) == ((4, 10), np.uint8)
    assert found.shares.tolist() == [0.6, 0, 0.4, 0]
    assert found.line == "road 60.0 %, tree 40.0 %"
    assert repr(found) == "<Segmentation road 60.0 %, tree 40.0 %>"
    document = found.to_dict()
    assert document["classes"] == [{"label": "road", "share": 0.6}, {"label": "tree", "share": 0.4}]
    assert document["confidence"] == pytest.approx(0.86)
    assert found.cells() == {"road": "0.6000", "sky": "0.0000", "tree": "0.4000", "car": "0.0000"}
    drawn = found.draw(PHOTO)
    assert (drawn.shape, drawn.dtype) == (PHOTO.shape, np.uint8)
    assert (drawn != PHOTO).any(axis=2).mean() > 0.95


def test_scores_are_those_of_torchmetrics() -> None:
    evaluator = SegmentEvaluator(LEVELS)
    index, right = MulticlassJaccardIndex(4, ignore_index=255), MulticlassAccuracy(4, average="micro", ignore_index=255)
    alone = MulticlassJaccardIndex(4, average="none", ignore_index=255)
    for seed in range(5):
        truth, result = mask(seed, count=3), answer(seed)
        truth[:30] = result.resized(60, 80)[:30]
        evaluator.update(result, truth)
        for metric in (index, right, alone):
            metric.update(*(torch.from_numpy(each.astype(np.int64)) for each in (result.resized(60, 80), truth)))
    found = {measure.name: measure for measure in evaluator.metrics()}
    assert found["miou"].value == pytest.approx(100 * float(index.compute()), abs=1e-4)
    assert found["pixel_accuracy"].value == pytest.approx(100 * float(right.compute()), abs=1e-4)
    for label, value in zip(LABELS, alone.compute().tolist(), strict=True):
        assert found[f"{label}.iou"].value == pytest.approx(100 * value, abs=1e-4)
    assert list(found) == SEGMENT.metric_names(LEVELS, [])
    assert evaluator.main == next(iter(found)) == "miou"
    assert {measure.count for measure in found.values()} == {5}
    assert all(SEGMENT.metric(name).higher_is_better for name in found)
    assert SEGMENT.metric("car.iou").name == "iou"


def test_intervals_are_those_of_drawing_the_images_again() -> None:
    rows = []
    evaluator = SegmentEvaluator(LEVELS)
    for seed in range(40):
        truth, result = mask(seed), answer(seed)
        edge = 10 + seed
        truth[:edge] = result.resized(60, 80)[:edge]
        evaluator.update(result, truth)
        rows.append((truth, result.resized(60, 80)))
    wanted = next(evaluator.metrics())
    counts = np.array([[((t == k) & (a == k)).sum() for k in range(4)] for t, a in rows])
    either = np.array([[(((t == k) | (a == k)) & (t != 255)).sum() for k in range(4)] for t, a in rows])
    drawn = np.random.default_rng(0).integers(0, 40, (2000, 40))
    again = (counts[drawn].sum(axis=1) / either[drawn].sum(axis=1)).mean(axis=1)
    assert wanted.value == pytest.approx(100 * (counts.sum(0) / either.sum(0)).mean())
    low, high = np.percentile(100 * again, [2.5, 97.5])
    assert (wanted.low, wanted.high) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_classes_that_are_nowhere_and_pixels_of_none_do_not_count() -> None:
    evaluator = SegmentEvaluator(LEVELS)
    probs = np.zeros((4, 1, 2), np.float32)
    probs[0, 0, 0] = probs[1, 0, 1] = 1
    truth = np.zeros((4, 8), np.uint8)
    truth[:, 4:] = 255
    evaluator.update(Segmentation(probs, LABELS), truth)
    assert {measure.name: measure.value for measure in evaluator.metrics()} == {
        "miou": 100.0, "pixel_accuracy": 100.0, "road.iou": 100.0
    }  # fmt: skip
    ignored = SegmentEvaluator(LEVELS)
    assert list(ignored.metrics()) == []
    ignored.update(Segmentation(probs, LABELS), np.full((4, 8), 255, np.uint8))
    with pytest.raises(DataError, match="all pixels of all masks are ignored"):
        list(ignored.metrics())
    with pytest.raises(DataError, match="holds class 7"):
        ignored.update(Segmentation(probs, LABELS), np.full((4, 8), 7, np.uint8))


def test_overlaps_of_many_classes_are_no_metrics_and_names_need_no_care() -> None:
    many = (LevelSpec(name="label", labels=[f"c{k}" for k in range(30)]),)
    assert SEGMENT.metric_names(many, []) == ["miou", "pixel_accuracy"]
    odd = (LevelSpec(name="label", labels=["a.b", "x@y"]),)
    names = SEGMENT.metric_names(odd, [])
    assert names[2:] == ["a.b.iou", "x y.iou"]
    assert {SEGMENT.metric(name).unit for name in names} == {"%"}


def test_the_answer_without_learning_is_the_most_frequent_class() -> None:
    truths = [np.full((20, 30), 2, np.uint8) for _ in range(3)]
    truths[0][:, :10] = 1
    truths[1][:, :25] = 255
    value = SEGMENT.baseline((Case(truth) for truth in truths), SegmentEvaluator(LEVELS)).value
    right, wrong = 400 + 100 + 600, 200
    assert value == pytest.approx(100 * (right / (right + wrong)) / 2)


def test_truth_is_kept_at_the_models_size_and_checked() -> None:
    truth = mask(1)
    kept = SEGMENT.golden.kept(truth, (30, 40))
    assert (kept.shape, kept.dtype) == ((30, 40), np.uint8)
    assert set(np.unique(kept)) <= set(np.unique(truth))
    inputs = np.zeros((1, 30, 40, 3), np.uint8)
    assert SEGMENT.golden.fault(kept[None], inputs) == ""
    for wrong in (kept[None, :, :7], kept[None].astype(np.int64)):
        assert "not classes (1, 30, 40)" in SEGMENT.golden.fault(wrong, inputs)
    assert (SEGMENT.truth(PHOTO, None, ()) == 255).all()
    assert SEGMENT.partner.fault(np.full((2, 2), 4, np.uint8), LEVELS).startswith("holds class 4")


def test_change_and_agreement() -> None:
    probs = answer().probs[None]
    swapped = probs[:, [1, 0, 2, 3]]
    assert SEGMENT.change([probs], [probs]) == 0
    assert SEGMENT.change([swapped], [probs]) == pytest.approx(np.abs(swapped - probs).sum(axis=1).mean(), rel=1e-6)
    assert SEGMENT.agreement is not None
    same = (swapped.argmax(1) == probs.argmax(1)).mean()
    assert SEGMENT.agreement({"probs": swapped}, {"probs": probs}) == pytest.approx(100 * same)


def test_panels_have_one_set_of_colours() -> None:
    truth, result = mask(3), answer(3)
    (_, photo), (_, drawn), (_, wanted) = SEGMENT.panels(PHOTO, result, truth, LEVELS)
    assert photo is PHOTO
    assert drawn.shape == wanted.shape == PHOTO.shape
    exact = SEGMENT.panels(PHOTO, result, result.resized(60, 80), LEVELS)[2][1]
    np.testing.assert_array_equal(exact, result.tinted(PHOTO))


def test_files_beside_the_picture(tmp_path: Path) -> None:
    config, result = SegmentConfig(), answer()
    ((suffix, write),) = SEGMENT.extras(Wishes(), config).items()
    assert suffix == ".classes.png"
    write(tmp_path / "a.png", result, PHOTO)
    stored = np.asarray(Image.open(tmp_path / "a.png"))
    np.testing.assert_array_equal(stored, result.resized(60, 80))
    ((suffix, write),) = SEGMENT.extras(Wishes(npy=True), config).items()
    assert suffix == ".probs.npy"
    write(tmp_path / "a.npy", result, PHOTO)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), result.probs)
    for wishes in (Wishes(ply=True), Wishes(npy=True, fov=60.0)):
        with pytest.raises(UsageError, match="does not go with the answers"):
            SEGMENT.extras(wishes, config)


def test_what_a_server_watches_moves_with_what_is_seen() -> None:
    assert SEGMENT.signs is not None
    values, vector = SEGMENT.signs.read(answer(), PHOTO)
    assert set(values) == set(SEGMENT.signs.statistics)
    assert vector.shape == (4,)
    assert vector.sum() == pytest.approx(0, abs=1e-9)
    blank = Segmentation(np.full((4, 15, 20), 0.25, np.float32), LABELS)
    unsure, flat = SEGMENT.signs.read(blank, PHOTO)
    assert unsure == {"confidence": 0.25, "unsure": 1.0}
    assert np.abs(flat).max() == pytest.approx(0, abs=1e-9)
