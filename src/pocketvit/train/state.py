"""The state of a training run, in memory and on disk: a killed run goes on with the numbers of an uninterrupted one."""

from __future__ import annotations

import pickle  # only for the name of the error that torch's safe loader raises
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric

from pocketvit.errors import DataError
from pocketvit.files import replacing
from pocketvit.models.trained import Trained, save_checkpoint
from pocketvit.spec.recipe import Recipe
from pocketvit.train.ema import Ema
from pocketvit.train.history import read_rows

STATE = "state.pt"


@dataclass
class Position:
    """Where a run stands; saved with the state and restored from it."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    images: int = 0
    elapsed: float = 0.0
    """Seconds of training and validation, over all sittings."""
    validation: float = 0.0
    """Seconds that the last validation took: a run by minutes keeps so many for the one at its end."""
    loss_sum: float = 0.0
    loss_count: int = 0
    best: float | None = None
    scheduled_best: float | None = None
    """Best of the validations that ``validate_every`` asks for; patience looks at these alone."""
    stale: int = 0
    done: bool = False


@dataclass
class Run:
    """The mutable parts of one training run."""

    recipe: Recipe
    folder: Path
    trained: Trained
    optimizer: torch.optim.Optimizer
    ema: Ema | None
    position: Position = field(default_factory=Position)
    rows: list[dict[str, Any]] = field(default_factory=list)
    began: float = 0.0
    """When this run would have begun without pauses, on the monotonic clock."""
    saved_at: float = 0.0

    def start(self) -> None:
        """Let the clock run on from where the position stands."""
        now = time.monotonic()
        self.began, self.saved_at = now - self.position.elapsed, now

    def share_done(self, per_epoch: int) -> float:
        """How much of the run is behind it, from 0 to 1 (and beyond): of its minutes, or else of its batches."""
        settings, at = self.recipe.train, self.position
        at.elapsed = time.monotonic() - self.began
        if settings.minutes:
            return at.elapsed / max(60 * settings.minutes - at.validation, 1e-9)
        return (at.epoch * per_epoch + at.batch) / (settings.epochs * per_epoch)


def save_state(run: Run, fabric: Fabric) -> None:
    """Replace the resumable state in one step: weights, optimiser, average, gradient scaler, position.

    Raises DataError: the folder cannot be written; the state before is intact.
    """
    target = run.folder / "last"
    state = {
        "model": run.trained.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "ema": run.ema.state() if run.ema else None,
        "precision": fabric.strategy.precision.state_dict(),  # the gradient scale of fp16; empty otherwise
        "position": vars(run.position),
    }
    try:
        with replacing(target / STATE) as partial:
            torch.save(state, partial)
    except (DataError, RuntimeError) as error:  # torch's writer has no OSError for a full disk
        what = f"{target}: the training state cannot be written ({error})."
        raise DataError(what, "Free some space and start again; the run resumes from the state before.") from error
    average, info = run.ema.shadow if run.ema else None, {"images_seen": run.position.images}
    save_checkpoint(target, replace(run.trained, info=info), average)


def resume(run: Run, fabric: Fabric) -> None:
    """Take up the state of an earlier, unfinished run in the same folder; nothing happens where there is none.

    Raises DataError: the state is damaged, or of another model.
    """
    path = run.folder / "last" / STATE
    if not path.exists():
        return
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        run.trained.model.load_state_dict(state["model"])
        run.optimizer.load_state_dict(state["optimizer"])
        if run.ema and state["ema"]:
            run.ema.load(state["ema"])
        if scaler := state.get("precision"):
            fabric.strategy.precision.load_state_dict(scaler)
        run.position = Position(**state["position"])
    except (RuntimeError, KeyError, ValueError, TypeError, EOFError, OSError, pickle.UnpicklingError) as error:
        what = f"{path}: the training state cannot be used ({' '.join(str(error).split())[:160]})."
        raise DataError(what, "Undo the change of the recipe, or choose another --name.") from error
    at = run.position
    rows = read_rows(run.folder / "metrics.csv")
    run.rows = [row for row in rows if row["step"] <= at.step and row["epoch"] <= at.epoch]
