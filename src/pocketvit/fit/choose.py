"""The choice among measured rows: Pareto set, ties, preference, nearest misses. Pure decisions on measured figures."""

from __future__ import annotations

from collections.abc import Sequence

from pocketvit.fit.gate import Limits, shortfalls, usable_rows
from pocketvit.fit.rows import Row
from pocketvit.spec.recipe import Prefer

SAME_SIZE = 0.01
"""Files that differ by no more than this share are equally large."""


def goodness(row: Row, limits: Limits) -> float:
    """The metric, turned so that higher is better."""
    value = row.metric or 0.0
    return value if limits.spec.higher_is_better else -value


def pareto(rows: Sequence[Row], limits: Limits) -> list[Row]:
    """Rows that no other one beats in metric, latency and size at once."""
    full = [row for row in rows if row.metric is not None and row.timing is not None and row.bytes is not None]

    def figures(row: Row) -> tuple[float, float, float]:
        return goodness(row, limits), -(row.latency(limits.budget.percent) or 0.0), -(row.bytes or 0)

    def beats(a: Row, b: Row) -> bool:
        x, y = figures(a), figures(b)
        return a is not b and x != y and all(p >= q for p, q in zip(x, y, strict=True))

    return [row for row in full if not any(beats(other, row) for other in full)]


def equal_in(what: Prefer, row: Row, best: Row, limits: Limits) -> bool:
    """Whether two rows are equal: within the metric's tie, with overlapping latency intervals, or of one size."""
    if what == "quality":
        count = row.measure.count if row.measure else 0
        return abs(goodness(row, limits) - goodness(best, limits)) <= limits.spec.tie_of(count) + 1e-9
    if what == "size":
        return abs((row.bytes or 0) - (best.bytes or 0)) <= SAME_SIZE * (best.bytes or 0)
    if row.timing is None or best.timing is None:
        return False
    (low, high), (best_low, best_high) = (r.timing.interval(limits.budget.percent) for r in (row, best) if r.timing)
    return low <= best_high and best_low <= high


ORDER: dict[Prefer, tuple[Prefer, ...]] = {
    "quality": ("quality", "speed", "size"),
    "speed": ("speed", "quality", "size"),
    "size": ("size", "quality", "speed"),
}
"""What decides first, and what decides among equals."""
_WORDS = {"quality": "the best metric", "speed": "the fastest", "size": "the smallest"}


def choose(rows: Sequence[Row], limits: Limits, prefer: Prefer = "quality") -> tuple[Row | None, str]:
    """The row to hand over and why.

    Args:
        rows: all measured rows.
        limits: hard limits.
        prefer: what decides first; equals go to the next figure of ``ORDER``.

    Returns:
        The row, or ``None`` where none meets budget and floor; and the rule in words.
    """
    left = pareto(usable_rows(rows, limits), limits)
    if not left:
        return None, "nothing meets budget and floor"
    percent = limits.budget.percent
    said: list[str] = []
    ways = {
        "quality": lambda row: goodness(row, limits),
        "speed": lambda row: -(row.latency(percent) or float("inf")),
        "size": lambda row: -float(row.bytes or 0),
    }
    for what in ORDER[prefer]:
        best = max(left, key=ways[what])
        equals = [row for row in left if equal_in(what, row, best, limits)]
        if not said or len(equals) < len(left):
            others = f" of {len(left)} equals" if said else ""
            said.append(f"{_WORDS[what]}{others}")
        left = equals
    limit = limits.budget.latency_ms
    within = f" within {limit:g} ms ({limits.budget.percentile})" if limit is not None else " within size and floor"
    return max(left, key=ways[prefer]), f"{said[0]}{within}{''.join(f', then {text}' for text in said[1:])}"


def nearest_misses(rows: Sequence[Row], limits: Limits, count: int = 5) -> list[str]:
    """Lines for the rows that came closest to the latency and size limits, with what each misses."""
    budget = limits.budget

    def excess(row: Row) -> float:
        slow = row.slowest(budget.percent) or float("inf")
        large = (row.bytes or float("inf")) / 1e6
        return max(
            slow / budget.latency_ms if budget.latency_ms else 0.0, large / budget.size_mb if budget.size_mb else 0.0
        )

    measured = sorted((row for row in rows if row.timing is not None), key=excess)
    lines = [f"{row.name}: {'; '.join(shortfalls(row, rows, limits)) or row.reason}" for row in measured]
    return (lines + [f"{row.name}: {row.reason}" for row in rows if row.timing is None])[:count]
