"""Depth of a stream: each map steadied by those before it, coloured by a range that hardly moves, flicker measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import DataError
from pocketvit.spec.depth_pictures import colored
from pocketvit.spec.depth_video import Map, Smoother, change
from pocketvit.spec.preprocess import Pixels, resize

_SHARES = (2.0, 98.0)
_FOLLOW = 0.05
"""Share by which the range of colours goes after that of a new map: what stays where it is keeps its colour."""
_MEASURED = 20_000
"""Pixels of a map that flicker is measured on at most."""


class DepthStream:
    """Answers of one stream, in order; see :class:`pocketvit.spec.tasks.base.Follower`.

    Flicker is the mean change between neighbouring answers once their scales are brought together, as a share of the
    depth. What moves in the picture is in it, before and after alike.
    """

    def __init__(self, smooth: float | None = None) -> None:
        """``smooth``: the share of what was there before, 0 (off) to below 1; 0.8 where nobody says.

        Raises:
            UsageError: it is no such share.
        """
        self.smoother = Smoother() if smooth is None else Smoother(keep=smooth)
        self._range: tuple[float, float] | None = None
        self._before, self._after = _Flicker(), _Flicker()

    def steady(self, result: Any) -> Any:
        """The answer with a steadier map."""
        smoothed = self.smoother(result.depth)
        self._before.add(result.depth)
        self._after.add(smoothed)
        return replace(result, depth=smoothed)

    def draw(self, result: Any, source: Pixels) -> Pixels:
        """(H, W, 3) uint8 at the size of ``source``: near is bright, far is dark, in colours that stay."""
        low, high = self._moved(result.depth)
        if result.metric:
            picture = colored(result.depth, low, high)
        else:  # inverse depth: near is large; what is drawn has near small, as metres have
            span = max(high - low, 1e-9)
            picture = colored(np.maximum(high - result.depth, 0) + span, span, 2 * span)
        return resize(picture, (source.shape[0], source.shape[1]), "bilinear")

    def _moved(self, depth: Map) -> tuple[float, float]:
        known = depth[np.isfinite(depth) & (depth > 0)] if (depth > 0).any() else depth
        now = tuple(float(x) for x in np.percentile(known, _SHARES))
        old = self._range or (now[0], now[1])
        low, high = (was + _FOLLOW * (new - was) for was, new in zip(old, now))
        self._range = low, max(high, low + 1e-6 * max(abs(low), 1e-3))
        return self._range

    def reset(self) -> None:
        """Begin anew, where the stream was broken."""
        self.smoother.reset()
        self._before.last = self._after.last = None

    def to_dict(self) -> dict[str, Any]:
        """Settings and flicker in percent; None where there were no two maps."""
        flicker = {"before": self._before.percent, "after": self._after.percent, "pairs": self._before.count}
        return {"smoothing": self.smoother.to_dict(), "flicker_percent": flicker}

    @property
    def line(self) -> str:
        """Flicker in words; empty where it is not known."""
        before, after = self._before.percent, self._after.percent
        if before is None or after is None:
            return ""
        return f"flicker {before:.2f} % of the depth from answer to answer, {after:.2f} % smoothed"


class _Flicker:
    """The mean relative change between neighbours."""

    def __init__(self) -> None:
        self.count, self.total, self.last = 0, 0.0, None

    last: NDArray[np.float32] | None

    def add(self, depth: Map) -> None:
        step = max(1, int(np.sqrt(depth.size / _MEASURED)))
        now = depth[::step, ::step]
        last, self.last = self.last, now
        if last is None or last.shape != now.shape:
            return
        try:
            self.total += change(last, now).relative
        except DataError:  # no pixel in common: a cut
            return
        self.count += 1

    @property
    def percent(self) -> float | None:
        return 100 * self.total / self.count if self.count else None
