"""The one training loop, for every task, on Lightning Fabric (device, precision, gradient scaling and clipping).

What a step does is a function of the recipe, the seed and the step's number: samples, their order, dropout and the
learning rate. A run that was killed therefore continues with the numbers of an uninterrupted one.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pocketvit.data.cases import condition_names, eval_cases, main_condition
from pocketvit.data.collections import Splits
from pocketvit.data.loader import Batch, Loader, batches_per_epoch
from pocketvit.errors import DataError, PocketvitError, UsageError
from pocketvit.interrupts import Interrupted, deferred
from pocketvit.models.pixels import normalise
from pocketvit.models.trained import Trained, save_checkpoint
from pocketvit.progress import track
from pocketvit.spec.recipe import Recipe, TrainConfig
from pocketvit.spec.tasks import task_of
from pocketvit.spec.tasks.base import Evaluator, MetricSpec
from pocketvit.tasks import TORCH_TASKS
from pocketvit.tasks.load import load_checkpoint
from pocketvit.tasks.start import ask_teacher, load_teacher
from pocketvit.train.distil import Taught, taught_by
from pocketvit.train.ema import Ema
from pocketvit.train.fabric import fabric_class
from pocketvit.train.history import draw_curves, write_rows
from pocketvit.train.progress import Reporter
from pocketvit.train.schedule import lr_scale, make_optimizer, set_lr
from pocketvit.train.state import STATE, Position, Run, resume, save_state, usable_state
from pocketvit.train.validate import validate

if TYPE_CHECKING:
    from lightning.fabric import Fabric

DRAW_S = 10.0
"""Seconds from one drawing of the curves to the next, which may take longer than a short epoch."""


def resolve_precision(settings: TrainConfig, cuda: bool) -> str:
    """Fabric's name of the precision: ``auto`` is bf16 where the processor computes in it.

    Raises UsageError: fp16 without a GPU.
    """
    choice = settings.precision
    if choice == "fp16" and not cuda:
        what = "train.precision fp16 needs a GPU; this machine has none that torch sees."
        raise UsageError(what, "Take bf16, fp32 or auto.")
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
    """Train to the end of the recipe (or of ``stop_epoch``), from the folder's state on; return the best model.

    The start model ``trained``, as the recipe describes it, is changed in place; ``last``, ``best``, ``metrics.csv``
    and ``curves.png`` are written in ``folder``. ``stop_epoch`` does not end the schedule (a rung of successive
    halving); it is validated whatever ``validate_every`` says, so that there is a best model to return.

    Raises UsageError: the teacher does not fit the task or its labels. DataError: a training image is damaged, or the
    disk is full. PocketvitError: out of memory, with the batch size to try.
    """
    settings = recipe.train
    if settings.threads:
        torch.set_num_threads(settings.threads)
    teacher = load_teacher(recipe, trained.levels)
    task_state = TORCH_TASKS[recipe.task.name].state(recipe.task, splits.train)
    fabric = _fabric(settings)
    model = trained.model.to(fabric.device)
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)
    folder.mkdir(parents=True, exist_ok=True)
    if settings.epochs == 0:  # the start weights are the model
        trained = replace(trained, info=trained.info | _noted(splits))
        save_checkpoint(folder / "best", trained)
        return trained
    average = Ema(model, settings.ema) if settings.ema else None
    run = Run(recipe, folder, trained, make_optimizer(model, settings), average)
    resume(run, fabric)
    if run.position.best is not None:
        _check_best(folder)
    if not run.position.done:
        network: Any = torch.compile(model) if settings.compile else model
        forward, optimizer = fabric.setup(network, run.optimizer)
        if teacher:
            teacher.model.to(fabric.device)
        end = min(settings.epochs, stop_epoch or settings.epochs)
        run.position.batch_size = settings.batch_size
        run.start()
        loader = Loader(splits.train, recipe.data, recipe.preprocess, settings)
        teaching = taught_by(teacher, trained, settings) if teacher else nullcontext()
        with teaching as taught, closing(loader), _stoppable(run, fabric):
            step = _make_step(fabric, forward, optimizer, run, task_state, teacher, taught)
            while run.position.epoch < end and not run.position.done:
                _epoch(run, splits, loader, step, fabric, reporter or Reporter(quiet=True), end)
    best = load_checkpoint(folder / "best")
    return replace(best, info={**best.info, "minutes": run.position.elapsed / 60})


def _check_best(folder: Path) -> None:
    """Raise ``DataError`` unless the best model so far can be read: no later one might beat it."""
    try:
        load_checkpoint(folder / "best")
    except PocketvitError as error:
        todo = (
            f"It was the best model so far. Delete {folder / 'last'} to train from the start, or choose another --name."
        )
        raise DataError(error.what, todo) from error


@contextmanager
def _stoppable(run: Run, fabric: Fabric) -> Iterator[None]:
    """Save what has been done where the process is asked to end, or an image or a loader process fails."""
    with deferred() as check:
        run.check = check
        try:
            yield
        except (Interrupted, DataError):
            with suppress(DataError):  # of a full disk: what was written before is intact, and the first error counts
                if run.sound:
                    save_state(run, fabric)
            try:
                check()  # a signal to the whole group may have ended the loader processes first
            except Interrupted as asked:
                at = run.position
                where = (
                    f"the state is saved at epoch {at.epoch + 1}, step {at.step}" if run.sound else "training stopped"
                )
                raise Interrupted(asked.number, f"{asked.what.rstrip('.')}; {where}.") from None
            raise


def _fabric(settings: TrainConfig) -> Fabric:
    for name in ("lightning", "lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)  # it announces its precision
    cuda = torch.cuda.is_available()
    precision: Any = resolve_precision(settings, cuda)
    return fabric_class()(accelerator="cuda" if cuda else "cpu", devices=1, precision=precision)


Step = Callable[[list[Batch]], float]


def _make_step(
    fabric: Fabric,
    forward: Any,
    optimizer: Any,
    run: Run,
    task_state: Any,
    teacher: Trained | None,
    taught: Taught | None,
) -> Step:
    """One optimiser step over the accumulated batches; returns the mean loss."""
    settings, recipe, task = run.recipe.train, run.recipe, TORCH_TASKS[run.recipe.task.name]

    def step(batches: list[Batch]) -> float:
        total = 0.0
        for index, (pixels, raw) in enumerate(batches):
            # Dropout must not depend on what ran before: a resumed run has run less.
            torch.manual_seed((settings.seed * 1_000_003 + run.position.step) * 131 + index)
            pixels = pixels.to(fabric.device)
            x = normalise(pixels, recipe.preprocess)
            x = x.contiguous(memory_format=torch.channels_last) if settings.channels_last else x.contiguous()
            output = forward(x)
            loss = task.loss(output, task.targets(raw.to(fabric.device)), recipe.task, task_state)
            if teacher is not None and taught is not None:
                with fabric.autocast():  # the teacher computes as the student does: in bf16 twice as fast
                    answer = ask_teacher(teacher, pixels)
                distilled = taught(output, answer)
                loss = (1 - settings.distill_weight) * loss + settings.distill_weight * distilled
            fabric.backward(loss / len(batches))
            total += float(loss.detach())
        if not math.isfinite(total):
            todo = "Lower train.lr, set train.clip_norm, or set train.precision to fp32; the last checkpoint is intact."
            raise PocketvitError(
                f"the loss became {'NaN' if math.isnan(total) else 'infinite'} at step {run.position.step}.", todo
            )
        if settings.clip_norm:
            fabric.clip_gradients(forward, optimizer, max_norm=settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if run.ema:
            run.ema.update(run.trained.model)
        return total / len(batches)

    return step


def _epoch(run: Run, splits: Splits, loader: Loader, step: Step, fabric: Fabric, reporter: Reporter, end: int) -> None:
    """Train one epoch from where it stands, then validate and save; ``end`` is where this call of training stops."""
    settings, at = run.recipe.train, run.position
    per_epoch = batches_per_epoch(splits.train, run.recipe.data, settings)
    run.trained.model.train()
    pending: list[Batch] = []
    epochs = None if settings.minutes else settings.epochs
    with (
        reporter.epoch(at.epoch, epochs, per_epoch, at.batch, run.share_done(per_epoch)) as advance,
        _whole_steps(at, pending),
    ):
        for batch in loader.epoch(at.epoch, at.batch):
            run.check()
            pending.append(batch)
            share = run.share_done(per_epoch)
            at.batch += 1
            if len(pending) < settings.accumulate and at.batch < per_epoch:
                continue
            set_lr(run.optimizer, settings.lr * lr_scale(settings, share))
            run.sound = False
            loss = _checked_step(run, step, pending)
            seen = sum(len(x) for x, _ in pending)
            at.step, at.images = at.step + 1, at.images + seen
            at.loss_sum, at.loss_count = at.loss_sum + loss, at.loss_count + 1
            run.sound = True
            share = run.share_done(per_epoch)
            advance(len(pending), seen, at.loss_sum / at.loss_count, share)
            pending.clear()
            if settings.minutes and share >= 1:
                break
            if at.batch < per_epoch and _save_due(run):
                save_state(run, fabric)
                run.saved_at = time.monotonic()
            run.check()
    _end_epoch(run, splits, fabric, reporter, end, per_epoch)


@contextmanager
def _whole_steps(at: Position, pending: list[Batch]) -> Iterator[None]:
    """Batches that were fetched for a step that was not done are not behind the run."""
    try:
        yield
    finally:
        at.batch -= len(pending)


def _checked_step(run: Run, step: Step, pending: list[Batch]) -> float:
    """The step's loss; the first one also finds out whether a state that was taken up can be used."""
    with usable_state(run.folder / "last" / STATE) if run.resumed else nullcontext():
        try:
            loss = step(pending)
        except RuntimeError as error:
            raise _explain_memory(error, run.recipe.train) from error
    run.resumed = False
    return loss


def _save_due(run: Run) -> bool:
    if steps := run.recipe.train.checkpoint_steps:
        return run.position.step % steps == 0
    return time.monotonic() - run.saved_at > 60 * run.recipe.train.checkpoint_minutes


def _end_epoch(run: Run, splits: Splits, fabric: Fabric, reporter: Reporter, end: int, per_epoch: int) -> None:
    settings, at = run.recipe.train, run.position
    rate, loss = run.optimizer.param_groups[0]["lr"], at.loss_sum / max(at.loss_count, 1)
    row: dict[str, Any] = {"epoch": at.epoch + 1, "step": at.step, "images": at.images, "lr": rate, "train_loss": loss}
    whole = (at.loss_sum, at.loss_count)
    at.epoch, at.batch, at.loss_sum, at.loss_count = at.epoch + 1, 0, 0.0, 0

    def out_of_time() -> bool:
        return bool(settings.minutes) and run.share_done(per_epoch) >= 1

    last = at.epoch >= settings.epochs or out_of_time()
    metric, scheduled = "", last or at.epoch % settings.validate_every == 0
    if scheduled or at.epoch >= end:
        record, began = task_of(run.recipe.task.name), time.monotonic()
        evaluator = record.evaluator(splits.val.levels, main_condition(run.recipe.data, record.name))
        metric = evaluator.main
        started = replace(at, epoch=at.epoch - 1, batch=per_epoch, loss_sum=whole[0], loss_count=whole[1])
        try:
            row |= _validate(run, splits, evaluator, reporter)
        except BaseException:
            vars(at).update(vars(started))  # the epoch is not closed: going on begins with its validation
            raise
        run.sound = False
        at.validation = time.monotonic() - began
        _judge(run, splits, row, record.metric(metric), row.get(metric), scheduled)
        last = last or out_of_time()
    at.done = last or bool(settings.patience and at.stale >= settings.patience)
    run.share_done(per_epoch)
    row["seconds"] = round(at.elapsed, 1)
    run.rows.append(row)
    write_rows(run.folder / "metrics.csv", run.rows)
    save_state(run, fabric)
    run.sound = True
    reporter.end_epoch(row, metric)
    if metric and (at.done or at.epoch >= end or time.monotonic() - run.drawn_at > DRAW_S):
        draw_curves(run.rows, run.folder / "curves.png", metric)
        run.drawn_at = time.monotonic()


def _judge(
    run: Run, splits: Splits, row: dict[str, Any], metric: MetricSpec, value: float | None, scheduled: bool
) -> None:
    """Keep the model where it is the best so far.

    Patience looks at scheduled validations alone: a run without rungs has no others, and would stop elsewhere.
    """
    at = run.position

    def beats(best: float | None) -> bool:
        return value is not None and not math.isnan(value) and (best is None or metric.loss(value, best) < 0)

    if scheduled:
        at.stale, at.scheduled_best = (0, value) if beats(at.scheduled_best) else (at.stale + 1, at.scheduled_best)
    if beats(at.best):
        at.best = value
        _save_best(run, splits, row)


def _validate(run: Run, splits: Splits, evaluator: Evaluator, reporter: Reporter) -> dict[str, float]:
    count = len(splits.val.items) * max(1, len(condition_names(splits.val, run.recipe.data)))
    average = run.ema.applied(run.trained.model) if run.ema else nullcontext()
    with track("validate", count, quiet=reporter.quiet) as advance, average:

        def told(images: int) -> None:
            run.check()
            advance(images)

        return validate(run.trained, eval_cases(splits.val, run.recipe.data), evaluator, told)


def _save_best(run: Run, splits: Splits, row: dict[str, Any]) -> None:
    info = {
        "start": run.trained.info.get("start", ""),
        "images_seen": run.position.images,
        "epochs": run.position.epoch,
        "minutes": round(run.position.elapsed / 60, 2),
        "train_images": len(splits.train.items),
        "train_data": splits.train.name,
        "val_data": splits.val.name,
        "best_value": run.position.best,
        "metrics": {key: value for key, value in row.items() if key not in ("epoch", "step", "images", "lr")},
    } | _noted(splits)
    save_checkpoint(run.folder / "best", replace(run.trained, info=info), run.ema.shadow if run.ema else None)


def _noted(splits: Splits) -> dict[str, Any]:
    """What is odd in the data goes with the weights, into the card of what is made of them."""
    return {"data_notes": list(splits.notes)} if splits.notes else {}


def _explain_memory(error: RuntimeError, settings: TrainConfig) -> Exception:
    known = any(words in str(error).lower() for words in ("out of memory", "can't allocate memory"))
    if not known and not isinstance(error, torch.OutOfMemoryError):
        return error
    same = f"--train.batch_size {max(1, settings.batch_size // 2)} --train.accumulate {settings.accumulate * 2}"
    todo = f"Take {same} (the same effective batch), or a smaller data.patch or model."
    return PocketvitError(f"out of memory at train.batch_size {settings.batch_size}.", todo)
