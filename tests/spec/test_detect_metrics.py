"""Average precision against pycocotools, which is the definition, and the spread of it."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from pocketvit.spec.detect_metrics import Found, average, gathered, matches, precisions, spread

Row = tuple[int, np.ndarray, np.ndarray]


def scenes(seed: int, photos: int, classes: int, tied: bool) -> list[tuple[list[Any], list[Any]]]:
    """By photo the true boxes (class, box) and the found ones (class, box, score), many of them near a true one."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(photos):
        corners = rng.uniform(0, 60, (int(rng.integers(0, 6)), 2))
        truths = [(int(rng.integers(classes)), np.r_[c, c + rng.uniform(5, 40, 2)]) for c in corners]
        found = []
        for k, box in truths:
            for _ in range(int(rng.integers(0, 4))):
                moved = np.sort((box + rng.normal(0, 3, 4)).reshape(2, 2), axis=0).ravel()
                found.append((k if rng.random() < 0.8 else int(rng.integers(classes)), moved, float(rng.random())))
        found += [
            (int(rng.integers(classes)), np.r_[c, c + 9.0], float(rng.random())) for c in rng.uniform(0, 60, (2, 2))
        ]
        made.append((truths, [(k, box, round(score, 1) if tied else score) for k, box, score in found]))
    return made


def reference(made: list[Any], classes: int) -> list[float]:
    """AP, AP50, AP75 in % as pycocotools prints them."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    wide = lambda box: [box[0], box[1], box[2] - box[0], box[3] - box[1]]  # noqa: E731
    truth = coco.COCO()
    rows = [(i, k, wide(box)) for i, (truths, _) in enumerate(made) for k, box in truths]
    truth.dataset = {
        "info": {},
        "images": [{"id": i} for i in range(len(made))],
        "categories": [{"id": k} for k in range(classes)],
        "annotations": [
            {"id": n + 1, "image_id": i, "category_id": k, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for n, (i, k, box) in enumerate(rows)
        ],
    }
    answers = [
        {"image_id": i, "category_id": k, "bbox": wide(box), "score": score}
        for i, (_, found) in enumerate(made)
        for k, box, score in found
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        scored = evaluation.COCOeval(truth, truth.loadRes(answers), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return [float(100 * x) for x in scored.stats[:3]]


def ours(made: list[Any], classes: int) -> list[Found]:
    found = []
    for k in range(classes):
        rows: list[Row] = []
        for i, (truths, answers) in enumerate(made):
            mine = [(box, score) for kind, box, score in answers if kind == k]
            wanted = np.array([box for kind, box in truths if kind == k]).reshape(-1, 4)
            if mine:
                boxes, scores = (np.array(x) for x in zip(*mine, strict=True))
                rows.append((i, *matches(boxes, scores, wanted)))
        counts = np.array([sum(kind == k for kind, _ in truths) for truths, _ in made])
        found.append(gathered(rows, counts))
    return found


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("seed", "photos", "classes"), [(0, 8, 1), (1, 25, 3), (2, 40, 6), (3, 2, 9)])
def test_values_are_those_of_pycocotools(seed: int, photos: int, classes: int, tied: bool) -> None:
    made = scenes(seed, photos, classes, tied)
    np.testing.assert_allclose(average(ours(made, classes)), reference(made, classes), rtol=0, atol=1e-9)


def test_more_than_a_hundred_boxes_of_a_photo_do_not_count() -> None:
    truth = np.array([0.0, 0, 10, 10])
    found = [(0, np.array([50.0, 50, 60, 60]), 0.9)] * 120 + [(0, truth, 0.1)]
    made = [([(0, truth)], found)]
    assert average(ours(made, 1)).tolist() == reference(made, 1) == [0, 0, 0]


def test_perfect_answers_have_100_and_no_answers_0() -> None:
    made = [([(0, np.array([0.0, 0, 9, 9]))], [(0, np.array([0.0, 0, 9, 9]), 0.5)])]
    assert average(ours(made, 1)).tolist() == pytest.approx([100, 100, 100])
    assert average([gathered([], np.array([1]))]).tolist() == [0, 0, 0]
    assert average([gathered([], np.array([0]))]).tolist() == [0, 0, 0]  # no box at all
    assert np.isnan(precisions(gathered([], np.array([0])))).all()


def test_a_photo_of_weight_two_counts_as_two_photos() -> None:
    made = scenes(5, 12, 2, False)
    weights = np.ones(12)
    weights[3], weights[7] = 2, 0
    doubled = [made[i] for i in range(12) for _ in range(int(weights[i]))]
    np.testing.assert_allclose(average(ours(made, 2), weights), average(ours(doubled, 2)), atol=1e-9)


def test_the_spread_falls_with_the_number_of_photos() -> None:
    few, many = (ours(scenes(9, count, 2, False), 2) for count in (10, 160))
    wide, narrow = spread(few, 10), spread(many, 160)
    assert (narrow > 0).all()
    assert (narrow < 0.6 * wide).all()
    assert spread(few, 10).tolist() == wide.tolist()
    assert spread(few[:0], 1).tolist() == [0, 0, 0]
