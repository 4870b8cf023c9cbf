"""Timing calls against each other: interleaved, warmed up, with percentiles, a confidence interval and the spread.

Machines change speed from second to second. Calls that are compared are therefore run in turns (A B A B), so that both
see the same machine, and their ratio is taken within each round.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

INCLUDES = "preprocessing + inference + postprocessing of one decoded image"
"""What a time of an artifact covers."""
WIDE_SPREAD = 0.15
"""(p75 - p25) / p50 above which a timing is called wide."""
WIDE_INTERVAL = 0.10
"""Width of the median's confidence interval as a share of the median above which a timing is called wide."""


@dataclass(frozen=True)
class Timing:
    """Wall-clock times of one call in milliseconds, in the order they were taken."""

    times_ms: tuple[float, ...]

    def percentile(self, q: float) -> float:
        """The ``q``-th percentile (0 to 100) in ms, linearly interpolated."""
        return float(np.percentile(self.times_ms, q))

    @property
    def p50(self) -> float:
        """Median in ms."""
        return self.percentile(50)

    @property
    def p90(self) -> float:
        """90th percentile in ms."""
        return self.percentile(90)

    @property
    def p99(self) -> float:
        """99th percentile in ms."""
        return self.percentile(99)

    @property
    def mean(self) -> float:
        """Mean in ms."""
        return float(np.mean(self.times_ms))

    @property
    def ci95(self) -> tuple[float, float]:
        """95 % confidence interval of the median in ms."""
        return self.interval(50)

    def interval(self, percentile: float) -> tuple[float, float]:
        """95 % confidence interval of a percentile (0 to 100) in ms (:func:`interval_of`)."""
        return interval_of(self.times_ms, percentile)

    @property
    def spread(self) -> float:
        """Interquartile range as a share of the median."""
        return (self.percentile(75) - self.percentile(25)) / self.p50 if self.p50 > 0 else 0.0

    @property
    def wide(self) -> bool:
        """Whether the times scatter so much that small differences mean nothing."""
        low, high = self.ci95
        return self.spread > WIDE_SPREAD or high - low > WIDE_INTERVAL * self.p50

    def to_dict(self) -> dict[str, Any]:
        """Summary in plain JSON types."""
        plain = {f"{key}_ms": getattr(self, key) for key in ("p50", "p90", "p99", "mean")}
        plain |= {"ci95_ms": list(self.ci95), "p90_ci95_ms": list(self.interval(90))}
        return plain | {"spread": self.spread, "wide": self.wide, "runs": len(self.times_ms)}


def interval_of(values: Sequence[float], percentile: float = 50) -> tuple[float, float]:
    """95 % confidence interval of a percentile (above 0, below 100), from order statistics (binomial distribution).

    ``values`` of any distribution need only be independent. Too few to bound a percentile (p50 takes 6, p90 takes 36)
    give the least or the largest as its end, which covers less.
    """
    ordered, n, p = sorted(values), len(values), percentile / 100
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
        for k in range(n + 1)
    ]
    below = np.cumsum(np.exp(logs))  # [k]: probability that at most k values lie below the true percentile
    low, high = np.searchsorted(below, 0.025, side="right") - 1, np.searchsorted(below, 0.975)
    return ordered[max(0, int(low))], ordered[min(n - 1, int(high))]


@dataclass(frozen=True)
class Ratio:
    """How many times faster the second call is than the first, round by round."""

    ratios: tuple[float, ...]

    @property
    def p50(self) -> float:
        """Median of the rounds' ratios."""
        return float(np.median(self.ratios))

    @property
    def ci95(self) -> tuple[float, float]:
        """95 % confidence interval of the median ratio."""
        return interval_of(self.ratios)

    def to_dict(self) -> dict[str, Any]:
        """Summary in plain JSON types."""
        p10, p90 = map(float, np.percentile(self.ratios, (10, 90)))
        return {"p50": self.p50, "ci95": list(self.ci95), "p10": p10, "p90": p90, "rounds": len(self.ratios)}


def speedup(slow: Timing, fast: Timing) -> Ratio:
    """Ratio ``slow / fast`` of two timings of one :func:`interleave`: above 1, ``fast`` is faster."""
    return Ratio(tuple(a / b for a, b in zip(slow.times_ms, fast.times_ms, strict=True)))


Call = Callable[[], object]


def interleave(
    calls: Mapping[str, Call | Sequence[Call]],
    *,
    seconds: float = 2.0,
    min_rounds: int = 15,
    max_rounds: int = 2000,
    warmup: int = 3,
    pause_ms: float = 0.0,
) -> dict[str, Timing]:
    """Time ``calls`` in turns, A B A B, until ``seconds`` are spent.

    Args:
        calls: what to time, by name. Of several calls under a name, as many under each, a time is their mean: A1 B1
            A2 B2 in each round, where how long a call takes depends on what it is given.
        seconds: wall-clock seconds for all calls together, warm-up not counted.
        min_rounds: at least so many rounds, however long they take.
        max_rounds: at most so many.
        warmup: rounds that are run first and not counted.
        pause_ms: idle time before each call, since threads of another engine may still spin from its turn.

    Returns:
        A ``Timing`` for each call; all have the same number of times, and times of one index are of the same round.
    """
    parts = {name: [call] if callable(call) else list(call) for name, call in calls.items()}
    turns = list(zip(*parts.values(), strict=True))
    for _ in range(warmup):
        for call in turns[0] if turns else ():
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    for done in range(max_rounds):
        if done >= min_rounds and time.perf_counter() >= end:
            break
        spent = dict.fromkeys(parts, 0.0)
        for turn in turns:
            for name, call in zip(parts, turn, strict=True):
                if pause_ms:
                    time.sleep(pause_ms / 1e3)
                start = time.perf_counter()
                call()
                spent[name] += (time.perf_counter() - start) * 1e3
        for name, total in spent.items():
            times[name].append(total / len(turns))
    return {name: Timing(tuple(values)) for name, values in times.items()}
