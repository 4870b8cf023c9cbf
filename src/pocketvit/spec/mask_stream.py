"""Masks of a stream: probabilities steadied by those before them where both agree, flicker measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.typed import Range, check_range

KEEP = 0.7


class MaskStream:
    """Answers of one stream, in order; see :class:`pocketvit.spec.tasks.base.Follower`.

    A pixel keeps the more of what was there before, the less its probabilities have moved: with p and q those before
    and now, the share is ``keep * (1 - sum |p - q| / 2)``. What trembles at a border is held, what has become another
    thing is taken as it is. Flicker is the share of pixels whose class is another one than in the answer before; what
    moves in the picture is in it, before and after alike.
    """

    def __init__(self, smooth: float | None = None) -> None:
        """``smooth``: ``keep``, 0 (off) to below 1; 0.7 where nobody says.

        Raises:
            UsageError: it is no such share.
        """
        self.keep = KEEP if smooth is None else smooth
        check_range("smooth", self.keep, Range(0, 1, below=True))
        self._last: NDArray[np.float32] | None = None
        self._classes: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None
        self._pairs, self._before, self._after = 0, 0.0, 0.0

    def steady(self, result: Any) -> Any:
        """The answer with steadier probabilities."""
        now, last = result.probs, self._last
        if last is not None and last.shape == now.shape:
            share = np.float32(self.keep) * (1 - np.minimum(np.abs(last - now).sum(axis=0) / 2, 1))
            now = (now + share * (last - now)).astype(np.float32)
        self._last = now
        steadied = replace(result, probs=now)
        self._measure(result.classes, steadied.classes)
        return steadied

    def _measure(self, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> None:
        last, self._classes = self._classes, (before, after)
        if last is None or last[0].shape != before.shape:
            return
        self._pairs += 1
        self._before += float((last[0] != before).mean())
        self._after += float((last[1] != after).mean())

    def draw(self, result: Any, source: Pixels) -> Pixels:
        """(H, W, 3) uint8 at the size of ``source``; a class has one colour always."""
        picture: Pixels = result.draw(source)
        return picture

    def reset(self) -> None:
        """Begin anew, where the stream was broken."""
        self._last = self._classes = None

    def to_dict(self) -> dict[str, Any]:
        """Settings and flicker in percent of the pixels; None where there were no two answers."""
        before, after = (100 * total / self._pairs if self._pairs else None for total in (self._before, self._after))
        flicker = {"before": before, "after": after, "pairs": self._pairs}
        return {"smoothing": {"keep": self.keep}, "flicker_percent": flicker}

    @property
    def line(self) -> str:
        """Flicker in words; empty where it is not known."""
        if not self._pairs:
            return ""
        before, after = (100 * total / self._pairs for total in (self._before, self._after))
        return f"{before:.2f} % of the pixels change their class from answer to answer, {after:.2f} % smoothed"
