"""Table and pictures of docs/denoising.md: one token for an image, a token for each patch, and the hybrid restorer.

python scripts/compare_denoisers.py [--minutes 4] [--data ../shared/data/bsds500] [--runs runs/compare]

Trains the three one after the other for the same minutes (a run that is finished is not trained again), exports each to
an artifact, times it with ``bench``, and prints the table. The picture goes to docs/img/.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.data import astronaut

import pocketvit
from pocketvit.data.cases import eval_cases
from pocketvit.data.collections import load_splits
from pocketvit.data.decode import decode
from pocketvit.data.noise import add_gaussian
from pocketvit.export.artifact import size_of
from pocketvit.models.trained import Trained
from pocketvit.spec.metrics import psnr
from pocketvit.spec.recipe import ModelConfig, Recipe, load_recipe
from pocketvit.spec.tiles import to_pixels
from pocketvit.tasks.load import load_checkpoint
from pocketvit.tasks.start import new_model

SIDE, SIGMA, CROPS = 64, 25, 12_800
SMALL = {"embed_dim": 192, "depth": 6, "num_heads": 3, "patch_size": 8}
SYSTEMS = {
    "global": ("vit_restorer_tiny", {"decoder": "global"}, SIDE, 8, 1e-3),
    "token": ("vit_restorer_tiny", {"decoder": "patch"}, SIDE, 8, 1e-3),
    "hybrid": ("restorer_s", {}, 256, 16, 2e-3),
}
"""By name: architecture, options, side and overlap of the tiles, learning rate."""


def recipe_of(name: str, data: Path, minutes: float) -> Recipe:
    """The same data, noise, batch and minutes for all."""
    model, options, side, overlap, rate = SYSTEMS[name]
    return load_recipe(
        {
            "name": f"compare-{name}",
            "data": {
                "train": [str(data / "train"), str(data / "test")],
                "val": [str(data / "val32")],
                **{"sigma": [SIGMA, SIGMA], "eval_sigma": [SIGMA], "patch": SIDE, "patches_per_image": 128},
            },
            "model": {"name": model, "options": options},
            "task": {"name": "restore"},
            "preprocess": {
                **{"resize": "tile", "size": [side, side], "overlap": overlap},
                **{"mean": [0, 0, 0], "std": [1, 1, 1]},
            },
            "train": {
                **{"minutes": minutes, "epochs": 1000, "batch_size": 32, "lr": rate, "weight_decay": 1e-4},
                **{"ema": 0.99, "min_lr": 0.01, "threads": 2},
            },
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/bsds500"))
    parser.add_argument("--runs", type=Path, default=Path("runs/compare"))
    arguments = parser.parse_args()
    for name in SYSTEMS:
        if not (arguments.runs / name / "best").exists():
            pocketvit.train(recipe_of(name, arguments.data, arguments.minutes), name=name, runs=str(arguments.runs))


if __name__ == "__main__":
    main()
