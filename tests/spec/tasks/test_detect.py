"""Boxes as an answer: decoding, JSON, pictures, the evaluator, goldens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketvit.errors import UsageError
from pocketvit.spec.hierarchy import LevelSpec
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import load_recipe
from pocketvit.spec.tasks.base import Wishes
from pocketvit.spec.tasks.detect import DETECT, DetectConfig, Detections, stacked

LEVELS = (LevelSpec(name="label", labels=["cat", "dog", "owl"]),)
SPEC = Preprocess(size=(64, 96), resize="stretch")


def raw(*boxes: tuple[int, float, float, float, float, float]) -> dict[str, np.ndarray]:
    """Outputs of a model that sees these: (class, score, left, top, right, bottom in shares of the photo)."""
    heat, sides = np.full((1, 3, 8, 12), 0.002, np.float32), np.full((1, 4, 8, 12), 0.1, np.float32)
    for k, score, x0, y0, x1, y1 in boxes:
        row, column = int((y0 + y1) / 2 * 8), int((x0 + x1) / 2 * 12)
        x, y = (column + 0.5) / 12, (row + 0.5) / 8
        heat[0, k, row, column], sides[0, :, row, column] = score, (x - x0, y - y0, x1 - x, y1 - y)
    return {"heat": heat, "sides": sides}


def answer(*boxes: tuple[int, float, float, float, float, float]) -> Detections:
    found = DETECT.finish(raw(*boxes), LEVELS)
    assert isinstance(found, Detections)
    return found


DOG, OWL = (1, 0.9, 0.1, 0.2, 0.4, 0.7), (2, 0.5, 0.5, 0.5, 1.0, 0.9)


def test_peaks_become_boxes_in_shares_of_the_photo() -> None:
    found = answer(OWL, DOG, (0, 0.2, 0.6, 0.0, 0.9, 0.3))
    assert [found.labels[k] for k in found.classes] == ["dog", "owl", "cat"]
    np.testing.assert_allclose(found.scores, [0.9, 0.5, 0.2])
    np.testing.assert_allclose(found.boxes[:2], [DOG[2:], OWL[2:]], atol=1e-6)
    np.testing.assert_allclose(found.pixels(100, 200)[0], [20, 20, 80, 70], atol=1e-4)
    assert len(found.above(0.4)) == 2
    assert found.line == "1 dog, 1 owl"
    assert found.cells() == {"boxes": "2", "found": "1 dog, 1 owl"}
    assert answer().line == "nothing"
    assert repr(found) == "<Detections 1 dog, 1 owl>"


def test_a_worse_box_of_the_same_class_in_the_same_place_goes() -> None:
    big, near = (1, 0.9, 0.0, 0.0, 1.0, 0.8), (1, 0.8, 0.0, 0.0, 0.66, 0.8)  # they overlap by 0.66
    assert len(answer(big, near)) == 1
    assert len(answer(big, (0, *near[1:]))) == 2
    assert len(answer(big, (1, 0.8, 0.0, 0.0, 0.55, 0.8))) == 2


def test_boxes_end_at_the_edges_and_are_never_more_than_a_hundred() -> None:
    outputs = raw((0, 0.9, -0.2, -0.1, 0.5, 1.3))
    assert DETECT.finish(outputs, LEVELS).boxes.tolist() == [[0, 0, 0.5, 1]]  # type: ignore[attr-defined]
    flat = {"heat": np.full((1, 3, 20, 20), 0.5, np.float32), "sides": np.full((1, 4, 20, 20), 0.01, np.float32)}
    assert len(DETECT.finish(flat, LEVELS)) == 100  # type: ignore[arg-type]


def test_json_holds_every_box_that_is_shown(tmp_path: Path) -> None:
    found = answer(DOG, OWL, (0, 0.2, 0.6, 0.0, 0.9, 0.3))
    document = json.loads(json.dumps(found.to_dict(top=1)))
    assert [(row["label"], round(row["score"], 3)) for row in document["boxes"]] == [("dog", 0.9), ("owl", 0.5)]
    ((suffix, write),) = DETECT.extras(Wishes(), DetectConfig()).items()
    assert write(tmp_path / f"a{suffix}", found, np.zeros((100, 200, 3), np.uint8)) == ""
    saved = json.loads((tmp_path / "a.boxes.json").read_text())
    assert saved["boxes"][0]["box"] == pytest.approx([20, 20, 80, 70], abs=0.01)
    assert (saved["height"], saved["width"]) == (100, 200)
    with pytest.raises(UsageError, match="ply does not go with"):
        DETECT.extras(Wishes(ply=True), DetectConfig())


def test_the_picture_has_frames_and_the_panels_the_truth() -> None:
    photo = np.full((80, 120, 3), 100, np.uint8)
    picture = answer(DOG).draw(photo)
    assert (picture != photo).any()
    assert (answer().draw(photo) == photo).all()
    truth = np.array([[1, 0.1, 0.2, 0.4, 0.7], [-1, -1, -1, -1, -1]], np.float32)
    names = [name for name, _ in DETECT.panels(photo, answer(DOG), truth, LEVELS)]
    assert names == ["boxes", "truth"]


def row(box: tuple[int, float, float, float, float, float]) -> list[float]:
    return [box[0], *box[2:]]


def test_the_evaluator_gives_ap_with_an_interval_over_photos() -> None:
    evaluator = DETECT.evaluator(LEVELS, "")
    assert (evaluator.main, list(evaluator.metrics())) == ("ap", [])
    for found, truths in [((DOG, OWL), (DOG, OWL)), ((DOG,), (DOG, OWL)), ((), (OWL,))]:
        evaluator.update(answer(*found), stacked([np.array([row(x) for x in truths]), np.zeros((3, 5))])[0])
    ap, ap50, ap75 = evaluator.metrics()
    assert (ap.name, ap50.name, ap75.name) == ("ap", "ap50", "ap75")
    assert ap50.value == pytest.approx((100 + 100 * 34 / 101) / 2)  # all dogs, one of three owls
    assert ap.low < ap.value < ap.high
    assert (ap.count, ap.unit) == (3, "%")
    nothing = DETECT.evaluator(LEVELS, "")
    nothing.update(answer(DOG), np.zeros((0, 5)))
    assert [x.value for x in nothing.metrics()] == [0, 0, 0]


@dataclass(frozen=True)
class Photo:
    truth: Any
    image: Any = None
    condition: str = ""


def test_the_baseline_is_one_mean_box_of_the_most_frequent_class() -> None:
    truths = [np.array([row(DOG), row(OWL)]), np.array([row(DOG)]), np.zeros((0, 5))]
    measure = DETECT.baseline([Photo(truth) for truth in truths], DETECT.evaluator(LEVELS, ""))
    # Both dogs are found; the box in the third photo is wrong, and stands last among equals.
    assert measure.value == pytest.approx(50)
    assert DETECT.baseline([Photo(np.zeros((0, 5)))], DETECT.evaluator(LEVELS, "")).value == 0


def test_the_change_is_0_for_the_same_and_counts_sides_where_there_is_heat() -> None:
    before, moved, elsewhere = (list(raw(DOG).values()) for _ in range(3))
    moved[1] = moved[1] * 1.1
    elsewhere[1] = elsewhere[1].copy()
    elsewhere[1][0, :, 7, 11] *= 5
    assert DETECT.change(before, before) == 0
    assert DETECT.change(moved, before) == pytest.approx(0.05, rel=1e-3)
    assert DETECT.change(elsewhere, before) < 0.02


def test_truths_of_many_photos_are_one_array() -> None:
    made = stacked([np.array([row(DOG)]), np.zeros((0, 5)), np.array([row(DOG), row(OWL)])])
    assert (made.shape, made.dtype) == ((3, 2, 5), np.float32)
    assert made[:, :, 0].tolist() == [[1, -1], [-1, -1], [1, 2]]
    assert stacked([np.zeros((0, 5))]).shape == (1, 1, 5)
    fault, inputs = DETECT.golden.fault, np.zeros((3, 64, 96, 3), np.uint8)
    assert fault(made, inputs) == ""
    for wrong in (made[..., :4], made.astype(np.int64), made + np.eye(5)[4] / 2, made + np.eye(5)[0] / 2):
        assert "not rows of a class and a box" in fault(wrong, inputs)


def test_outputs_follow_the_cells_and_the_preprocessing() -> None:
    heat, sides = DETECT.outputs(LEVELS, SPEC, DetectConfig())
    assert (heat.name, heat.shape, sides.name, sides.shape) == ("heat", [1, 3, 8, 12], "sides", [1, 4, 8, 12])
    assert DETECT.outputs(LEVELS, SPEC, DetectConfig(cell=16))[0].shape == [1, 3, 4, 6]
    with pytest.raises(UsageError, match="stretch, not crop"):
        DETECT.check_preprocess(Preprocess(size=(64, 64), resize="crop"))


@pytest.mark.parametrize(
    ("key", "value"), [("cell", 1), ("head_width", 4), ("head_blocks", 9), ("spread", 0.0), ("box_weight", -1.0)]
)
def test_settings_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"task.{key}"):
        load_recipe(None, {"task": {"name": "detect", key: value}, "data": {"layout": "coco"}})


def test_signs_have_one_length_for_all_photos() -> None:
    assert DETECT.signs is not None
    values, vector = DETECT.signs.read(answer(DOG, OWL), np.zeros((8, 8, 3), np.uint8))
    assert values == {"boxes": 2.0, "confidence": pytest.approx(0.9)}
    none, empty = DETECT.signs.read(answer(), np.zeros((8, 8, 3), np.uint8))
    assert none == {"boxes": 0.0, "confidence": 0.0}
    assert vector.shape == empty.shape == (3,)
    assert set(values) == set(DETECT.signs.statistics)
