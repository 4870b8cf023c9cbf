from __future__ import annotations

import json

import numpy as np

from pocketvit.spec.results import Classification, Level, Restored
from tests.bad_images import photo


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


def test_restored() -> None:
    result = Restored(photo(10, 12))
    assert result.to_dict() == {"task": "restore", "height": 10, "width": 12}
    np.testing.assert_array_equal(result.draw(photo(3, 3)), photo(10, 12))
