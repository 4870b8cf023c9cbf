"""Trains on collected corrections without forgetting, and proves both before anything is handed over.

The original training photos go on being trained on beside the corrections (rehearsal: Robins, "Catastrophic forgetting,
rehearsal and pseudorehearsal", Connection Science 1995). Some corrections are kept out and decide, against the model
that is shipped, on the same photos, whether it is better; the original validation photos decide whether it is as good.
Everything is written in a run folder of its own; a killed run goes on, and what was shipped is never touched.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pocketvit.data.cases import eval_cases
from pocketvit.data.collections import Collection, Splits, load_collection, load_splits, split_off
from pocketvit.data.pixel_copies import copied_items
from pocketvit.errors import DataError, NothingFitsError, UsageError, VerificationError
from pocketvit.export.command import recipe_of
from pocketvit.fit.adapted import AdaptReport, Difference
from pocketvit.fit.chains import shrink
from pocketvit.fit.decide import decide, time_finalists
from pocketvit.fit.gate import limits_of
from pocketvit.fit.measure import Measurer, make_measurer
from pocketvit.fit.plan import export_float
from pocketvit.fit.tables import ADAPTED
from pocketvit.models.trained import Trained, copy_of, find_checkpoint
from pocketvit.runtimes.model import Model, load
from pocketvit.serve.drift.collect import LIST, PAIRS
from pocketvit.serve.publish import publish as publish_artifact
from pocketvit.spec.recipe import Recipe, load_recipe
from pocketvit.spec.tasks import task_of
from pocketvit.tasks.load import load_checkpoint
from pocketvit.train.checks import check_trainable, teller
from pocketvit.train.loop import train_model
from pocketvit.train.progress import Reporter
from pocketvit.train.runs import check_once, finish_run, run_folder
from pocketvit.verify.evaluate import measure

REPEATS = 8
"""Times that each correction is seen in an epoch, each time augmented otherwise."""
LEAST_HELD = 10
EPOCHS, SLOWER = 3, 0.1
RESAMPLES = 2000


@dataclass(frozen=True)
class Job:
    """What is to be done."""

    recipe: Recipe
    trained: Trained
    """As it was before."""
    shipped: Model | None
    splits: Splits
    """Mixed photos to train on, and the original validation photos."""
    held: Collection
    digest: str
    facts: dict[str, Any]
    """For the lineage."""

    @property
    def version(self) -> str:
        """Of the new artifact."""
        major, minor, patch = (self.shipped.manifest.version if self.shipped else "0.1.0").split(".")
        return f"{major}.{minor}.{int(patch) + 1}"


def prepared(
    run: str, corrections: str, artifact: str | None, rehearsal: float, keep_out: float, overrides: dict[str, Any]
) -> Job:
    """Read recipe, weights and photos; everything that is wrong already is told here."""
    trained, recipe = load_checkpoint(run), recipe_of(run)
    if recipe is None:
        raise UsageError(f"{run}: there is no recipe beside the checkpoint.", "Name the folder of a run.")
    own = Path(run) / "artifact"
    place = artifact or (str(own) if own.is_dir() else None)
    shipped = load(place) if place else None
    recipe = load_recipe(_slower(recipe, trained, str(find_checkpoint(run)), shipped), overrides)
    recipe = replace(recipe, train=replace(recipe.train, validate_every=recipe.train.epochs))  # the last counts
    original = load_splits(recipe.data, recipe.task.name)
    collected = _unknown(_collected(Path(corrections), recipe, trained), original)
    parts = _parted(collected, original.train, keep_out)
    digest, mixed = _digest(collected), _mixed(original.train, parts.train, rehearsal, recipe.train.seed)
    taught = set(parts.train.items)
    share = 1 - sum(item in taught for item in mixed.items) / len(mixed.items)
    facts = {
        "corrections": digest,
        "trained_on": len(parts.train.items),
        "kept_out": len(parts.val.items),
        "rehearsal": round(share, 4),
        "from": f"{shipped.manifest.name} {shipped.manifest.version}" if shipped else "the run's float model",
    }
    note = f"{len(collected.items)} corrections: {len(parts.train.items)} are trained on, {100 * share:.0f} % rehearsal"
    splits = replace(original, train=replace(mixed, notes=(*mixed.notes, *parts.train.notes, f"{note}.")), test=None)
    return Job(recipe, trained, shipped, splits, parts.val, digest, facts)


def _slower(recipe: Recipe, trained: Trained, checkpoint: str, shipped: Model | None) -> Recipe:
    """The run's recipe for a short training from its own weights."""
    rate = recipe.train.lr * SLOWER
    train = replace(recipe.train, epochs=EPOCHS, lr=rate, teacher=None, patience=None, minutes=None)
    model = replace(trained.model_spec, weights=checkpoint)
    name = shipped.manifest.name if shipped else recipe.name
    preprocess = replace(trained.preprocess, multiple=recipe.preprocess.multiple)
    return replace(recipe, train=train, model=model, name=name, task=trained.task, preprocess=preprocess)


def _collected(folder: Path, recipe: Recipe, trained: Trained) -> Collection:
    """The corrections of a model, in the classes that it knows."""
    for place in (folder, folder / recipe.name):
        for found, layout in ((place / LIST, "list"), (place / PAIRS, "pairs")):
            if found.exists():
                data = replace(recipe.data, layout=layout, val_layout=None, class_names=None)
                return load_collection([str(found)], data, recipe.task.name, "train", trained.levels)
    raise DataError(f"{folder}: holds no corrections of {recipe.name}.", "Name the folder of serve --collect.")


def _unknown(collected: Collection, original: Splits) -> Collection:
    """Without the corrections that are photos of the validation or test data; a note says how many."""
    for held, word in ((original.val, "validation"), (original.test, "test")):
        if held is not None and (copies := copied_items(collected, held)):
            items = tuple(item for item in collected.items if item not in copies)
            note = f"{len(copies)} corrections are copies of {word} photos and are left out."
            collected = replace(collected, items=items, notes=(*collected.notes, note))
    return collected


def _parted(collected: Collection, taught: Collection, keep_out: float) -> Splits:
    """Corrections to train on and to keep out; copies of photos that are trained on are never kept out.

    Raises:
        DataError: too few would be kept out.
    """
    copies = copied_items(collected, taught)
    new = replace(collected, items=tuple(item for item in collected.items if item not in copies))
    parts = split_off(new, keep_out) if len(new.items) > 1 else Splits(new, replace(new, items=()))
    if len(parts.val.items) < LEAST_HELD:
        count, known = len(collected.items), f" ({len(copies)} are photos that it is trained on)" if copies else ""
        what = f"{collected.name}: of {count} corrections{known} {len(parts.val.items)} would be kept out."
        what = " ".join((what, *(note for note in collected.notes if "left out" in note)))
        raise DataError(what, f"At least {LEAST_HELD} are needed to tell: collect more, or raise keep_out.")
    items, notes = parts.train.items + tuple(item for item in collected.items if item in copies), parts.train.notes
    if copies:
        notes = (*notes, f"{len(copies)} corrections are copies of training photos: none of them is kept out.")
    return replace(parts, train=replace(parts.train, items=items, notes=notes))


def _mixed(original: Collection, taught: Collection, rehearsal: float, seed: int) -> Collection:
    """Corrections several times, and as many original photos as make up the share that is wanted; few come again."""
    wanted = round(len(taught.items) * REPEATS * rehearsal / (1 - rehearsal))
    order = np.random.default_rng((seed & 0xFFFFFFFF, 7)).permutation(len(original.items))
    rehearsed = tuple(original.items[i] for i in sorted(np.resize(order, wanted)))
    return replace(original, items=rehearsed + taught.items * REPEATS, name=f"{original.name}+corrections")


def _digest(collected: Collection) -> str:
    """SHA-256 of the corrections' bytes and labels, in whatever order they came."""
    lines = []
    for item in collected.items:
        files = [path for path in (item.path, item.clean) if path is not None]
        lines.append(" ".join([*(hashlib.sha256(path.read_bytes()).hexdigest() for path in files), str(item.labels)]))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def carry_out(job: Job, name: str, runs: str, publish: str | None, key: Sequence[str], quiet: bool) -> AdaptReport:
    """Carry a job out in ``runs/name``; see :func:`pocketvit.fit.adapt.adapt`."""
    notify = teller(quiet)
    check_trainable([job.recipe], job.splits)
    with run_folder(job.recipe, name, runs, job.splits, notify) as folder:
        for note in job.splits.notes:
            notify(f"note: {note}")
        check_once(folder, job.splits, quiet)
        report = _adapted(job, folder, notify, quiet)
        if publish is not None:
            publish_artifact(str(report.artifact), to=publish, key=key, trust=True)
            report = replace(report, published=publish)
        finish_run(folder, report.to_dict())
    return report


def _adapted(job: Job, folder: Path, notify: Callable[[str], None], quiet: bool) -> AdaptReport:
    """Train, hold the float model against the gates, shrink, hold the chosen file against them, hand over."""
    gates = _Gates.of(job, folder)
    best = train_model(copy_of(job.trained), job.splits, job.recipe, folder, reporter=Reporter(quiet=quiet))
    measurer = make_measurer(best, job.splits, gates.recipe)
    after, _ = gates.passed(measurer.open(export_float(best, "onnxruntime", folder / "float")), measurer)
    figures = {"metric_name": gates.metric, "metric_before": gates.before, "metric_after": after}
    noted = replace(best, info={**best.info, ADAPTED: {**job.facts, **figures, "version": job.version}})
    measurer, origin, notes = replace(measurer, trained=noted), ADAPTED, list[str]()
    rows = shrink(measurer, origin, folder / "files" / origin, notify, quiet=quiet)
    rows = time_finalists(rows, {origin: measurer}, limits_of(gates.recipe, gates.metric), notes)
    work = folder / "candidate"  # what lies at ``artifact`` has passed the gates
    _, made, _ = decide(rows, {origin: measurer}, gates.recipe, work, notes, [])
    model = load(made.path, trust=True)
    after, gain = gates.passed(model, measurer)
    _replace(made.path, folder / "artifact")
    return AdaptReport(
        folder, folder / "artifact", job.version, gates.metric, gates.before, after, gain, model.target.key,
        notes=(*job.splits.notes, *notes),
    )  # fmt: skip


def _replace(made: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)  # of a run that was killed before it was finished
    os.replace(made, place)


@dataclass(frozen=True)
class _Gates:
    """What the shipped model reaches, and what an adapted one is held to."""

    job: Job
    recipe: Recipe
    """With a floor on the original validation photos that counts from the shipped model."""
    metric: str
    before: float
    corrections: tuple[float, ...]
    """The shipped model's main metric of each correction that was kept out."""

    @classmethod
    def of(cls, job: Job, folder: Path) -> _Gates:
        """Measure what is shipped."""
        measurer = make_measurer(job.trained, job.splits, job.recipe)
        model = job.shipped or measurer.open(export_float(job.trained, "onnxruntime", folder / "before"))
        metric, spec, floor = measurer.main_metric, measurer.spec, job.recipe.floor
        before = _value(model, measurer, metric)
        allowed = spec.default_drop if floor.max_drop is None else floor.max_drop
        limits = [before - allowed if spec.higher_is_better else before + allowed]
        limits += [] if floor.value is None else [floor.value]
        strictest = max(limits) if spec.higher_is_better else min(limits)
        recipe = replace(job.recipe, floor=replace(floor, metric=metric, value=strictest))
        return cls(job, recipe, metric, before, tuple(_each(model, job.held, job.recipe)))

    def passed(self, model: Model, measurer: Measurer) -> tuple[float, Difference]:
        """The metric on the original validation photos, and the gain on corrections.

        Raises:
            NothingFitsError: it has forgotten. VerificationError: it is not better on the corrections.
        """
        after, floor = _value(model, measurer, self.metric), replace(self.recipe.floor, max_drop=None)
        if misses := floor.misses(after, None, measurer.spec):
            what = f"the adapted model has forgotten: {misses[0]} on the original validation photos"
            todo = "Raise rehearsal, lower train.lr or train.epochs, or look whether the corrections are right."
            raise NothingFitsError(f"{what} ({self.before:.4g} before). Nothing was handed over.", todo)
        gain = _difference(self.job, self.corrections, _each(model, self.job.held, self.job.recipe))
        if not gain.sure:
            todo = "Collect more corrections, train longer, or look whether they are right."
            raise VerificationError(
                f"the adapted model is not surely better: {gain.line}. Nothing was handed over.", todo
            )
        return after, gain


def _value(model: Model, measurer: Measurer, metric: str) -> float:
    measures, _ = measure(model, measurer.cases(), measurer.evaluator())
    found = next((each.value for each in measures if each.name == metric), None)
    if found is None:
        names = ", ".join(each.name for each in measures)
        raise UsageError(f"floor.metric {metric} is not measured here.", f"Take one of {names}.")
    return found


def _each(model: Model, held: Collection, recipe: Recipe) -> list[float]:
    """The main metric of each correction by itself."""
    found = []
    for case in eval_cases(held, replace(recipe.data, layout=held.layout, val_layout=None)):
        evaluator = task_of(held.task).evaluator(model.manifest.levels, case.condition)
        measures, _ = measure(model, [case], evaluator)
        found.append(next(each.value for each in measures if each.name == evaluator.main))
    return found


def _difference(job: Job, before: Sequence[float], after: Sequence[float]) -> Difference:
    """Paired differences with a percentile bootstrap (Efron and Tibshirani 1993, chapter 13).

    Of few right and wrong answers the bootstrap is too sure: four gains and no loss of ten would do, which one time in
    sixteen is chance. The exact sign test is asked too.
    """
    task = task_of(job.recipe.task.name)
    metric = task.evaluator(job.trained.levels, "").main
    sign = 1 if task.metric(metric).higher_is_better else -1
    gains = sign * (np.array(after) - np.array(before))
    drawn = np.random.default_rng(0).integers(0, len(gains), (RESAMPLES, len(gains)))
    low, high = np.percentile(gains[drawn].mean(axis=1), (2.5, 97.5))
    means = float(np.mean(before)), float(np.mean(after))
    binary = task.metric(metric).rate and set(before) | set(after) <= {0.0, 100.0}
    p = _chance(int((gains > 0).sum()), int((gains < 0).sum())) if binary else None
    return Difference(metric, *means, float(gains.mean()), float(low), float(high), len(gains), p)


def _chance(gained: int, lost: int) -> float:
    """Probability of so many gains or more, were gains and losses equally likely."""
    count = gained + lost
    return sum(math.comb(count, k) for k in range(gained, count + 1)) / 2**count
