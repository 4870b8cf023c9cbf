"""A task that stands in test code alone is trained, validated by its lower-is-better metric, and resumed."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pocketvit
from pocketvit.spec.recipe import load_recipe
from pocketvit.train.history import read_rows
from tests import third_task


def test_a_task_from_test_code_is_trained_by_its_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    third_task.add(monkeypatch)
    rng = np.random.default_rng(0)
    (tmp_path / "d").mkdir()
    for i in range(24):
        photo = np.clip(rng.integers(0, 256, 3) + rng.normal(0, 10, (40, 40, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(photo).save(tmp_path / "d" / f"{i:02d}.png")
    options = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 8}
    recipe = load_recipe(
        None,
        {
            "data": {"train": [str(tmp_path / "d")], "layout": "clean", "val_share": 0.25},
            "model": {"name": "vit_micro_patch16_224", "options": options},
            "task": {"name": third_task.NAME},
            "preprocess": {"size": [32, 32], "resize": "stretch"},
            "train": {"epochs": 8, "batch_size": 6, "lr": 0.01, "augment": "flip", "precision": "fp32"},
        },
    )
    report = pocketvit.train(recipe, name="r", runs=str(tmp_path), quiet=True)
    errors = [row["error"] for row in read_rows(tmp_path / "r" / "metrics.csv")]
    assert report.info["best_value"] == min(errors) < 0.7 * errors[0]
    assert report.info["metrics"]["error"] == min(errors)
