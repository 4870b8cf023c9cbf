"""The one training loop, for every task, on Lightning Fabric (device, precision, gradient scaling and clipping are Fabric's).

What a step does is a function of the recipe, the seed and the step's number: samples, their order, dropout and the
learning rate. A run that was killed therefore continues with the numbers of an uninterrupted one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from pocketvit.data.cases import eval_cases, main_condition
from pocketvit.data.collections import Splits
from pocketvit.data.loader import batches_per_epoch, make_loader
from pocketvit.errors import PocketvitError, UsageError
from pocketvit.models.pixels import normalise
from pocketvit.models.trained import Trained, save_checkpoint
from pocketvit.spec.evaluators import make_evaluator
from pocketvit.spec.recipe import Recipe, TrainConfig
from pocketvit.tasks import TASKS
from pocketvit.tasks.classify import balanced_weights
from pocketvit.tasks.load import load_checkpoint
from pocketvit.tasks.start import ask_teacher, load_teacher
from pocketvit.train.ema import Ema
from pocketvit.train.history import draw_curves, write_rows
from pocketvit.train.progress import Reporter
from pocketvit.train.schedule import lr_scale, make_optimizer, set_lr
from pocketvit.train.state import STATE, Position, Run, resume, save_state
from pocketvit.train.validate import validate

__all__ = ["STATE", "Position", "Run", "resolve_precision", "train_model"]


def resolve_precision(settings: TrainConfig, cuda: bool) -> str:
    """Fabric's name of the precision: ``auto`` is bf16 where the processor computes in it.

    Raises:
        UsageError: fp16 without a GPU.
    """
    choice = settings.precision
    if choice == "fp16" and not cuda:
        raise UsageError(
            "train.precision fp16 needs a GPU; this machine has none that torch sees.", "Take bf16, fp32 or auto."
        )
    if choice == "auto":
        fast = torch.cuda.is_bf16_supported() if cuda else torch.ops.mkldnn._is_mkldnn_bf16_supported()
        choice = "bf16" if fast else "fp32"
    return {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[choice]


def train_model(
    trained: Trained,
    splits: Splits,
    recipe: Recipe,
    folder: Path,
    *,
    stop_epoch: int | None = None,
    reporter: Reporter | None = None,
) -> Trained:
    """Train to the end of the recipe (or of ``stop_epoch``), going on where the folder's state left off; return the best model.

    Args:
        trained: the start model from :func:`pocketvit.tasks.start.new_model`; changed in place.
        splits: training and validation data.
        recipe: ``data``, ``task``, ``preprocess`` and ``train`` are used.
        folder: run folder; ``last``, ``best``, ``metrics.csv`` and ``curves.png`` are written there.
        stop_epoch: stop early at this epoch without ending the schedule (a rung of successive halving); it is validated
            whatever ``validate_every`` says, so that there is a best model to return.
        reporter: shows progress.

    Raises:
        UsageError: the teacher does not fit the task or its labels.
        DataError: a training image is damaged, or the disk is full.
        PocketvitError: out of memory, with the batch size to try.
    """
    settings = recipe.train
    reporter = reporter or Reporter(quiet=True)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    teacher = load_teacher(recipe, trained.levels)
    cuda = torch.cuda.is_available()
    logging.getLogger("lightning").setLevel(logging.WARNING)  # it announces its precision
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.utilities.rank_zero").setLevel(logging.WARNING)
    fabric = Fabric(accelerator="cuda" if cuda else "cpu", devices=1, precision=resolve_precision(settings, cuda))  # type: ignore[arg-type]
    model = trained.model.to(fabric.device)
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)
    folder.mkdir(parents=True, exist_ok=True)
    if settings.epochs == 0:  # the start weights are the model
        save_checkpoint(folder / "best", trained)
        return trained
    run = Run(
        recipe, folder, trained, make_optimizer(model, settings), Ema(model, settings.ema) if settings.ema else None
    )
    resume(run, fabric)
    if not run.position.done:
        forward, optimizer = fabric.setup(_compiled(model) if settings.compile else model, run.optimizer)
        if teacher:
            teacher.model.to(fabric.device)
        step = _make_step(fabric, forward, optimizer, run, _class_weights(splits, recipe), teacher)
        end = min(settings.epochs, stop_epoch or settings.epochs)
        with reporter:
            while run.position.epoch < end and not run.position.done:
                _epoch(run, splits, step, fabric, reporter, end)
    best = load_checkpoint(folder / "best")
    return replace(best, info={**best.info, "minutes": run.position.elapsed / 60})


def _compiled(model: nn.Module) -> nn.Module:
    compiled: Any = torch.compile(model)
    return compiled  # type: ignore[no-any-return]


def _class_weights(splits: Splits, recipe: Recipe) -> list[Tensor] | None:
    if recipe.task.name != "classify" or recipe.task.class_weights == "none":
        return None
    return balanced_weights(
        [item.labels for item in splits.train.items], [len(level.labels) for level in splits.train.levels]
    )


Step = Callable[[list[tuple[Tensor, Tensor]]], float]


def _make_step(
    fabric: Fabric, forward: Any, optimizer: Any, run: Run, class_weights: list[Tensor] | None, teacher: Trained | None
) -> Step:
    """One optimiser step over the accumulated batches; returns the mean loss."""
    settings, recipe = run.recipe.train, run.recipe
    task = TASKS[recipe.task.name]

    def step(batches: list[tuple[Tensor, Tensor]]) -> float:
        total = 0.0
        for index, (pixels, raw) in enumerate(batches):
            # Dropout must not depend on what ran before: a resumed run has run less.
            torch.manual_seed((settings.seed * 1_000_003 + run.position.step) * 131 + index)
            pixels = pixels.to(fabric.device)
            x = normalise(pixels, recipe.preprocess)
            x = x.contiguous(memory_format=torch.channels_last) if settings.channels_last else x.contiguous()
            output = forward(x)
            loss = task.loss(output, task.targets(raw.to(fabric.device)), recipe.task, class_weights)
            if teacher is not None:
                distilled = task.distil(output, ask_teacher(teacher, pixels), settings.distill_temperature)
                loss = (1 - settings.distill_weight) * loss + settings.distill_weight * distilled
            fabric.backward(loss / len(batches))
            total += float(loss.detach())
        if not total == total:
            raise PocketvitError(
                f"the loss became NaN at step {run.position.step}.",
                "Lower train.lr, set train.clip_norm, or train in fp32; the last checkpoint is intact.",
            )
        if settings.clip_norm:
            fabric.clip_gradients(forward, optimizer, max_norm=settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if run.ema:
            run.ema.update(run.trained.model)
        return total / len(batches)

    return step


def _epoch(run: Run, splits: Splits, step: Step, fabric: Fabric, reporter: Reporter, end: int) -> None:
    """Train one epoch from where it stands, then validate and save; ``end`` is the epoch at which this call of training stops."""
    settings, data, at = run.recipe.train, run.recipe.data, run.position
    per_epoch = batches_per_epoch(splits.train, data, settings)
    run.trained.model.train()
    pending: list[tuple[Tensor, Tensor]] = []
    clock = time.monotonic()
    run.saved_at = run.saved_at or clock
    reporter.start_epoch(at.epoch, settings.epochs, per_epoch, at.batch, settings.batch_size)
    for batch in make_loader(splits.train, data, run.recipe.preprocess, settings, at.epoch, start_batch=at.batch):
        pending.append(batch)
        at.batch += 1
        if len(pending) == settings.accumulate or at.batch == per_epoch:
            progress = (
                at.elapsed / (60 * settings.minutes)
                if settings.minutes
                else (at.epoch * per_epoch + at.batch - 1) / (settings.epochs * per_epoch)
            )
            set_lr(run.optimizer, settings.lr * lr_scale(settings, progress))
            seen = sum(len(x) for x, _ in pending)
            try:
                loss = step(pending)
            except RuntimeError as error:
                raise _explain_memory(error, settings) from error
            now = time.monotonic()
            at.elapsed, clock = at.elapsed + now - clock, now
            at.step, at.images, at.loss_sum, at.loss_count = (
                at.step + 1,
                at.images + seen,
                at.loss_sum + loss,
                at.loss_count + 1,
            )
            reporter.advance(len(pending), seen, at.loss_sum / at.loss_count, at.elapsed, settings.minutes)
            pending = []
            if settings.minutes and at.elapsed >= 60 * settings.minutes:
                break
            due = (
                at.step % settings.checkpoint_steps == 0
                if settings.checkpoint_steps
                else now - run.saved_at > 60 * settings.checkpoint_minutes
            )
            if due and at.batch < per_epoch:
                save_state(run, fabric)
                run.saved_at = now
    _end_epoch(run, splits, fabric, reporter, end)


def _end_epoch(run: Run, splits: Splits, fabric: Fabric, reporter: Reporter, end: int) -> None:
    settings, at = run.recipe.train, run.position
    out_of_time = bool(settings.minutes and at.elapsed >= 60 * settings.minutes)
    rate, loss = run.optimizer.param_groups[0]["lr"], at.loss_sum / max(at.loss_count, 1)
    row: dict[str, Any] = {"epoch": at.epoch + 1, "step": at.step, "images": at.images, "lr": rate, "train_loss": loss}
    at.epoch, at.batch, at.loss_sum, at.loss_count = at.epoch + 1, 0, 0.0, 0
    last = at.epoch >= settings.epochs or out_of_time
    metric = ""
    scheduled = last or at.epoch % settings.validate_every == 0
    if scheduled or at.epoch >= end:
        evaluator = make_evaluator(run.recipe.task.name, splits.val.levels, main_condition(run.recipe.data))
        metric = evaluator.main
        row |= _validate(run, splits, evaluator)
        value = row.get(metric, float("-inf"))
        if scheduled:  # patience must not see the extra validation of a rung: a run without rungs would stop elsewhere
            at.stale = 0 if value > at.scheduled_best else at.stale + 1
            at.scheduled_best = max(at.scheduled_best, value)
        if value > at.best:
            at.best = value
            _save_best(run, splits, row)
    at.done = last or bool(settings.patience and at.stale >= settings.patience)
    row["seconds"] = round(at.elapsed, 1)
    run.rows.append(row)
    write_rows(run.folder / "metrics.csv", run.rows)
    save_state(run, fabric)
    reporter.end_epoch(row, metric)
    if metric:
        draw_curves(run.rows, run.folder / "curves.png", metric)


def _validate(run: Run, splits: Splits, evaluator: Any) -> dict[str, float]:
    cases = eval_cases(splits.val, run.recipe.data)
    if run.ema is None:
        return validate(run.trained, cases, evaluator)
    with run.ema.applied(run.trained.model):
        return validate(run.trained, cases, evaluator)


def _save_best(run: Run, splits: Splits, row: dict[str, Any]) -> None:
    earlier = run.trained.info.get("start", "")
    info = {
        "start": earlier,
        "images_seen": run.position.images,
        "epochs": run.position.epoch,
        "minutes": round(run.position.elapsed / 60, 2),
        "train_images": len(splits.train.items),
        "train_data": splits.train.name,
        "val_data": splits.val.name,
        "best_value": run.position.best,
        "metrics": {key: value for key, value in row.items() if key not in ("epoch", "step", "images", "lr")},
    }
    save_checkpoint(run.folder / "best", replace(run.trained, info=info), run.ema.shadow if run.ema else None)


def _explain_memory(error: RuntimeError, settings: TrainConfig) -> Exception:
    text = str(error).lower()
    if (
        not isinstance(error, torch.OutOfMemoryError)
        and "out of memory" not in text
        and "can't allocate memory" not in text
    ):
        return error
    half = max(1, settings.batch_size // 2)
    return PocketvitError(
        f"out of memory at train.batch_size {settings.batch_size}.",
        f"Take --train.batch_size {half} --train.accumulate {settings.accumulate * 2} (the same effective batch), or a smaller data.patch or model.",
    )
