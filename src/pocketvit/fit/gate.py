"""The gain gate and the choice: pure decisions on measured figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pocketvit.bench.timing import Timing
from pocketvit.export.built import Built
from pocketvit.spec.budget import Budget, Floor
from pocketvit.spec.recipe import CompressConfig

DEFAULT_DROP = {"restore": 0.1, "classify": 1.0}
"""Largest accepted loss where the recipe states no floor: dB for restore, percentage points for classify."""


@dataclass(frozen=True)
class Row:
    """One candidate with what was measured on its very file."""

    name: str
    runtime: str
    precision: str
    built: Built | None = None
    metrics: dict[str, float] | None = None
    metric: float | None = None
    timing: Timing | None = None
    speedup: float | None = None
    """Median of the round-by-round ratios against the float file in the same runtime."""
    memory_mb: float | None = None
    kept: bool = False
    chosen: bool = False
    misses: tuple[str, ...] = ()
    """Limits of budget and floor that a kept row misses."""
    reason: str = ""
    ranking: tuple[tuple[str, float], ...] = ()
    origin: str = ""
    """Which trained model the file was made from."""

    @property
    def key(self) -> str:
        """``runtime:precision``."""
        return f"{self.runtime}:{self.precision}"

    @property
    def bytes(self) -> int | None:
        """Bytes on disk of the files."""
        return self.built.bytes if self.built else None

    def latency(self, percentile: str) -> float | None:
        """p50 or p90 in ms."""
        return None if self.timing is None else float(getattr(self.timing, percentile))


def floor_of(task: str, floor: Floor) -> Floor:
    """The recipe's floor, or the task's default drop where it states none."""
    return replace(floor, max_drop=DEFAULT_DROP[task]) if floor.value is None and floor.max_drop is None else floor


def judge(base: Row, step: Row, settings: CompressConfig, floor: Floor) -> Row:
    """A step stays only if its file got faster or smaller and the metric stayed above the floor.

    Args:
        base: the float file in the same runtime.
        step: the changed file, with ``speedup`` measured side by side with ``base``.

    Returns:
        ``step`` with ``kept`` and ``reason`` set.
    """
    if step.metric is None or base.metric is None or step.speedup is None or step.bytes is None or base.bytes is None:
        return replace(step, kept=False, reason=step.reason or "could not be measured")
    shrink = base.bytes / step.bytes
    drop = base.metric - step.metric
    gain = f"{step.speedup:.2f}x speed, {shrink:.2f}x smaller, metric {-drop:+.2f}"
    if misses := floor.misses(step.metric, base.metric):
        return replace(step, kept=False, reason=f"below the floor: {misses[0]} ({gain})")
    if step.speedup < settings.min_speedup and shrink < settings.min_shrink:
        return replace(step, kept=False, reason=f"no gain: {gain}")
    return replace(step, kept=True, reason=gain)


def budget_misses(row: Row, budget: Budget) -> list[str]:
    """Limits of the budget that the measured row exceeds."""
    if row.bytes is None:
        return ["not built"]
    return budget.misses(latency_ms=row.latency(budget.percentile), size_mb=row.bytes / 1e6, memory_mb=row.memory_mb)


def usable_rows(rows: Sequence[Row], budget: Budget, floor: Floor, precision: str = "any") -> list[Row]:
    """Kept rows that meet the budget, the floor (drops count from the float model they were made from) and the target's precision."""
    return [
        row
        for row in rows
        if row.kept and not shortfalls(row, rows, budget, floor) and precision in ("any", row.precision)
    ]


def shortfalls(row: Row, rows: Sequence[Row], budget: Budget, floor: Floor) -> list[str]:
    """Every limit that a measured row misses, one phrase each."""
    if row.metric is None:
        return ["not measured"]
    return budget_misses(row, budget) + floor.misses(row.metric, float_metric(rows, row.origin))


def float_metric(rows: Sequence[Row], origin: str) -> float | None:
    """The metric of the float file that the rows of ``origin`` were made from."""
    return max(
        (row.metric for row in rows if row.origin == origin and row.precision == "fp32" and row.metric is not None),
        default=None,
    )


def pareto(rows: Sequence[Row], percentile: str = "p50") -> list[Row]:
    """Rows that no other one beats in metric, latency and size at once."""
    full = [row for row in rows if row.metric is not None and row.timing is not None and row.bytes is not None]

    def figures(row: Row) -> tuple[float, float, float]:
        return (row.metric or 0.0, -(row.latency(percentile) or 0.0), -(row.bytes or 0))

    def beats(a: Row, b: Row) -> bool:
        return (
            a is not b and all(x >= y for x, y in zip(figures(a), figures(b), strict=True)) and figures(a) != figures(b)
        )

    return [row for row in full if not any(beats(other, row) for other in full)]


def choose(rows: Sequence[Row], budget: Budget, floor: Floor, precision: str = "any") -> tuple[Row | None, str]:
    """The row to hand over and why.

    With a latency limit the most accurate row inside the budget is taken (the limit says that faster is not worth more);
    without one the fastest above the floor. Ties within 0.02 of the metric go to the faster row.

    Args:
        rows: all measured candidates.
        budget: hard limits.
        floor: on the metric; drops count from the float model of the same origin.
        precision: only rows of this one, or ``any``.
    """
    usable = pareto(usable_rows(rows, budget, floor, precision), budget.percentile)
    if not usable:
        return None, "nothing meets budget and floor"

    def latency(row: Row) -> float:
        return row.latency(budget.percentile) or float("inf")

    if budget.latency_ms is None:
        return min(usable, key=latency), "the fastest above the floor (no latency limit was given)"
    best = max(row.metric or 0.0 for row in usable)
    close = [row for row in usable if (row.metric or 0.0) >= best - 0.02]
    return min(
        close, key=latency
    ), f"the best metric within {budget.latency_ms:g} ms ({budget.percentile}); ties go to the faster file"


def nearest_misses(rows: Sequence[Row], budget: Budget, floor: Floor, count: int = 5) -> list[str]:
    """Lines for the rows that came closest to the latency and size limits, with what each misses."""

    def excess(row: Row) -> float:
        over = (row.latency(budget.percentile) or float("inf")) / budget.latency_ms if budget.latency_ms else 0.0
        large = (row.bytes or float("inf")) / 1e6 / budget.size_mb if budget.size_mb else 0.0
        return max(over, large)

    measured = sorted((row for row in rows if row.timing is not None), key=excess)
    lines = [f"{row.name}: {'; '.join(shortfalls(row, rows, budget, floor)) or row.reason}" for row in measured]
    return (lines + [f"{row.name}: {row.reason}" for row in rows if row.timing is None])[:count]
