"""What makes a training run senseless, found before its folder is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from rich.console import Console

from pocketvit.data.collections import Splits
from pocketvit.errors import DataError, UsageError
from pocketvit.spec.recipe import Recipe
from pocketvit.spec.tasks import task_of
from pocketvit.tasks import TORCH_TASKS
from pocketvit.terminal import cell
from pocketvit.train.loop import resolve_precision


def check_trainable(recipes: Iterable[Recipe], splits: Splits) -> None:
    """Hold the recipes of all candidates against what training needs.

    Raises UsageError: nothing is trained and there are no weights, or the precision does not exist here. DataError:
    there is one class only.
    """
    for recipe in recipes:
        resolve_precision(recipe.train, torch.cuda.is_available())
        if recipe.train.epochs == 0 and recipe.model.weights is None:
            what = f"train.epochs is 0 and {recipe.model.name} has no model.weights: its answers would be random."
            raise UsageError(what, "Train it (train.epochs), or name trained weights (model.weights).")
        TORCH_TASKS[recipe.task.name].state(recipe.task, splits.train)  # says what the loss cannot use of the data
    levels = splits.train.levels if task_of(splits.train.task).labelled else ()
    if levels and len(levels[-1].labels) < 2:
        what = f"{splits.train.name}: there is one class only ({', '.join(levels[-1].labels)}): nothing to tell apart."
        raise DataError(what, "Add images of another class, each class in a folder of its own.")


def teller(quiet: bool) -> Callable[[str], None]:
    """Prints a line on standard error; none when ``quiet``."""
    console = Console(stderr=True, highlight=False, quiet=quiet, soft_wrap=True)
    return lambda line: console.print(cell(line))
