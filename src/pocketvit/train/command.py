"""The command ``pocketvit train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvit.data.collections import load_splits
from pocketvit.spec import recipe as r
from pocketvit.spec.preprocess import Preprocess
from pocketvit.tasks.start import new_model
from pocketvit.train.loop import train_model
from pocketvit.train.progress import Reporter
from pocketvit.train.runs import finish_run, open_run


@dataclass(frozen=True)
class TrainReport:
    """What a training run reached."""

    folder: Path
    info: dict[str, Any]
    notes: tuple[str, ...] = ()
    """What was left out of the data or looks odd in it, one sentence each."""
    exit_code: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "run": str(self.folder),
            "checkpoint": str(self.folder / "best"),
            **self.info,
            "notes": list(self.notes),
        }

    def render(self) -> str:
        """Lines for people."""
        seen, minutes = self.info.get("images_seen", 0), self.info.get("minutes", 0)
        metrics = [f"  {name}: {value:.4g}" for name, value in self.info.get("metrics", {}).items()]
        head = f"best checkpoint: {self.folder / 'best'} ({seen} images seen, {minutes:.1f} minutes)"
        return "\n".join((head, *metrics, *(f"note: {note}" for note in self.notes)))


def train(
    recipe: str | Path | r.Recipe,
    *,
    name: str | None = None,
    runs: str = "runs",
    quiet: bool = False,
    data: r.DataConfig | None = None,
    model: r.ModelConfig | None = None,
    task: r.TaskConfig | None = None,
    preprocess: Preprocess | None = None,
    train: r.TrainConfig | None = None,
    **overrides: Any,
) -> TrainReport:
    """Train the recipe's model; killed and started again it goes on.

    Args:
        recipe: YAML file, or a recipe made in Python.
        name: run name; the recipe's file name by default.
        runs: folder that holds the runs.
        quiet: no progress on standard error.
        data: fields that override the recipe's.
        model: fields that override the recipe's.
        task: fields that override the recipe's.
        preprocess: fields that override the recipe's.
        train: fields that override the recipe's.
        overrides: single fields by dotted name, e.g. ``**{"train.epochs": 3}``.

    Raises:
        UsageError: the recipe is wrong, or the run is finished.
        DataError: data that cannot be used.
    """
    given = {"data": data, "model": model, "task": task, "preprocess": preprocess, "train": train}
    resolved = r.load_recipe(recipe, {key: value for key, value in given.items() if value is not None} | overrides)
    default_name = Path(recipe).stem if isinstance(recipe, (str, Path)) else resolved.name
    splits = load_splits(resolved.data, resolved.task.name)
    trained = new_model(resolved, splits.train.levels)
    folder = open_run(resolved, name or default_name, runs)
    best = train_model(trained, splits, resolved, folder, reporter=Reporter(quiet=quiet))
    finish_run(folder, best.info)
    return TrainReport(folder, best.info, splits.notes)
