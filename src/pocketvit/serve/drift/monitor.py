"""Whether the statistics of one model's requests still are those of its reference, request by request.

Each statistic has two detectors of river that are shown the reference first: ADWIN (Bifet and Gavalda, "Learning from
time-changing data with adaptive windowing", SDM 2007) finds any change of the mean, the slow ones too, and Page-Hinkley
(Page, "Continuous inspection schemes", Biometrika 1954) a large one quickly. What they say counts where the last
requests are also distributed otherwise than the reference (Kolmogorov-Smirnov) and lie a relevant distance from it:
after enough requests any two sets of photos differ by something. A statistic that drifts does so until a whole window
is like the reference again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
WINDOW, LAST, LEAST = 100, 30, 10
"""Requests that are held against the reference; the last of them, which show a change; fewer say nothing."""
LEAST_REFERENCE = 30
P_DRIFT, P_OK, SHIFT = 0.001, 0.01, 0.3
"""Probabilities below which a window is not, and above which it is again, like the reference; least difference of the
means that counts, in standard deviations of the reference."""
MOST_DEVIATIONS = 5.0
ADWIN_DELTA, PAGE_DELTA, PAGE_THRESHOLD = 0.002, 0.25, 20.0
Status = Literal["ok", "drift", "learning"]


@dataclass(frozen=True)
class Change:
    """A statistic began to drift, or is as it was again."""

    statistic: str
    before: float
    """Mean of the reference, as it is compared (decimal logarithm where the statistic says so)."""
    after: float
    """Mean of the last requests."""
    detector: str
    """What has noticed: ``adwin`` or ``page_hinkley``; ``recovered`` where it is over."""


class Watch:
    """One statistic."""

    def __init__(self, name: str, reference: Floats) -> None:
        """``reference`` is (N,) values, N at least 30, in the order in which they came."""
        self.name, self.reference = name, reference
        self.mean = float(reference.mean())
        self.deviation = max(float(reference.std()), 1e-3 * abs(self.mean), 1e-9)
        self.recent: deque[float] = deque(maxlen=WINDOW)
        self.drifting = False
        self._since = 0
        self._begin()

    def _begin(self) -> None:
        self._heard, self._patience = "", 0
        self._detectors: dict[str, Any] = {}

    def _make(self) -> None:
        """Detectors that have seen the reference. Not before the first value comes: river takes much along, and a
        server that only waits need not hold it."""
        from river.drift import ADWIN, PageHinkley

        self._detectors = {
            "adwin": ADWIN(delta=ADWIN_DELTA),
            "page_hinkley": PageHinkley(LAST, PAGE_DELTA, PAGE_THRESHOLD),
        }
        for value in self.reference:
            self._alarm(float(value))

    def _alarm(self, value: float) -> str:
        """Show the detectors a value; which of them says that something has changed, or nothing."""
        if not self._detectors:
            self._make()
        z = min(max((value - self.mean) / self.deviation, -MOST_DEVIATIONS), MOST_DEVIATIONS)
        found = ""
        for name, detector in self._detectors.items():
            # ADWIN's bound is for values from 0 to 1.
            detector.update(0.5 + z / (2 * MOST_DEVIATIONS) if name == "adwin" else z)
            found = found or (name if detector.drift_detected else "")
        return found

    @property
    def after(self) -> float:
        """Mean of the last ``LAST`` requests."""
        return float(np.mean(list(self.recent)[-LAST:])) if self.recent else self.mean

    def probability(self, last: int = WINDOW) -> float:
        """Of so large a difference between the last requests and the reference, were they alike; 1 for too few."""
        from scipy.stats import ks_2samp

        if len(self.recent) < LEAST:
            return 1.0
        return float(ks_2samp(list(self.recent)[-last:], self.reference, method="asymp").pvalue)

    def update(self, value: float) -> Change | None:
        """Take in the next value; what it changes, if anything."""
        self.recent.append(value)
        if self.drifting:
            self._since += 1
            if not self._like_before():
                return None
            self.drifting = False
            self._begin()
            return Change(self.name, self.mean, self.after, "recovered")
        if found := self._alarm(value):
            self._heard, self._patience = self._heard or found, WINDOW
        if not self._heard:
            return None
        if self._unlike():
            self.drifting, self._since = True, 0
            return Change(self.name, self.mean, self.after, self._heard)
        self._patience -= 1
        if not self._patience:  # it was nothing, but the detectors take it for the new normal
            self._begin()
        return None

    def _unlike(self) -> bool:
        return abs(self.after - self.mean) > SHIFT * self.deviation and self.probability(LAST) < P_DRIFT

    def _like_before(self) -> bool:
        near = abs(float(np.mean(self.recent)) - self.mean) <= SHIFT * self.deviation
        return self._since >= WINDOW and near and self.probability() > P_OK
