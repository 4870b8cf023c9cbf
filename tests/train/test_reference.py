"""The reference recipes: ViT-B with a global and a per-token decoder, on folders laid out like SIDD and GoPro."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

import pocketvit
from pocketvit.data.collections import load_splits
from pocketvit.data.loader import Loader
from pocketvit.models.pixels import normalise
from pocketvit.spec.recipe import Recipe, load_recipe
from pocketvit.tasks import TORCH_TASKS
from pocketvit.tasks.start import new_model
from pocketvit.train.schedule import make_optimizer

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = [f"{data}_vit_{decoder}" for data in ("sidd", "gopro") for decoder in ("global", "token")]
SMALL = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 8}


def write_pairs(root: Path, layout: str, side: int) -> Path:
    """Two pairs of a data set's layout (for GoPro in each part): a photo, and the photo with noise."""
    rng, clean = np.random.default_rng(0), astronaut()[:side, 150 : 150 + side]
    folders = [f"Data/{i:04d}_006_IP_00800_00800_3200_L" for i in range(2)]
    names = ("NOISY_SRGB_010.PNG", "GT_SRGB_010.PNG")
    if layout == "gopro":
        folders, names = ["train/GOPR0372", "train/GOPR0374", "test/GOPR0384"], ("blur/000001.png", "sharp/000001.png")
    for i, folder in enumerate(folders):
        noisy = np.clip(clean + rng.normal(0, 25, clean.shape), 0, 255).astype(np.uint8)
        for name, pixels in zip(names, (noisy, clean), strict=True):
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.roll(pixels, i, axis=1)).save(path)
    return root


def recipe_of(name: str, folder: Path, side: int, **overrides: Any) -> Recipe:
    """The recipe on a small folder, a sample for each photo and one photo a step."""
    root = str(write_pairs(folder / "data", name.partition("_")[0], side))
    paths: dict[str, Any] = {"data.train": [root], "data.patches_per_image": 1, "train.batch_size": 1}
    paths |= {"data.val": [root]} if name.startswith("gopro") else {"data.val_share": 0.5}
    return load_recipe(RECIPES / f"{name}.yaml", paths | {"train.epochs": 1, "train.precision": "fp32"} | overrides)


@pytest.mark.parametrize("name", NAMES)
def test_a_reference_recipe_trains_a_small_model_on_its_layout(name: str, tmp_path: Path) -> None:
    small: dict[str, Any] = {"data.patch": 32, "preprocess.size": [32, 32], "preprocess.overlap": 8}
    decoder = name.rpartition("_")[2]
    recipe = recipe_of(name, tmp_path, 48, **small, **{"model.options": {**SMALL, "decoder": decoder}})
    report = pocketvit.train(recipe, name="small", runs=str(tmp_path / "runs"), quiet=True)
    assert report.info["images_seen"] == (2 if name.startswith("gopro") else 1)
    assert report.info["metrics"]["psnr"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parameters"), [("sidd_vit_global", 201_554_688), ("gopro_vit_token", 86_387_712)])
def test_one_step_of_the_reference_at_its_full_size(name: str, parameters: int, tmp_path: Path) -> None:
    recipe = recipe_of(name, tmp_path, 256)
    splits = load_splits(recipe.data, recipe.task.name)
    model, task = new_model(recipe, ()).model.train(), TORCH_TASKS[recipe.task.name]
    assert sum(p.numel() for p in model.parameters()) == parameters
    optimizer = make_optimizer(model, recipe.train)
    pixels, clean = next(Loader(splits.train, recipe.data, recipe.preprocess, recipe.train).epoch(0))
    loss = task.loss(model(normalise(pixels, recipe.preprocess)), task.targets(clean), recipe.task, None)
    loss.backward()
    before = model.decoder_proj.weight.detach().clone()
    optimizer.step()
    assert torch.isfinite(loss)
    assert model.decoder_proj.weight.shape == (150_528 if name == "sidd_vit_global" else 768, 768)
    assert ((model.decoder_proj.weight - before).abs().amax(dim=1) > 0).float().mean() > 0.99  # every pixel learns
