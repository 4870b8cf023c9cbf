"""Label hierarchies: which class lies below which, and one decision that is consistent at every level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pocketvit.errors import DataError

Ints = NDArray[np.int64]


class LevelSpec(BaseModel):
    """One level of the label hierarchy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    labels: list[str]
    parents: list[int] | None = Field(
        default=None, description="Each class's parent in the level before; none in the first."
    )


def leaf_paths(levels: Sequence[LevelSpec]) -> Ints:
    """Class at every level for each class of the finest one: (leaves, levels), coarsest level first.

    Raises:
        DataError: a level below the first lacks its parents, or a parent does not exist.
    """
    columns: list[Ints] = [np.arange(len(levels[-1].labels))]
    for k in range(len(levels) - 1, 0, -1):
        parents = np.asarray(levels[k].parents or [], np.int64)
        if len(parents) != len(levels[k].labels) or not all((parents >= 0) & (parents < len(levels[k - 1].labels))):
            what = f"level {levels[k].name}: every class needs a parent in level {levels[k - 1].name}."
            raise DataError(what, "Correct the label files.")
        columns.append(parents[columns[-1]])
    return np.stack(columns[::-1], axis=1)


def decide(scores: Sequence[NDArray[np.float32]], paths: Ints) -> Ints:
    """Choose for each sample the path with the highest sum of log probabilities over the levels.

    Args:
        scores: per level, coarsest first, (N, classes) probabilities.
        paths: (leaves, levels) from :func:`leaf_paths`.

    Returns:
        (N, levels) classes; the parent of the chosen leaf is always the class chosen above it.
    """
    total = sum(np.log(np.maximum(np.asarray(s, np.float64), 1e-12))[:, paths[:, k]] for k, s in enumerate(scores))
    chosen: Ints = paths[np.argmax(total, axis=1)]
    return chosen


def mistake_distance(predicted: Ints, truth: Ints) -> NDArray[np.float64]:
    """Height of the lowest common ancestor of prediction and truth in the label tree (Bertinetto et al. 2020).

    Args:
        predicted: (N, levels) classes, coarsest first.
        truth: the same for the ground truth.

    Returns:
        (N,) 0 for a hit, 1 where only the finest level is wrong, ``levels`` where even the coarsest is.
    """
    heights: NDArray[np.float64] = (np.cumsum(predicted != truth, axis=1) > 0).sum(axis=1).astype(np.float64)
    return heights
