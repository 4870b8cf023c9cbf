"""The state of a training run, in memory and on disk: what a killed run needs to go on with the numbers of an uninterrupted one."""

from __future__ import annotations

import os
import pickle  # only for the name of the error that torch's safe loader raises
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric

from pocketvit.errors import DataError
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
    loss_sum: float = 0.0
    loss_count: int = 0
    best: float = float("-inf")
    scheduled_best: float = float("-inf")
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
    saved_at: float = 0.0


def save_state(run: Run, fabric: Fabric) -> None:
    """Replace the resumable state in one step: weights, optimiser, average, gradient scaler, position.

    Raises:
        DataError: the folder cannot be written; the state before is intact.
    """
    target = run.folder / "last"
    target.mkdir(parents=True, exist_ok=True)
    state = {
        "model": run.trained.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "ema": run.ema.state() if run.ema else None,
        "precision": fabric.strategy.precision.state_dict(),  # the gradient scale of fp16; empty otherwise
        "position": vars(run.position),
    }
    partial = target / f".{STATE}.partial"
    try:
        torch.save(state, partial)
        os.replace(partial, target / STATE)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise DataError(
            f"{target}: the training state cannot be written ({error}).",
            "Free some space and start again; the run resumes from the state before.",
        ) from error
    save_checkpoint(
        target, replace(run.trained, info={"images_seen": run.position.images}), run.ema.shadow if run.ema else None
    )


def resume(run: Run, fabric: Fabric) -> None:
    """Take up the state of an earlier, unfinished run in the same folder; nothing happens where there is none.

    Raises:
        DataError: the state is damaged, or of another model.
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
        raise DataError(
            f"{path}: the training state cannot be used ({' '.join(str(error).split())[:160]}).",
            "Undo the change of the recipe, or choose another --name.",
        ) from error
    run.rows = [
        row
        for row in read_rows(run.folder / "metrics.csv")
        if row["step"] <= run.position.step and row["epoch"] <= run.position.epoch
    ]
