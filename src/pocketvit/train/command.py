"""The command ``pocketvit train``; it imports the torch side when it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvit.spec.overrides import resolve_recipe
from pocketvit.spec.recipe import Recipe


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
        paths = {"run": str(self.folder), "checkpoint": str(self.folder / "best")}
        return {**paths, **self.info, "notes": list(self.notes)}

    def render(self) -> str:
        """Lines for people."""
        seen, minutes = self.info.get("images_seen", 0), self.info.get("minutes", 0)
        metrics = [f"  {name}: {value:.4g}" for name, value in self.info.get("metrics", {}).items()]
        head = f"best checkpoint: {self.folder / 'best'} ({seen} images seen, {minutes:.1f} minutes)"
        return "\n".join((head, *metrics, *(f"note: {note}" for note in self.notes)))


def train(
    recipe: str | Path | Recipe, *, name: str | None = None, runs: str = "runs", quiet: bool = False, **overrides: Any
) -> TrainReport:
    """Train the recipe's model; killed and started again it goes on.

    Args:
        recipe: YAML file, a recipe made in Python, or a folder of photos to make one for.
        name: name of the run and of what is exported from it; by default the recipe's file name and the name that the
            recipe states.
        runs: folder that holds the runs.
        quiet: no progress on standard error.
        overrides: what differs from the recipe: sections (``train={"epochs": 3}`` or ``train=TrainConfig(...)``), or
            fields by dotted name (``**{"train.epochs": 3}``).

    Raises:
        UsageError: the recipe is wrong, or the run is finished or in use.
        DataError: data that cannot be used, or others than the run began with; or the disk is full.
    """
    from pocketvit.data.begin import begin
    from pocketvit.train.runs import check_once, finish_run, refuse_finished, run_folder

    source, said = begin(recipe, overrides)
    resolved, run_name, notes = resolve_recipe(source, name, overrides)
    refuse_finished(resolved, run_name, runs)
    # Heavy: what is wrong already is told before.
    from pocketvit.data.collections import load_splits
    from pocketvit.tasks.start import new_model
    from pocketvit.train.checks import check_trainable, teller
    from pocketvit.train.loop import train_model
    from pocketvit.train.progress import Reporter

    splits = load_splits(resolved.data, resolved.task.name)
    check_trainable([resolved], splits)
    trained, notify = new_model(resolved, splits.train.levels), teller(quiet)
    told = (*said, *notes, *splits.notes)
    with run_folder(resolved, run_name, runs, splits, notify) as folder:
        for note in told:
            notify(f"note: {note}")
        check_once(folder, splits, quiet)
        best = train_model(trained, splits, resolved, folder, reporter=Reporter(quiet=quiet))
        finish_run(folder, best.info)
    return TrainReport(folder, best.info, told)
