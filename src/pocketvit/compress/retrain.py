"""Retraining as part of a step: the changed network learns from the unchanged one, through the one training loop.

Everything but what :class:`Retraining` says comes from the recipe: data, batch size, augmentation, schedule, average.
The folder of a retraining is named by what decides about it (start weights, teacher, settings), so a killed step goes
on where it was, and a step of another engine that begins with the same network finds it done.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from pydantic import TypeAdapter

from pocketvit.compress.step import Context, StepReport
from pocketvit.errors import UsageError
from pocketvit.models.build import architecture
from pocketvit.models.replaced import replaced_in
from pocketvit.models.trained import Trained, copy_of, save_checkpoint
from pocketvit.spec.recipe import MANY, YEAR, DataConfig, Recipe, TrainConfig, check_distill
from pocketvit.spec.tasks import task_of
from pocketvit.spec.typed import Range, check_ranges
from pocketvit.train.loop import train_model
from pocketvit.train.progress import Reporter


@dataclass(frozen=True)
class Retraining:
    """How a changed network is retrained; the settings of every step that does so begin with these."""

    epochs: int = 10
    """0, with no ``minutes``, leaves the network as the step made it."""
    minutes: float | None = None
    """Retrain for so long, with the schedule ending there, instead of ``epochs``."""
    lr: float = 3e-4
    distill: tuple[str, ...] = ("logits",)
    """What is taken from the network before the step (see ``train.distill``); empty learns from the labels alone."""
    distill_weight: float = 0.5
    distill_temperature: float = 2.0

    def __post_init__(self) -> None:
        ranges = {"epochs": Range(0, MANY), "minutes": Range(0, YEAR, above=True), "lr": Range(0, 100, above=True)}
        ranges |= {"distill_weight": Range(0, 1), "distill_temperature": Range(0, 1000, above=True)}
        check_ranges("compress.steps", self, ranges)
        if self.distill:
            check_distill("compress.steps", self.distill)

    def settings(self, rounds: int = 1) -> Retraining:
        """These settings alone, without those that a step adds; for one of so many rounds that share the training."""
        own: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(Retraining)}
        own["minutes"] = None if self.minutes is None else self.minutes / rounds
        return Retraining(**own | {"epochs": -(-self.epochs // rounds)})


def retrain(step: Retraining, trained: Trained, context: Context) -> StepReport:
    """A copy that learns on as it is, with itself as the teacher: the twin to compare retrained networks with.

    Raises what :func:`retrained` does.
    """
    network = retrained(trained, trained, context, step)
    told = "no smaller and no faster: what training alone makes of it"
    return StepReport("retrain", asdict(step), replace(network, model=network.model.eval()), told=told)


def retrained(trained: Trained, teacher: Trained, context: Context, how: Retraining) -> Trained:
    """``trained``, trained on with distillation from ``teacher``: the best of its epochs on the validation data.

    Args:
        trained: the network that a step has changed; it is copied.
        teacher: the network before the step, with the same task and labels.
        context: its data and recipe are trained on and with; progress is shown unless it is quiet.
        how: for how long, and what the teacher teaches. Its ``epochs`` of 0 give ``trained`` back.

    Raises:
        UsageError: the context has no data, or a kind of distillation does not suit the two networks.
        DataError: an image is damaged, or the disk is full.
    """
    if not how.epochs and how.minutes is None:
        return trained
    if context.data is None or context.recipe is None:
        todo = "Set its epochs to 0, or carry it out in a fit, which has data to train on."
        raise UsageError("a step that retrains was given no data.", todo)
    recipe = _recipe_of(trained, context.recipe, how)
    key = digest(trained, teacher if how.distill else trained, recipe)
    folder = (context.shared or context.folder) / f"retrain-{key}"
    if how.distill:
        save_checkpoint(folder / "teacher", teacher)
        recipe = replace(recipe, train=replace(recipe.train, teacher=str(folder / "teacher")))
    reporter = Reporter(quiet=context.quiet, label="retrain")
    found = train_model(copy_of(trained), context.data, recipe, folder, reporter=reporter)
    return replace(found, info={**trained.info, **found.info, "retrained": asdict(how)})


def own_folder(context: Context, settings: dict[str, Any]) -> Context:
    """The context with a folder for one set of settings: the weights that training begins with do not tell them."""
    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return replace(context, shared=(context.shared or context.folder) / f"latent-{name}")


def digest(*parts: Trained | Recipe) -> str:
    """Twelve hexadecimal digits that stand for weights, layers put in the place of others, and settings."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Trained):
            for name, tensor in part.model.state_dict().items():
                total.update(f"{name} {tuple(tensor.shape)}".encode())
                total.update(tensor.detach().contiguous().cpu().numpy().tobytes())
            if replaced := replaced_in(part.model):  # settings of layers that no weight shows
                total.update(json.dumps(replaced, sort_keys=True).encode())
        else:
            settings: dict[str, Any] = {"data": TypeAdapter(DataConfig).dump_python(part.data, mode="json")}
            settings |= {"train": TypeAdapter(TrainConfig).dump_python(part.train, mode="json")}
            total.update(json.dumps(settings, sort_keys=True).encode())
    return total.hexdigest()[:12]


def _recipe_of(trained: Trained, recipe: Recipe, how: Retraining) -> Recipe:
    """The recipe for the network as it is, trained as the step says, without the teacher of its first training."""
    data, size = recipe.data, trained.preprocess.size
    if task_of(trained.task.name).geometry == "pixels" and architecture(trained.model_spec.name).sized:
        data = replace(data, patch=size[0])  # its positions are those of one size, so are its training crops
    train = replace(
        recipe.train,
        epochs=how.epochs if how.minutes is None else MANY,
        minutes=how.minutes,
        lr=how.lr,
        patience=None,
        teacher=None,
        distill=how.distill or ("logits",),
        distill_weight=how.distill_weight,
        distill_temperature=how.distill_temperature,
    )
    return replace(
        recipe, data=data, model=trained.model_spec, task=trained.task, preprocess=trained.preprocess, train=train
    )
