"""The gain gate and the choice: pure decisions on measured figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pocketvit.bench.timing import Timing
from pocketvit.export.built import Built
from pocketvit.spec.budget import Budget, Floor
from pocketvit.spec.recipe import Compress

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


def judge(base: Row, step: Row, settings: Compress, floor: Floor) -> Row:
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


def pareto(rows: Sequence[Row]) -> list[Row]:
    """Kept rows that no other kept row beats in metric, latency and size at once."""
    kept = [row for row in rows if row.kept and row.metric is not None and row.timing is not None and row.bytes is not None]

    def beats(a: Row, b: Row) -> bool:
        pairs = [(a.metric, b.metric), (-a.timing.p50, -b.timing.p50), (-a.bytes, -b.bytes)]  # type: ignore[union-attr, operator]
        return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)  # type: ignore[operator]

    return [row for row in kept if not any(beats(other, row) for other in kept)]


def choose(rows: Sequence[Row], budget: Budget, floor: Floor, reference: float) -> tuple[Row | None, str]:
    """The row to hand over and why.

    With a latency limit the most accurate row inside the budget is taken (the limit says that faster is not worth more);
    without one the fastest above the floor. Ties within 0.02 of the metric go to the faster row.

    Args:
        rows: all measured candidates.
        budget: hard limits.
        floor: on the metric; ``reference`` is the best float model's.
    """
    usable = [row for row in pareto(rows) if not budget_misses(row, budget) and row.metric is not None and not floor.misses(row.metric, reference)]
    if not usable:
        return None, "nothing meets budget and floor"
    speed: Callable[[Row], float] = lambda row: row.timing.p50 if row.timing else float("inf")  # noqa: E731
    if budget.latency_ms is None:
        return min(usable, key=speed), "the fastest above the floor (no latency limit was given)"
    best = max(row.metric or 0.0 for row in usable)
    close = [row for row in usable if (row.metric or 0.0) >= best - 0.02]
    return min(close, key=speed), f"the best metric within {budget.latency_ms:g} ms ({budget.percentile})"


def nearest_misses(rows: Sequence[Row], budget: Budget, count: int = 5) -> list[str]:
    """Lines for the rows that came closest, with what each exceeds."""
    timed = sorted((row for row in rows if row.timing is not None), key=lambda row: row.timing.p50 if row.timing else 0.0)
    return [f"{row.name}: {'; '.join(budget_misses(row, budget)) or row.reason}" for row in timed[:count]]
