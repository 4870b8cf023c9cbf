from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.classify import Classification, Level
from pocketvit.spec.tasks.confusion import ClassifyStudy
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
    assert values == {"coarse.top1": 75.0, "fine.top1": 50.0, "mistake_distance": pytest.approx((0 + 1 + 2 + 0) / 4)}


def test_top5_is_not_top1() -> None:
    labels = [str(i) for i in range(10)]
    levels = [LEVELS[0].model_copy(update={"name": "only", "labels": labels})]
    evaluator = TASKS["classify"].evaluator(levels, "")
    scores = np.linspace(1, 0.1, 10).astype(np.float32)
    for truth in range(10):
        evaluator.update(Classification((Level("only", tuple(labels), scores, 0),)), (truth,))
    assert {x.name: x.value for x in evaluator.metrics()} == {"only.top1": 10.0, "only.top5": 50.0}


def test_there_is_no_top5_of_few_classes() -> None:
    task = TASKS["classify"]
    for count, wanted in ((9, []), (10, ["only.top5"])):
        levels = [LEVELS[0].model_copy(update={"name": "only", "labels": [str(i) for i in range(count)]})]
        assert task.metric_names(levels, []) == ["only.top1", *wanted]
    assert "fine.top5" not in task.metric_names(LEVELS, [])


def studied(answers: list[tuple[int, int, float]]) -> ClassifyStudy:
    """A study of (truth, answer, its probability)."""
    study = TASKS["classify"].study(LEVELS)
    for k, (truth, index, score) in enumerate(answers):
        scores = [(1 - score) / 3] * 4
        scores[index] = score
        case = SimpleNamespace(image=photo(300, 400), truth=(truth // 2, truth), path=Path(f"{k}.jpg"))
        study.add(case, answer(index // 2, index, scores))
    return study


def test_a_study_counts_what_is_confused() -> None:
    found = studied([(0, 0, 0.9), (0, 1, 0.6), (0, 1, 0.8), (1, 1, 0.9), (3, 0, 0.5)])
    document = found.to_dict()
    assert document["confusion"]["labels"] == ["red", "yellow", "green", "blue"]
    assert document["confusion"]["counts"] == [[1, 2, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert document["per_class"][0] == {"label": "red", "count": 3, "correct": 1, "top1": pytest.approx(100 / 3)}
    assert document["per_class"][2]["top1"] is None
    assert document["confused"][0] == {"truth": "red", "answer": "yellow", "count": 2}
    assert found.lines() == [
        "Weakest classes: blue 0 of 1, red 1 of 3.",
        "Most frequent mistakes: red as yellow (2), blue as red (1).",
    ]
    json.dumps(document)


def test_a_study_shows_the_matrix_and_the_most_certain_mistakes() -> None:
    found = studied([(0, 1, 0.4 + 0.03 * k) for k in range(15)] + [(2, 2, 0.9)])
    captions = [caption for caption, _ in found.pictures()]
    assert len(captions) == 13
    assert captions[1] == "mistake: 14.jpg: yellow 82 %, truth red"
    assert captions[-1] == "mistake: 3.jpg: yellow 49 %, truth red"
    pictures = [panels[0][1] for _, panels in found.pictures()]
    assert pictures[1].shape == (180, 240, 3)
    matrix = pictures[0]
    cell = 44

    def colour(row: int, column: int) -> list[int]:
        return matrix[130 + row * cell + 4, 130 + column * cell + 4].tolist()

    assert colour(0, 1) == colour(2, 2) == [36, 89, 168]
    assert colour(0, 0) == colour(3, 3) == [255, 255, 255]
    assert TASKS["classify"].study(LEVELS).pictures() == []


def test_a_study_of_many_classes_stays_small() -> None:
    level = LEVELS[0].model_copy(update={"name": "only", "labels": [f"класс {i}" for i in range(300)]})
    study = TASKS["classify"].study([level])
    scores = np.eye(300, dtype=np.float32)
    for k in range(300):
        study.add(
            SimpleNamespace(image=photo(20, 20), truth=(k,)),
            Classification((Level("only", tuple(level.labels), scores[(k + 1) % 300], (k + 1) % 300),)),
        )
    assert len(json.dumps(study.to_dict())) < 50_000
    assert max(study.pictures()[0][1][0][1].shape) < 1000


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
