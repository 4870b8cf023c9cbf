"""A micro ViT that was trained on three easy classes, with what steps that retrain are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pocketvit.compress.saliency import images_of
from pocketvit.compress.step import Context
from pocketvit.data.collections import load_splits
from pocketvit.export.built import Built
from pocketvit.models.narrow import find_units
from pocketvit.models.trained import Trained
from pocketvit.spec.recipe import Recipe
from pocketvit.tasks import TORCH_TASKS
from pocketvit.tasks.start import new_model
from pocketvit.train.loop import train_model
from tests.train.helpers import classify_recipe, restore_recipe, write_classes, write_photos


def by_bytes(files: Sequence[Built]) -> list[float]:
    """Stands for timing: a file takes a millisecond for each 10 kB."""
    return [built.bytes / 1e4 for built in files]


def teach(folder: Path, epochs: int = 5) -> tuple[Trained, Recipe]:
    """A trained classifier and its recipe, which has 27 training photos and 9 for validation."""
    recipe = classify_recipe(write_classes(folder / "data"), **{"train.epochs": epochs, "train.threads": 1})
    splits = load_splits(recipe.data, "classify")
    return train_model(new_model(recipe, splits.train.levels), splits, recipe, folder / "run"), recipe


def given(
    recipe: Recipe, folder: Path, time: Callable[[Sequence[Built]], Sequence[float]] | None = by_bytes
) -> Context:
    """The context of a step on the data of a recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    return Context((), folder, data=load_splits(recipe.data, recipe.task.name), recipe=recipe, time=time)


def restoring(folder: Path) -> tuple[Trained, Recipe]:
    """A restorer with random weights, its zero head filled so that gradients reach all layers."""
    bottleneck = {"widths": [8, 32], "encoder": [1], "decoder": [1], "bottleneck": "rw", "window": 4}
    recipe = restore_recipe(write_photos(folder / "photos"))
    recipe = replace(recipe, model=replace(recipe.model, options=bottleneck))
    start = new_model(recipe, ())
    nn.init.normal_(start.model.head.weight, std=0.05)
    return start, recipe


def deafen(trained: Trained, path: str, units: Sequence[int]) -> None:
    """Let nothing listen to some units of a module."""
    each = next(x for x in find_units(trained.model) if x.path == path)
    with torch.no_grad():
        trained.model.get_submodule(each.reader).weight[:, each.columns(units)] = 0


def silence(trained: Trained, path: str, units: Sequence[int]) -> None:
    """Let some neurons always be zero."""
    each = next(x for x in find_units(trained.model) if x.path == path)
    writer = trained.model.get_submodule(each.writer)
    with torch.no_grad():
        writer.weight[each.rows(units)] = 0
        writer.bias[each.rows(units)] = 0


def answer(trained: Trained, count: int = 3) -> torch.Tensor:
    """Logits or pictures of some random images, in evaluation mode."""
    torch.manual_seed(7)
    with torch.no_grad():
        found = trained.model.eval()(torch.rand(count, 3, *trained.preprocess.size))
    return found[0] if isinstance(found, tuple) else found


def mean_loss(network: object, context: Context) -> float:
    """Of the training photos."""
    assert isinstance(network, Trained)
    task = TORCH_TASKS["classify"]
    with torch.no_grad():
        found = [
            float(task.loss(network.model(x), task.targets(truth), network.task, None))
            for x, truth in images_of(network, context, 24)
        ]
    return float(np.mean(found))
