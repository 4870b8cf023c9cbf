from __future__ import annotations

import numpy as np
import pytest

from pocketvit.errors import DataError
from pocketvit.spec.hierarchy import decide, leaf_paths, mistake_distance
from pocketvit.spec.manifest import LevelSpec
from tests.tiny import LEVELS


def test_paths_of_two_and_one_level() -> None:
    assert leaf_paths(LEVELS).tolist() == [[0, 0], [0, 1], [1, 2], [1, 3]]
    assert leaf_paths(LEVELS[1:]).tolist() == [[0], [1], [2], [3]]


def test_three_levels() -> None:
    top = LevelSpec(name="top", labels=["all"])
    coarse = LevelSpec(name="coarse", labels=["warm", "cold"], parents=[0, 0])
    assert leaf_paths([top, coarse, LEVELS[1]]).tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [0, 1, 3]]


@pytest.mark.parametrize("parents", [None, [0, 0, 1], [0, 0, 1, 2], [0, 0, 1, -1], []])
def test_broken_hierarchies_name_the_level(parents: list[int] | None) -> None:
    with pytest.raises(DataError, match="level fine"):
        leaf_paths([LEVELS[0], LevelSpec(name="fine", labels=list("abcd"), parents=parents)])


def test_decision_is_consistent_even_where_the_levels_disagree() -> None:
    coarse = np.array([[0.1, 0.9], [0.55, 0.45]], np.float32)
    fine = np.array([[0.5, 0.1, 0.3, 0.1], [0.05, 0.05, 0.1, 0.8]], np.float32)
    paths = leaf_paths(LEVELS)
    chosen = decide([coarse, fine], paths)
    # 0.9 * 0.3 beats 0.1 * 0.5; 0.45 * 0.8 beats 0.55 * 0.05
    assert chosen.tolist() == [[1, 2], [1, 3]]
    rng = np.random.default_rng(0)
    random = decide([rng.dirichlet(np.ones(2), 500), rng.dirichlet(np.ones(4), 500)], paths)
    assert all(LEVELS[1].parents[fine] == coarse for coarse, fine in random.tolist())


def test_zero_probabilities_do_not_break_it() -> None:
    assert decide([np.array([[1.0, 0.0]]), np.array([[0.0, 0.0, 1.0, 0.0]])], leaf_paths(LEVELS)).shape == (1, 2)


def test_mistake_distance() -> None:
    truth = np.array([[0, 0], [0, 0], [0, 0]])
    predicted = np.array([[0, 0], [0, 1], [1, 2]])
    assert mistake_distance(predicted, truth).tolist() == [0, 1, 2]
