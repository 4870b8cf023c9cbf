"""Step 1 of fit, time before training: latency does not depend on the weights; what misses is never trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from pocketvit.bench.remote import Elsewhere, here
from pocketvit.bench.timing import Timing
from pocketvit.compress.table import Planned, leads_to, plan_slots
from pocketvit.data.collections import Splits
from pocketvit.errors import DataError, UsageError, VerificationError
from pocketvit.export.artifact import pixel_model_of
from pocketvit.export.built import Built
from pocketvit.export.formats import exporter
from pocketvit.files import write_json
from pocketvit.fit.measure import budget_size, make_measurer
from pocketvit.fit.rows import Row
from pocketvit.models.build import architecture
from pocketvit.models.trained import Trained
from pocketvit.runtimes import RUNTIMES, check_target
from pocketvit.spec.devices import check_device, device_of
from pocketvit.spec.recipe import Recipe
from pocketvit.spec.target import ANY, variant_key
from pocketvit.spec.tasks import task_of
from pocketvit.tasks.start import new_model

SLACK = 1.1
"""A candidate stays while its fastest random-weight timing is within this factor of the limit."""


class TimedEntry(TypedDict, total=False):
    """One timing in ``timing.json``."""

    runtime: str
    precision: str
    times_ms: list[float]
    bytes: int
    image: tuple[int, int]


@dataclass(frozen=True)
class Candidate:
    """A model at an input size; precisions and runtimes come after training."""

    model: str
    size: tuple[int, int]

    @property
    def key(self) -> str:
        """Name in tables and folders."""
        return f"{self.model}-{self.size[0]}x{self.size[1]}"


def candidates(recipe: Recipe) -> list[Candidate]:
    """Every model of the search at every size.

    Raises:
        UsageError: an unknown architecture.
    """
    models = recipe.search.models or (recipe.model.name,)
    for name in models:
        architecture(name)
    sizes = [_shaped(recipe.preprocess.size, side) for side in recipe.search.sizes] or [recipe.preprocess.size]
    return [Candidate(model, size) for model in models for size in sizes]


def _shaped(size: tuple[int, int], side: int) -> tuple[int, int]:
    """``size`` with the shorter side at ``side``; the longer one in steps of 16, which networks need."""
    if size[0] == size[1]:
        return side, side
    longer = max(16, 16 * round(max(size) * side / min(size) / 16))
    return (side, longer) if size[0] < size[1] else (longer, side)


def recipe_for(recipe: Recipe, candidate: Candidate) -> Recipe:
    """The recipe with the candidate's model and size.

    ``weights: timm`` means each architecture's own; the weights of a file stay with the architecture they belong to.
    """
    model = recipe.model
    if candidate.model != model.name:
        weights = model.weights if model.weights == "timm" else None
        model = replace(model, name=candidate.model, options={}, weights=weights)
    overlap = min(recipe.preprocess.overlap, min(candidate.size) // 2)
    data = recipe.data
    if task_of(recipe.task.name).geometry == "pixels" and architecture(candidate.model).sized:
        data = replace(data, patch=candidate.size[0])  # its positions are those of one size, so are its training crops
    preprocess = replace(recipe.preprocess, size=candidate.size, overlap=overlap)
    return replace(recipe, model=model, data=data, preprocess=preprocess)


def start_notes(recipe: Recipe) -> list[str]:
    """What a reader of the results must know about how the candidates started."""
    models = sorted({c.model for c in candidates(recipe) if recipe_for(recipe, c).model.weights is None})
    found = [f"training of {', '.join(models)} starts from random weights: model.weights is not set for it"]
    others = sorted({c.model for c in candidates(recipe)} - {recipe.model.name})
    kept = [f"model.options are {recipe.model.name}'s; {', '.join(others)} are built without them"]
    return (found if models else []) + (kept if recipe.model.options and others else [])


def wanted_runtimes(recipe: Recipe) -> tuple[str, ...]:
    """The target's runtime, or all of the search where the target leaves it open.

    Raises:
        UsageError: one does not exist or has no such device or precision here, or no step leads to the precision.
        MissingDependencyError: an engine is not installed.
    """
    target, device = here(recipe.target), device_of(recipe.target.device)
    chosen = recipe.search.runtimes if target.runtime == ANY else (target.runtime,)
    named = ANY not in (target.runtime, target.precision)
    if device is not None:
        able = tuple(name for name in chosen if name in device.runtimes)
        for name in () if able else chosen:
            check_device(device, name)
        chosen = able
    for name in chosen:
        check_target(replace(target, runtime=name, precision=target.precision if named else "fp32"))
    wanted = target.precision
    if wanted not in (ANY, "fp32") and not any(leads_to(name, wanted) for name in chosen):
        what = f"no step leads to {' or '.join(f'{name}:{wanted}' for name in chosen)}."
        raise UsageError(what, "Take another runtime or precision.")
    return chosen


def planned_steps(recipe: Recipe, runtime: str) -> list[Planned]:
    """All steps of the recipe, one after the other: see :func:`planned_slots`."""
    return [step for slot in planned_slots(recipe, runtime) for step in slot]


def planned_slots(recipe: Recipe, runtime: str) -> list[list[Planned]]:
    """For each entry of the recipe's steps those that exist in a runtime and lead to the target's precision, library
    defaults among them.

    Raises:
        UsageError: an unknown step or setting.
    """
    compress, wanted = recipe.compress, recipe.target.precision
    slots = plan_slots(compress.steps, runtime, baselines=compress.library_default)
    if compress.max_float_layers is not None:  # the section's field is the default of every step that has it
        slots = [[_with_default(step, "max_float_layers", compress.max_float_layers) for step in x] for x in slots]
    return [[step for step in slot if wanted == ANY or step.kind.precision in ("", wanted)] for slot in slots]


def _with_default(step: Planned, name: str, value: Any) -> Planned:
    return (
        replace(step, config=replace(step.config, **{name: value})) if getattr(step.config, name, 0) is None else step
    )


def export_float(trained: Trained, runtime: str, folder: Path, stem: str = "model") -> Built:
    """The float file of a runtime."""
    folder.mkdir(parents=True, exist_ok=True)
    return exporter(runtime)(pixel_model_of(trained), trained.preprocess.size, folder, stem)


def time_candidates(
    recipe: Recipe, splits: Splits, folder: Path, notify: Callable[[str], None], elsewhere: Elsewhere | None = None
) -> list[tuple[Candidate, list[Row]]]:
    """Build, export and time every candidate with random weights; ``timing.json`` keeps what is done.

    Returns:
        Each candidate with one row per runtime and float precision; of one that does not run on a device elsewhere, one
        row without a timing.

    Raises:
        DataError: ``timing.json`` is damaged.
    """
    cache, found = folder / "timing.json", []
    known = _read_timings(cache)
    size = budget_size(recipe, splits)
    for candidate in candidates(recipe):
        if not _is_timed(known.get(candidate.key), size, wanted_runtimes(recipe)):
            notify(f"timing {candidate.key} with random weights")
            own = recipe_for(recipe, candidate)
            try:
                timed = _time_one(own, splits, size, folder / "timing" / candidate.key, elsewhere)
            except VerificationError as error:
                if elsewhere is None:
                    raise
                notify(f"{candidate.key}: {error.what}")
                found.append((candidate, [Row(candidate.key, origin=candidate.key, reason=error.what.rstrip("."))]))
                continue
            known[candidate.key] = timed
            write_json(cache, known)
        found.append((candidate, [_timed_row(candidate, entry) for entry in known[candidate.key]]))
    return found


def _read_timings(cache: Path) -> dict[str, list[dict[str, Any]]]:
    """What ``timing.json`` holds; entries that lack something are of older versions. Raises DataError: damaged."""
    if not cache.exists():
        return {}
    try:
        known = TypeAdapter(dict[str, list[TimedEntry]]).validate_json(cache.read_bytes())
        times = [x for entries in known.values() for entry in entries for x in entry.get("times_ms", [1.0])]
        if not all(math.isfinite(x) and x > 0 for x in times):
            raise ValueError("a time is none")
        return known  # type: ignore[return-value]
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{cache}: cannot be read ({reason}).", "Delete it; the timings are taken again.") from error


def _is_timed(entries: list[dict[str, Any]] | None, size: tuple[int, int], runtimes: Sequence[str]) -> bool:
    """Whether these are timings of an image of this size in all runtimes; older versions kept less."""
    if not entries or not all(TimedEntry.__annotations__.keys() <= entry.keys() for entry in entries):
        return False
    same = all(list(entry["image"]) == list(size) and entry["times_ms"] for entry in entries)
    return same and {entry["runtime"] for entry in entries} >= set(runtimes)


def _time_one(
    recipe: Recipe, splits: Splits, size: tuple[int, int], folder: Path, elsewhere: Elsewhere | None
) -> list[dict[str, Any]]:
    random = replace(recipe, model=replace(recipe.model, weights=None))
    trained = new_model(random, splits.train.levels)
    trained.model.eval()
    files = []
    for name in wanted_runtimes(recipe):
        built, runtime = export_float(trained, name, folder), RUNTIMES[name]
        able = set(runtime.precisions(here(recipe.target).device)) & set(recipe.compress.names)
        files += [built, *(replace(built, precision=p) for p in runtime.engine_precisions if p in able)]
    timed = replace(random, budget=replace(random.budget, image=size))
    measurer = make_measurer(trained, splits, timed, elsewhere)
    return [
        {
            "runtime": b.runtime,
            "precision": b.precision,
            "times_ms": t.times_ms,
            "bytes": b.bytes,
            "image": measurer.image.shape[:2],
        }
        for b, t in zip(files, measurer.time(files), strict=True)
    ]


def _timed_row(candidate: Candidate, entry: dict[str, Any]) -> Row:
    """A row of a random-weight timing; it has no metric, and its file says nothing."""
    runtime, precision, timing = str(entry["runtime"]), str(entry["precision"]), Timing(tuple(entry["times_ms"]))
    settings = {"bytes": entry["bytes"]}
    height, width = entry["image"]
    reason = f"{timing.p50:.3g} ms on {height}x{width} with random weights"
    name = f"{candidate.key} {variant_key(runtime, precision)}"
    return Row(
        name,
        runtime,
        precision,
        origin=candidate.key,
        settings=settings,
        timing=timing,
        image=(height, width),
        reason=reason,
    )


def within_reach(rows: list[Row], recipe: Recipe) -> bool:
    """Whether the fastest timing and the smallest file meet their limits, with what the recipe's steps can bring."""
    if any(row.timing is None for row in rows):
        return False
    limit, mb = recipe.budget.latency_ms, recipe.budget.size_mb
    kinds = [step.kind for runtime in wanted_runtimes(recipe) for step in planned_steps(recipe, runtime)]
    hope, shrink = (max((getattr(kind, what) for kind in kinds), default=1.0) for what in ("faster", "smaller"))
    fastest = min(row.latency(recipe.budget.percent) or 0.0 for row in rows) / hope
    smallest = min(row.settings["bytes"] for row in rows) / 1e6 / shrink
    return (limit is None or fastest <= limit * SLACK) and (mb is None or smallest <= mb * SLACK)


def surely_fast(rows: list[Row], recipe: Recipe) -> bool:
    """Whether a float file meets the latency limit as timed, without hoping for int8."""
    limit = recipe.budget.latency_ms
    return limit is None or min(row.slowest(recipe.budget.percent) or 0.0 for row in rows) <= limit
