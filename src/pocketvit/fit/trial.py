"""One trial: train one candidate. A pure function of (candidate, recipe, seed) that leaves a folder and returns a row.

It can run in this process, in several, or on other machines: nothing but the folder is shared, and a trial that was
killed goes on in its folder with the numbers of an uninterrupted one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from pocketvit.data.collections import Splits, load_splits
from pocketvit.files import write_json
from pocketvit.fit.plan import Candidate, recipe_for
from pocketvit.models.trained import Trained
from pocketvit.spec.recipe import Recipe
from pocketvit.tasks.start import new_model
from pocketvit.train.loop import train_model
from pocketvit.train.progress import Reporter

TRIAL = "trial.json"
Report = Callable[[int, float], bool]
"""Told (epoch, best value so far) at each rung; True stops the trial there."""


@dataclass(frozen=True)
class TrialRow:
    """What a trial reached."""

    key: str
    value: float
    """Best validation value of the main metric."""
    epochs: int
    """Epochs it was trained for."""
    complete: bool
    """Trained to the end; False where it was stopped at a rung."""
    folder: Path
    """Holds ``best``, the checkpoint."""


def rungs(recipe: Recipe) -> list[int]:
    """Epochs at which a trial reports: the first rung, doubled again and again, then ``train.epochs``."""
    epochs, rung, ends = recipe.train.epochs, recipe.search.rung_epochs, []
    while rung < epochs:
        ends.append(rung)
        rung *= 2
    return [*ends, epochs]


def run_trial(
    candidate: Candidate,
    recipe: Recipe,
    seed: int,
    folder: Path,
    *,
    splits: Splits | None = None,
    report: Report | None = None,
    quiet: bool = True,
) -> TrialRow:
    """Train a candidate to the end of the recipe, or until ``report`` stops it at a rung.

    Args:
        candidate: architecture and input size.
        recipe: what ``fit`` was given; the candidate's model, size and ``seed`` replace its own.
        seed: of weights, order and augmentation.
        folder: where checkpoints, ``metrics.csv`` and ``trial.json`` are written; an earlier state there is taken up.
        splits: the recipe's data, where they have been found already.
        report: see ``Report``; without it the trial runs in one go.
        quiet: no progress on standard error.

    Raises:
        DataError: data that cannot be used, or a full disk.
    """
    recipe = replace(recipe, train=replace(recipe.train, seed=seed))
    splits = splits or load_splits(recipe.data, recipe.task.name)
    own, reporter = recipe_for(recipe, candidate), Reporter(quiet=quiet, label=candidate.key)
    ends = rungs(recipe) if report is not None else [recipe.train.epochs]
    row = TrialRow(candidate.key, 0.0, 0, False, folder)
    for end in ends:
        start = new_model(own, splits.train.levels)
        trained = train_model(start, splits, own, folder, stop_epoch=end or None, reporter=reporter)
        row = TrialRow(candidate.key, best_value(trained), end, end == ends[-1], folder)
        if report is not None and report(end, row.value) and not row.complete:
            break
    write_json(folder / TRIAL, {**vars(row), "folder": folder.name})
    return row


def load_trial(folder: Path) -> TrialRow | None:
    """The row of a trial that came to its end in ``folder``; ``None`` where there is none that can be read."""
    try:
        known = json.loads((folder / TRIAL).read_text(encoding="utf-8"))
        row = TypeAdapter(TrialRow).validate_python({**known, "folder": folder})
        return row if math.isfinite(row.value) else None
    except (OSError, ValueError, TypeError):
        return None


def best_value(trained: Trained) -> float:
    """The best validation value that the training loop recorded; its main metric decided which checkpoint is best."""
    return float(trained.info.get("best_value", 0.0))
