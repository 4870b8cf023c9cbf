"""Step 1 of fit, time before training: latency does not depend on the weights, so what misses the budget is never trained."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pocketvit.compress.steps import BY_NAME
from pocketvit.data.collections import Splits
from pocketvit.errors import UsageError
from pocketvit.export.artifact import pixel_model_of
from pocketvit.export.built import Built
from pocketvit.export.formats import exporter
from pocketvit.fit.gate import Row
from pocketvit.fit.measure import make_bench
from pocketvit.models.build import variant_task
from pocketvit.models.variants import VARIANTS
from pocketvit.runtimes import RUNTIMES, check_target
from pocketvit.spec.recipe import Recipe
from pocketvit.spec.target import ANY
from pocketvit.train.setup import new_model

SLACK = 1.1
"""A candidate stays while its fastest random-weight timing is within this factor of the limit: int8 may still help."""
INT8_HOPE = 2.0
"""The most that int8 was ever seen to gain over float here; used only to keep candidates, never to report a time."""


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
        UsageError: an unknown variant.
    """
    models = recipe.search.models or (recipe.model.name,)
    for name in models:
        variant_task(name)
    sizes = [(side, side) for side in recipe.search.sizes] or [recipe.preprocess.size]
    return [Candidate(model, size) for model in models for size in sizes]


def recipe_for(recipe: Recipe, candidate: Candidate) -> Recipe:
    """The recipe with the candidate's model and size; start weights stay only with the architecture they belong to."""
    same = candidate.model == recipe.model.name
    model = recipe.model if same else replace(recipe.model, name=candidate.model, options={}, weights=None)
    overlap = min(recipe.preprocess.overlap, min(candidate.size) // 2)
    data = recipe.data
    if recipe.task.name == "restore" and not candidate.model.startswith("timm:") and VARIANTS[candidate.model].sized:
        data = replace(
            data, patch=candidate.size[0]
        )  # its positions are those of one size, so it trains on crops of that size
    return replace(
        recipe, model=model, data=data, preprocess=replace(recipe.preprocess, size=candidate.size, overlap=overlap)
    )


def wanted_runtimes(recipe: Recipe) -> tuple[str, ...]:
    """The target's runtime, or all of the search where the target leaves it open.

    Raises:
        UsageError: one does not exist or has no such device or precision here, or no step leads to the precision.
        MissingDependencyError: an engine is not installed.
    """
    target = recipe.target
    chosen = recipe.search.runtimes if target.runtime == ANY else (target.runtime,)
    named = ANY not in (target.runtime, target.precision)
    for name in chosen:
        check_target(replace(target, runtime=name, precision=target.precision if named else "fp32"))
    if named and target.precision != "fp32" and (chosen[0], target.precision) not in BY_NAME:
        raise UsageError(f"no step leads to {chosen[0]}:{target.precision}.", "Take another runtime or precision.")
    return chosen


def export_float(trained: object, runtimes: tuple[str, ...], folder: Path, stem: str = "model") -> list[Built]:
    """The float file of each runtime."""
    folder.mkdir(parents=True, exist_ok=True)
    pixel_model = pixel_model_of(trained)  # type: ignore[arg-type]
    size = trained.preprocess.size  # type: ignore[attr-defined]
    return [exporter(runtime)(pixel_model, size, folder, stem) for runtime in runtimes]


def time_candidates(
    recipe: Recipe, splits: Splits, folder: Path, notify: Callable[[str], None]
) -> list[tuple[Candidate, list[Row]]]:
    """Build, export and time every candidate with random weights; finished timings are kept in ``timing.json`` for a resumed run.

    Returns:
        Each candidate with one row per runtime and float precision.
    """
    found = []
    cache = folder / "timing.json"
    known: dict[str, list[dict[str, float | str]]] = (
        json.loads(cache.read_text(encoding="utf-8")) if cache.exists() else {}
    )
    for candidate in candidates(recipe):
        if candidate.key not in known:
            notify(f"timing {candidate.key} with random weights")
            known[candidate.key] = _time_one(recipe_for(recipe, candidate), splits, folder / "timing" / candidate.key)
            partial = folder / ".timing.json.partial"
            partial.write_text(json.dumps(known, indent=1), encoding="utf-8")
            os.replace(partial, cache)
        found.append((candidate, [_timed_row(candidate, entry) for entry in known[candidate.key]]))
    return found


def _timed_row(candidate: Candidate, entry: dict[str, float | str]) -> Row:
    """A row of a random-weight timing; it has no metric and no file."""
    runtime, precision = str(entry["runtime"]), str(entry["precision"])
    figures = {name: float(entry[name]) for name in ("p50", "p90", "mb")}
    return Row(
        f"{candidate.key} {runtime}:{precision}",
        runtime,
        precision,
        metrics=figures,
        reason=f"{figures['p50']:.3g} ms with random weights",
        origin=candidate.key,
    )


def _time_one(recipe: Recipe, splits: Splits, folder: Path) -> list[dict[str, float | str]]:
    random = replace(recipe, model=replace(recipe.model, weights=None))
    trained = new_model(random, splits.train.levels)
    trained.model.eval()
    files = export_float(trained, wanted_runtimes(recipe), folder)
    files += [
        Built(b.runtime, precision, b.path, b.companions)
        for b in files
        for precision in RUNTIMES[b.runtime].engine_precisions
        if precision in recipe.compress.steps and precision in RUNTIMES[b.runtime].precisions(b.device)
    ]
    timings = make_bench(trained, splits, random).time(files)
    return [
        {"runtime": b.runtime, "precision": b.precision, "p50": t.p50, "p90": t.p90, "mb": b.bytes / 1e6}
        for b, t in zip(files, timings, strict=True)
    ]


def within_reach(rows: list[Row], recipe: Recipe) -> bool:
    """Whether the fastest timing, with hope for int8 where it will be tried, meets the latency limit, and half-size files the size limit."""
    limit, mb = recipe.budget.latency_ms, recipe.budget.size_mb
    hope = INT8_HOPE if "int8" in recipe.compress.steps else 1.0
    fastest = min(row.metrics[recipe.budget.percentile] for row in rows if row.metrics)
    smallest = min(row.metrics["mb"] for row in rows if row.metrics) / (
        4 if "int8" in recipe.compress.steps else 2 if "fp16" in recipe.compress.steps else 1
    )
    return (limit is None or fastest <= limit * SLACK * hope) and (mb is None or smallest <= mb * SLACK)


def surely_fast(rows: list[Row], recipe: Recipe) -> bool:
    """Whether a float file meets the latency limit as timed, without hoping for int8."""
    limit = recipe.budget.latency_ms
    return limit is None or min(row.metrics[recipe.budget.percentile] for row in rows if row.metrics) <= limit
