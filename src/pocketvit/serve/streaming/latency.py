"""Percentiles of a stream of any length in constant memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

LOW, STEP = 1e-3, 1.01
_BINS = int(math.log(1e7 / LOW) / math.log(STEP)) + 2


class Percentiles:
    """Counts of values, in milliseconds, in bins of 1 %: a percentile is right to half a percent of itself.

    Values from a microsecond to ten thousand seconds; what lies outside counts as the end. Not safe in threads.
    """

    def __init__(self) -> None:
        self.count, self.most = 0, 0.0
        self._bins = np.zeros(_BINS, np.int64)

    def add(self, value: float) -> None:
        """One more value."""
        place = math.log(max(value, LOW) / LOW) / math.log(STEP)
        self._bins[min(int(place), _BINS - 1)] += 1
        self.count, self.most = self.count + 1, max(self.most, value)

    def at(self, percent: float) -> float | None:
        """The value that ``percent`` of all do not exceed; None where there is none."""
        if not self.count:
            return None
        rank = max(1, math.ceil(self.count * percent / 100))
        place = int(np.searchsorted(np.cumsum(self._bins), rank))
        return min(self.most, LOW * STEP ** (place + 0.5))

    def to_dict(self) -> dict[str, Any]:
        """``p50``, ``p90``, ``max`` and ``count``."""
        most = self.most if self.count else None
        return {"p50": self.at(50), "p90": self.at(90), "max": most, "count": self.count}
