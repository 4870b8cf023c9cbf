"""Small data sets and recipes for training tests."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data as photos

from pocketvit.spec.recipe import Recipe, load_recipe
from pocketvit.tasks import TORCH_TASKS


def write_photos(folder: Path, count: int = 6, side: int = 96) -> Path:
    """Crops of a real colour photograph."""
    folder.mkdir(parents=True, exist_ok=True)
    source = photos.astronaut()
    for i in range(count):
        y, x = (37 * i) % (512 - side), (83 * i) % (512 - side)
        Image.fromarray(source[y : y + side, x : x + side]).save(folder / f"{i:02d}.png")
    return folder


def write_classes(folder: Path, per_class: int = 12, side: int = 40) -> Path:
    """Three classes of colour and stripes that a tiny model learns in seconds."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            image = rng.integers(0, 90, (side, side, 3))
            image[:, :, k] += 120
            Image.fromarray(image.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def diverge(patch: pytest.MonkeyPatch) -> None:
    """Make every loss of a restorer NaN, as too high a rate would."""
    broken = replace(TORCH_TASKS["restore"], loss=lambda output, *_: output.sum() * float("nan"))
    patch.setitem(TORCH_TASKS, "restore", broken)


def restore_recipe(folder: Path, **overrides: Any) -> Recipe:
    """A restorer of a few thousand parameters on six crops."""
    return load_recipe(
        None,
        {
            "data": {
                "train": [str(folder)],
                "val": [str(folder)],
                "layout": "clean",
                "sigma": [25, 25],
                "eval_sigma": [25],
                "patch": 32,
                "patches_per_image": 8,
            },
            "model": {
                "name": "restorer_xs",
                "options": {"widths": [8, 12], "encoder": [1], "decoder": [1], "bottleneck": "cw", "window": 4},
            },
            "task": {"name": "restore"},
            "preprocess": {"resize": "tile", "size": [48, 48], "overlap": 8, "mean": [0, 0, 0], "std": [1, 1, 1]},
            "train": {"epochs": 2, "batch_size": 8, "lr": 0.003, "weight_decay": 0.0, "ema": 0.9, "precision": "fp32"},
            "search": {"quiet_seconds": 0},
            **overrides,
        },
    )


def classify_recipe(folder: Path, **overrides: Any) -> Recipe:
    """A micro ViT on three easy classes."""
    return load_recipe(
        None,
        {
            "data": {"train": [str(folder)], "layout": "classes", "val_share": 0.25},
            "model": {
                "name": "vit_micro_patch16_224",
                "options": {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8},
            },
            "task": {"name": "classify"},
            "preprocess": {"size": [32, 32], "resize": "stretch"},
            "train": {"epochs": 3, "batch_size": 9, "lr": 0.003, "augment": "none", "precision": "fp32"},
            "search": {"quiet_seconds": 0},
            **overrides,
        },
    )
