"""Seeded fuzz of checkpoints and run folders: damaged weights and descriptions are loaded, damaged runs are resumed.

    python -m tests.fuzz.checkpoints --count 500 --seed 0

A case ends in a loaded model, in a run that goes on, or in an error of ours; anything else is raised.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

import pocketvit
from pocketvit.errors import DataError, UsageError
from pocketvit.spec.recipe import Recipe
from pocketvit.tasks.load import load_checkpoint
from tests.fuzz.command import command
from tests.fuzz.mutate import mutate
from tests.train.helpers import classify_recipe, write_classes

LOADED = ("best/model.safetensors", "best/model.json", "last/model.safetensors", "last/model.json")
RESUMED = ("last/state.pt", "last/model.safetensors", "data.json", "recipe.yaml", "metrics.csv")


def begin(folder: Path) -> Recipe:
    """A run in ``folder/r`` whose epoch is behind it and which is not finished."""
    data = write_classes(folder / "d", per_class=4)
    recipe = classify_recipe(data, **{"train.epochs": 1})
    pocketvit.train(recipe, name="r", runs=str(folder), quiet=True)
    (folder / "r" / "finished.json").unlink()  # it stopped just before its end
    return recipe


def case(index: int, seed: int, recipe: Recipe, run: Path, place: Path) -> str:
    """Damage one file of a copy of ``run``; how it ended."""
    rng = np.random.default_rng((seed, index))
    copy, resumed = place / "r", index % 5 == 0
    shutil.copytree(run, copy)
    try:
        names = RESUMED if resumed else LOADED
        file = copy / names[int(rng.integers(len(names)))]
        file.write_bytes(mutate(file.read_bytes(), rng))
        if resumed:
            pocketvit.train(recipe, name="r", runs=str(place), quiet=True)
            return "went on"
        load_checkpoint(file.parent)
        return "loaded"
    except (DataError, UsageError) as error:
        return type(error).__name__
    finally:
        shutil.rmtree(copy)


def attack(count: int, seed: int, folder: Path) -> dict[str, int]:
    """How ``count`` cases ended."""
    recipe, answers = begin(folder), dict[str, int]()
    for index in range(count):
        ended = case(index, seed, recipe, folder / "r", folder / "copy")
        answers[ended] = answers.get(ended, 0) + 1
    return answers


if __name__ == "__main__":
    command(__doc__, attack, 500)
