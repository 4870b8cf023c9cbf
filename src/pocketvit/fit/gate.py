"""The gain gate: what a row may miss, and whether a step stays. Pure decisions on measured figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pocketvit.fit.rows import Row
from pocketvit.spec.budget import Budget, Floor
from pocketvit.spec.recipe import CompressConfig, Recipe
from pocketvit.spec.tasks import task_of
from pocketvit.spec.tasks.base import MetricSpec


@dataclass(frozen=True)
class Limits:
    """What a row is held against."""

    budget: Budget
    floor: Floor
    spec: MetricSpec
    """The metric that decides: its direction, tie and unit."""
    precision: str = "any"
    """Only rows of this one, or ``any``."""


def limits_of(recipe: Recipe, metric: str) -> Limits:
    """Budget and floor of a recipe; where it states no floor, the default drop of that metric."""
    spec, floor = task_of(recipe.task.name).metric(metric), recipe.floor
    if floor.value is None and floor.max_drop is None:
        floor = replace(floor, max_drop=spec.default_drop)
    return Limits(recipe.budget, floor, spec, recipe.target.precision)


def judge(
    origin: Row, before: Row, step: Row, settings: CompressConfig, limits: Limits, *, prepares: bool = False
) -> Row:
    """A step stays only if its file got faster or smaller and the metric stayed above the floor.

    Args:
        origin: the float file in the same runtime, which the floor counts from.
        before: the file the step started from.
        step: the changed file, with ``gain`` and ``speedup`` measured side by side with the two.
        settings: least gains.
        limits: the floor.
        prepares: the step need not gain: what comes behind it may.

    Returns:
        ``step`` with ``kept`` and ``reason`` set.
    """
    if step.metric is None or origin.metric is None or step.bytes is None or before.bytes is None:
        return replace(step, kept=False, reason=step.reason or "could not be measured")
    if misses := limits.floor.misses(step.metric, origin.metric, limits.spec):
        speed = "" if step.gain is None else f" ({_gain(before, step, step.gain, limits.spec)})"
        return replace(step, kept=False, reason=f"below the floor: {misses[0]}{speed}")
    if step.gain is None or step.speedup is None or origin.bytes is None:
        return replace(step, kept=False, reason=step.reason or "could not be timed")
    gain = _gain(before, step, step.gain, limits.spec)
    for base, faster in ((before, step.gain), (origin, step.speedup)):
        if prepares:
            break
        if (faster < settings.min_speedup or not step.certain) and (base.bytes or 0) / step.bytes < settings.min_shrink:
            return replace(step, kept=False, reason=f"no gain over {base.name}: {gain}")
    if step.baseline:
        return replace(step, kept=False, reason=f"built to compare with, never handed over ({gain})")
    return replace(step, kept=True, reason=f"stays for the steps behind it: {gain}" if prepares else gain)


def _gain(before: Row, step: Row, faster: float, spec: MetricSpec) -> str:
    """What a step changed, in words that say so where it changed nothing."""
    shrink, change = (before.bytes or 0) / (step.bytes or 1), (step.metric or 0.0) - (before.metric or 0.0)
    size = f"{shrink:.2f}x smaller" if shrink >= 1.005 else f"{1 / (shrink or 1):.2f}x larger"
    size = "as large" if abs(shrink - 1) < 0.005 else size
    metric = f"{change:+.2g} {spec.unit}".rstrip() if abs(change) > 1e-9 else "unchanged"
    return f"{faster:.2f}x speed, {size}, {spec.name} {metric}"


def float_metric(rows: Sequence[Row], row: Row) -> float | None:
    """The metric of the float file in the row's runtime, made from the same trained model."""
    mine = (r for r in rows if r.origin == row.origin and r.runtime == row.runtime and not r.step)
    return next((r.metric for r in mine if r.metric is not None), None)


def shortfalls(row: Row, rows: Sequence[Row], limits: Limits) -> list[str]:
    """Every limit that a measured row misses, one phrase each; of a latency the interval's upper end counts."""
    if row.metric is None or row.bytes is None:
        return ["not measured"]
    slow = row.slowest(limits.budget.percent)
    over = limits.budget.misses(latency_ms=slow, size_mb=row.bytes / 1e6, memory_mb=row.memory_mb)
    return over + limits.floor.misses(row.metric, float_metric(rows, row), limits.spec)


def usable_rows(rows: Sequence[Row], limits: Limits) -> list[Row]:
    """Kept rows of the wanted precision that meet budget and floor."""
    wanted = [row for row in rows if row.kept and limits.precision in ("any", row.precision)]
    return [row for row in wanted if not shortfalls(row, rows, limits)]
