"""Depth from frame to frame: how much it flickers, and a smoother that looks back and never ahead.

A model that sees single frames answers a little differently each time; what moves is real, what trembles is not. The
smoother takes out the change of scale between frames and then blends, pixel by pixel, where old and new agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import DataError
from pocketvit.spec.typed import Range, check_ranges

Map = NDArray[np.float32]
"""(H, W), metres; 0 where there is no value."""


@dataclass(frozen=True)
class Change:
    """How far two neighbouring maps are apart."""

    metres: float
    """Mean absolute difference as they are."""
    aligned: float
    """Mean absolute difference in metres once the scale of the second is brought to the first's."""
    relative: float
    """The same as a share of the first."""


def _both(first: Map, second: Map) -> NDArray[np.bool_]:
    if first.shape != second.shape or first.ndim != 2:
        raise DataError(f"maps of {first.shape} and {second.shape} are no neighbours.", "Give maps (H, W) of one size.")
    known: NDArray[np.bool_] = (first > 0) & (second > 0)
    return known


def _scale(moving: Map, fixed: Map, known: NDArray[np.bool_]) -> float:
    """Brings ``moving`` to the scale of ``fixed``: the median of their ratios."""
    return float(np.median(fixed[known] / moving[known]))


def change(first: Map, second: Map) -> Change:
    """How far the second (H, W) map, in metres, is from the first, over the pixels that both have.

    Raises:
        DataError: the maps differ in size, or have no pixel in common.
    """
    known = _both(first, second)
    if not known.any():
        raise DataError("two neighbouring depth maps have no pixel in common.", "Look at the frames.")
    a, b = first[known].astype(np.float64), second[known].astype(np.float64)
    brought = np.abs(b * _scale(second, first, known) - a)
    return Change(float(np.abs(b - a).mean()), float(brought.mean()), float((brought / a).mean()))


@dataclass
class Smoother:
    """Called with one map after the other; answers with a steadier one. One for each stream."""

    keep: float = 0.8
    """Share of what was there before, where old and new agree; 0 keeps nothing."""
    jump: float = 0.06
    """Relative differences up to this tremble, those of twice as much are motion and are taken as they are."""

    def __post_init__(self) -> None:
        """Refuse what is no share. Raises UsageError."""
        check_ranges("smoother", self, {"keep": Range(0, 1, below=True), "jump": Range(0, 10, above=True)})
        self._last: Map | None = None

    def reset(self) -> None:
        """Begin anew, at a cut."""
        self._last = None

    def __call__(self, depth: Map) -> Map:
        """(H, W) float32 metres to the same; a map of another size begins anew."""
        last = self._last
        if last is not None and last.shape == depth.shape and (known := _both(last, depth)).any():
            # The old map follows the new one's scale: metres are the newest frame's, whatever the past was.
            past = last * np.float32(_scale(last, depth, known))
            apart = np.abs(past - depth) / np.maximum(depth, 1e-6)
            share = np.float32(self.keep) * np.clip(2 - apart / self.jump, 0, 1) * known
            depth = (depth + share * (past - depth)).astype(np.float32)
        self._last = depth
        return depth

    def to_dict(self) -> dict[str, Any]:
        """The settings in plain types."""
        return {"keep": self.keep, "jump": self.jump}
