from __future__ import annotations

import json

import numpy as np
import pytest

from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.classify import Classification, Level
from tests.bad_images import photo
from tests.tiny import LEVELS


def answer(coarse: int, fine: int, scores: list[float]) -> Classification:
    return Classification(
        (
            Level("coarse", ("warm", "cold"), np.array([0.5, 0.5], np.float32), coarse),
            Level("fine", ("red", "yellow", "green", "blue"), np.array(scores, np.float32), fine),
        )
    )


def test_classify_counts_levels_top5_and_distance() -> None:
    evaluator = TASKS["classify"].evaluator(LEVELS, "")
    assert list(evaluator.metrics()) == []
    evaluator.update(answer(0, 0, [0.7, 0.1, 0.1, 0.1]), (0, 0))
    evaluator.update(answer(0, 1, [0.3, 0.4, 0.2, 0.1]), (0, 0))
    evaluator.update(answer(1, 3, [0.1, 0.1, 0.1, 0.7]), (0, 0))
    evaluator.update(answer(1, 3, [0.1, 0.1, 0.1, 0.7]), (1, 3))
    values = {x.name: x.value for x in evaluator.metrics()}
    assert evaluator.main == "fine.top1"
    assert values == {
        "coarse.top1": 75.0,
        "fine.top1": 50.0,
        "fine.top5": 100.0,
        "mistake_distance": pytest.approx((0 + 1 + 2 + 0) / 4),
    }


def test_top5_is_not_top1() -> None:
    labels = [str(i) for i in range(10)]
    levels = [LEVELS[0].model_copy(update={"name": "only", "labels": labels})]
    evaluator = TASKS["classify"].evaluator(levels, "")
    scores = np.linspace(1, 0.1, 10).astype(np.float32)
    for truth in range(10):
        evaluator.update(Classification((Level("only", tuple(labels), scores, 0),)), (truth,))
    assert {x.name: x.value for x in evaluator.metrics()} == {"only.top1": 10.0, "only.top5": 50.0}


def level() -> Level:
    return Level("fine", ("red", "green", "blue"), np.array([0.2, 0.7, 0.1], np.float32), 1)


def test_level() -> None:
    assert level().label == "green"
    assert abs(level().score - 0.7) < 1e-6
    assert [label for label, _ in level().top(2)] == ["green", "red"]
    assert level().top(0) == []
    assert len(level().top(99)) == 3


def test_classification_is_json_and_can_be_drawn() -> None:
    result = Classification((Level("coarse", ("a", "b"), np.array([0.4, 0.6], np.float32), 1), level()))
    assert result.path == ("b", "green")
    document = json.loads(json.dumps(result.to_dict()))
    assert document["levels"][1]["top"][0]["label"] == "green"
    drawn = result.draw(photo(50, 200))
    assert drawn.shape == (74, 200, 3)
    np.testing.assert_array_equal(drawn[:50], photo(50, 200))
    assert (drawn[50:] > 150).any()
