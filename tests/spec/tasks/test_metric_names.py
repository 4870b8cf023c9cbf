"""The names that a floor may be on are those that the evaluator yields."""

import numpy as np
import pytest

from pocketvit.spec.hierarchy import LevelSpec
from pocketvit.spec.tasks import TASKS

FLAT = (LevelSpec(name="label", labels=["a", "b"]),)
TREE = (LevelSpec(name="coarse", labels=["x"]), LevelSpec(name="fine", labels=["a", "b"], parents=[0, 0]))


@pytest.mark.parametrize("levels", [FLAT, TREE])
def test_names_of_a_label_hierarchy(levels: tuple[LevelSpec, ...]) -> None:
    task = TASKS["classify"]
    evaluator = task.evaluator(levels, "")
    raw = {f"probs_{level.name}": np.full((1, len(level.labels)), 0.5, np.float32) for level in levels}
    evaluator.update(task.finish(raw, levels), np.zeros(len(levels), np.int64))
    assert sorted(m.name for m in evaluator.metrics()) == sorted(task.metric_names(levels, []))


def test_names_of_conditions() -> None:
    task = TASKS["restore"]
    assert task.metric_names((), []) == ["psnr", "ssim"]
    assert task.metric_names((), ["sigma15", "sigma25"]) == [
        "psnr@sigma15",
        "ssim@sigma15",
        "psnr@sigma25",
        "ssim@sigma25",
    ]
