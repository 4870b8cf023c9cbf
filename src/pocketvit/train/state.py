"""The state of a training run, in memory and on disk: a killed run goes on with the numbers of an uninterrupted one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from pocketvit.errors import DataError, PocketvitError
from pocketvit.files import make_folder, need_space, replacing
from pocketvit.models.trained import Trained, bytes_of, save_checkpoint
from pocketvit.spec.recipe import Recipe
from pocketvit.train.ema import Ema
from pocketvit.train.history import read_rows

if TYPE_CHECKING:
    from lightning.fabric import Fabric

STATE = "state.pt"


@dataclass
class Position:
    """Where a run stands; saved with the state and restored from it."""

    epoch: int = 0
    batch: int = 0
    batch_size: int = 0
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
    drawn_at: float = 0.0
    check: Callable[[], None] = lambda: None
    """Raises where the process was asked to end."""
    sound: bool = True
    """Weights and position belong together: not in the middle of a step, nor while an epoch is being closed."""
    resumed: bool = False
    """The state of an earlier sitting was taken up, and no step has been done with it yet."""

    def start(self) -> None:
        """Let the clock run on from where the position stands."""
        now = time.monotonic()
        self.began, self.saved_at, self.drawn_at = now - self.position.elapsed, now, now

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
    make_folder(target)
    need_space(target, bytes_of(state))
    with replacing(target / STATE) as partial:
        torch.save(state, partial)
    average, info = run.ema.shadow if run.ema else None, {"images_seen": run.position.images}
    save_checkpoint(target, replace(run.trained, info=info), average)


def resume(run: Run, fabric: Fabric) -> None:
    """Take up the state of an earlier, unfinished run in the same folder; nothing happens where there is none.

    Raises DataError: the state is damaged, or of another model.
    """
    path = run.folder / "last" / STATE
    if not path.exists():
        return
    with usable_state(path):
        state = torch.load(path, weights_only=True, map_location="cpu")
        _take_up(run, state)
        if scaler := state.get("precision"):
            fabric.strategy.precision.load_state_dict(scaler)
    at, run.resumed = run.position, True
    rows = read_rows(run.folder / "metrics.csv")
    run.rows = [row for row in rows if row["step"] <= at.step and row["epoch"] <= at.epoch]


@contextmanager
def usable_state(path: Path) -> Iterator[None]:
    """Whatever fails within is the fault of the state in ``path``, which is written whole or not at all by us."""
    try:
        yield
    except PocketvitError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        what = f"{path}: the training state cannot be used ({reason})."
        todo = f"Delete {path.parent} to train this run from its start, or choose another --name."
        raise DataError(what, todo) from error


def _take_up(run: Run, state: dict[str, Any]) -> None:
    """Raises whatever torch or pydantic raise, and ValueError, where the state is not one of this run."""
    run.trained.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    if run.ema:
        run.ema.load(state["ema"])
    kept = run.ema.shadow if run.ema else {}
    if not all(value.isfinite().all() for value in (*run.trained.model.state_dict().values(), *kept.values())):
        raise ValueError("a weight is NaN or infinite")
    for parameter, moments in run.optimizer.state.items():
        if any(value.shape not in (parameter.shape, ()) for value in moments.values() if isinstance(value, Tensor)):
            raise ValueError("the optimiser is one of another model")
    at = TypeAdapter(Position).validate_python(state["position"])
    if min(at.epoch, at.batch, at.step, at.images, at.stale) < 0 or not (
        math.isfinite(at.elapsed) and math.isfinite(at.loss_sum) and at.elapsed >= 0
    ):
        raise ValueError("its position is none")
    size = run.recipe.train.batch_size  # changed after advice: as many images of the epoch stay behind it
    at.batch, at.batch_size = at.batch * (at.batch_size or size) // size, size
    run.position = at
