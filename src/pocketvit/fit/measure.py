"""Measuring candidate files before they are in an artifact: metrics on the validation cases, time side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from pocketvit.bench.remote import Elsewhere, Rounds, here
from pocketvit.bench.timing import Call, Timing, interleave
from pocketvit.data.cases import Case, eval_cases, main_condition, spread
from pocketvit.data.collections import Collection, Splits
from pocketvit.data.decode import read_item
from pocketvit.errors import VerificationError
from pocketvit.export.artifact import tensor_specs
from pocketvit.export.built import Built
from pocketvit.fit.rows import Row
from pocketvit.models.trained import Trained
from pocketvit.runtimes.model import Model
from pocketvit.spec.images import open_image
from pocketvit.spec.manifest import FileEntry, Manifest, Variant
from pocketvit.spec.preprocess import Pixels, prepare, resize
from pocketvit.spec.recipe import Recipe
from pocketvit.spec.target import Target
from pocketvit.spec.tasks import settings_of, task_of
from pocketvit.spec.tasks.base import Evaluator, Measure, MetricSpec, Task
from pocketvit.verify.evaluate import measure

ROUNDS = {"p50": 15, "p90": 36}
"""Least rounds that bound the percentile from above at 95 %."""
PHOTOS = 64
"""Timed in turns where the time of a file depends on the image."""
PROOFS = 2
"""Photos whose answers a device elsewhere must get right."""
PAUSE_MS = 5.0
"""Between engines of different kinds: threads of one may still spin when the next one starts."""


@dataclass(frozen=True)
class Measurer:
    """What the files of one trained model are measured with."""

    trained: Trained
    recipe: Recipe
    splits: Splits
    image: Pixels
    """The image that is timed, decoded: see :func:`budget_image`."""
    elsewhere: Elsewhere | None = None
    """The device that times are taken on, where it is not of this machine; all else is measured here."""

    @property
    def task(self) -> Task:
        """The task's record."""
        return task_of(self.trained.task.name)

    @property
    def main_metric(self) -> str:
        """Name of the metric that decides."""
        return self.recipe.floor.metric or self.evaluator().main

    @property
    def spec(self) -> MetricSpec:
        """How values of that metric are compared."""
        return self.task.metric(self.main_metric)

    def evaluator(self) -> Evaluator:
        """A new evaluator for the validation cases."""
        return self.task.evaluator(self.trained.levels, main_condition(self.recipe.data, self.task.name))

    def cases(self, part: Collection | None = None) -> Iterator[Case]:
        """Cases of the validation data (or of ``part``), decoded as they are asked for; the same for every file."""
        limit = self.recipe.search.eval_images if part is None else None
        return eval_cases(part or self.splits.val, self.recipe.data, limit=limit)

    def target(self, built: Built) -> Target:
        """How this machine runs a candidate file: with the recipe's threads and device, or on its processor."""
        return here(Target(built.runtime, built.precision, self.recipe.target.threads, self.recipe.target.device))

    def open(self, built: Built) -> Model:
        """Load a candidate file as a callable model."""
        manifest = draft_manifest(self.trained, built, self.main_metric)
        return Model.from_file(built.path, self.target(built), manifest)

    @cached_property
    def photos(self) -> tuple[Pixels, ...]:
        """Validation photos, evenly spread, that files are timed on whose time depends on the image: sized as it is."""
        size, part = budget_size(self.recipe, self.splits), self.splits.val
        return tuple(resize(read_item(part, item)[0], size) for item in spread(part.items, PHOTOS))

    def timed_on(self, files: Iterable[Built]) -> tuple[Pixels, ...]:
        """What files are timed on in turns: the image, or where the time of any depends on it all of :attr:`photos`."""
        return self.photos if any(built.varies for built in files) else (self.image,)

    def refusal(self, built: Built) -> str:
        """Why a file does not do on the device elsewhere what it does here; empty where it does, or there is none."""
        return "" if self.elsewhere is None else self.elsewhere.refusal(self.open(built), self.proof_inputs)

    def proof_inputs(self) -> Pixels:
        """Inputs of a few validation photos, (N, H, W, 3)."""
        part, spec = self.splits.val, self.trained.preprocess
        photos = [read_item(part, item)[0] for item in spread(part.items, PROOFS)]
        return np.stack([resize(x, spec.size) if spec.resize == "tile" else prepare(x, spec) for x in photos])

    def score(self, built: Built, part: Collection | None = None) -> tuple[Measure, ...]:
        """All metrics of a file on the validation cases (or on those of ``part``)."""
        return tuple(measure(self.open(built), self.cases(part), self.evaluator())[0])

    def time(self, files: Sequence[Built]) -> list[Timing]:
        """Time files in turns: see :func:`time_together`."""
        return time_together([(self, built) for built in files])

    def trivial(self) -> Measure:
        """The task's main metric of an answer that needs no learning, on the validation cases."""
        condition = self.evaluator().main.partition("@")[2]
        cases = (case for case in self.cases() if not condition or case.condition == condition)
        return self.task.baseline(cases, self.evaluator())

    def not_learned(self, row: Row) -> str:
        """Why a float file is no better than an answer that needs no learning; empty where it is better."""
        main = self.evaluator().main
        reached = next((m for m in row.measures if m.name == main), None)
        if reached is None:
            return ""
        trivial, spec = self.trivial(), self.task.metric(main)
        # A rate must be above chance with its whole interval: with few photos some hits are luck.
        value = (reached.low if spec.higher_is_better else reached.high) if spec.rate else reached.value
        if spec.loss(value, trivial.value) < -(0.0 if spec.rate else spec.tie):
            return ""
        figures = f"{main} {reached.value:.4g} {reached.unit}", f"{trivial.value:.4g} without any learning"
        return f"learned nothing: {figures[0]} ({reached.low:.4g} to {reached.high:.4g}), {figures[1]}"


def time_together(files: Sequence[tuple[Measurer, Built]]) -> list[Timing]:
    """Time files in turns: preprocessing, inference and postprocessing together, decoding left out.

    On the image; or photo by photo on several (:meth:`Measurer.timed_on`), of which each time is the mean. There are as
    many rounds as an interval of the budget's percentile takes.

    Args:
        files: each with the measurer of its trained model; all of one recipe.

    Raises:
        VerificationError: a file does not do on the device elsewhere what it does here.
    """
    recipe, elsewhere = files[0][0].recipe, files[0][0].elsewhere
    seconds, least = recipe.search.timing_seconds * len(files), ROUNDS[recipe.budget.percentile]
    on = [(measurer, built, measurer.timed_on([each for _, each in files])) for measurer, built in files]
    if elsewhere is not None:
        for measurer, built, _ in on:
            if refused := measurer.refusal(built):
                raise VerificationError(f"{refused}.", f"Take another file for the {elsewhere.device.name}.")
        models = [(elsewhere.opened(measurer.open(built)), images) for measurer, built, images in on]
        return [times.total for times in elsewhere.remote.time(models, Rounds(seconds, least))]
    pause = PAUSE_MS if len({built.runtime for _, built in files}) > 1 else 0.0
    calls: dict[str, list[Call]] = {}
    for index, (measurer, built, images) in enumerate(on):
        model = measurer.open(built)
        calls[str(index)] = [partial(model, image) for image in images]
    return list(interleave(calls, seconds=seconds, pause_ms=pause, min_rounds=least).values())


def make_measurer(trained: Trained, splits: Splits, recipe: Recipe, elsewhere: Elsewhere | None = None) -> Measurer:
    """The measurer of a trained model; reads the image that is timed."""
    image = budget_image(recipe, splits)
    return Measurer(trained, replace(recipe, preprocess=trained.preprocess), splits, image, elsewhere)


def budget_image(recipe: Recipe, splits: Splits) -> Pixels:
    """The first validation photo, brought to the size that the budget is for.

    That is ``budget.image``, or the model's input size, or for tiled models the median of the validation photos' sizes.
    """
    return resize(read_item(splits.val, splits.val.items[0])[0], budget_size(recipe, splits))


def budget_size(recipe: Recipe, splits: Splits) -> tuple[int, int]:
    """Height and width of the image that the budget is for."""
    if recipe.budget.image is not None or recipe.preprocess.resize != "tile":
        return recipe.budget.image or recipe.preprocess.size
    sizes = []
    for item in splits.val.items:
        with open_image(item.path) as header:
            sizes.append((header.height, header.width))
    return int(np.median([h for h, _ in sizes])), int(np.median([w for _, w in sizes]))


def draft_manifest(trained: Trained, built: Built, main_metric: str) -> Manifest:
    """A manifest for one file that is in no artifact: enough to run it."""
    inputs, outputs = tensor_specs(trained)
    return Manifest(
        name="candidate",
        task=trained.task.name,
        settings=settings_of(trained.task),
        levels=list(trained.levels),
        preprocess=trained.preprocess,
        inputs=inputs,
        outputs=outputs,
        files=[FileEntry(path=built.path.name, bytes=0, sha256="")],
        variants=[Variant(runtime=built.runtime, precision=built.precision, path=built.path.name, varies=built.varies)],
        default=built.key,
        main_metric=main_metric,
    )
