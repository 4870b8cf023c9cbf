"""Overlap of classes, counted over the pixels of many images: IoU of each, their mean, the share of right pixels.

Of class c, with n(t, a) the pixels of true class t that were answered a: IoU = n(c, c) / (sum n(c, .) + sum n(., c) -
n(c, c)) (Everingham et al. 2010, the PASCAL VOC segmentation measure). All are ratios of sums over images, so that
their variance is that of the linearised ratio (Cochran 1977, sec. 6.4): no image is drawn twice, and two runs agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pocketvit.spec.mask_files import IGNORED
from pocketvit.spec.tasks.base import Measure

PIXELS_RIGHT = "pixel_accuracy"
Floats = NDArray[np.float64]


def class_metric(label: str, name: str) -> str:
    """Name of a class's own metric: ``road.iou``. A name's ``@`` would be read as a condition."""
    return f"{label.replace('@', ' ')}.{name}"


def confusion(answer: NDArray[np.uint8], truth: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    """(count, count) pixels by true class (rows) and answered class, ignored pixels left out."""
    known = truth != IGNORED
    pairs = truth[known].astype(np.int64) * count + answer[known]
    return np.bincount(pairs, minlength=count * count).reshape(count, count)


class Overlaps:
    """Counts of each image, so that figures of all of them have an interval: 3 numbers a class and image."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._rows: list[tuple[NDArray[np.int64], NDArray[np.int64], int]] = []
        """(pixels right by class, pixels of truth or answer by class, pixels) of each image."""

    def add(self, answer: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
        """One image: (H, W) classes twice."""
        counts = confusion(answer, truth, self._count)
        right = np.diag(counts)
        self._rows.append((right, counts.sum(axis=0) + counts.sum(axis=1) - right, int(counts.sum())))

    @property
    def images(self) -> int:
        """Images so far."""
        return len(self._rows)

    @property
    def pixels(self) -> int:
        """Pixels that were scored."""
        return sum(pixels for *_, pixels in self._rows)

    def mean(self, name: str) -> Measure:
        """The mean IoU of the classes that are in any truth or answer."""
        right, either = self._sums()
        there = either.sum(axis=0) > 0
        values, parts = _ratio(right[:, there], either[:, there])
        return self._measure(name, float(values.mean()), parts.mean(axis=1))

    def right(self, name: str) -> Measure:
        """The share of pixels that have the right class."""
        right, _ = self._sums()
        values, parts = _ratio(right.sum(axis=1, keepdims=True), np.array([[row[2]] for row in self._rows], float))
        return self._measure(name, float(values[0]), parts[:, 0])

    def each(self, names: Sequence[str]) -> Iterator[Measure]:
        """The IoU of each class that is in any truth or answer."""
        right, either = self._sums()
        there = np.flatnonzero(either.sum(axis=0) > 0).tolist()
        values, parts = _ratio(right[:, there], either[:, there])
        for place, k in enumerate(there):
            yield self._measure(names[k], float(values[place]), parts[:, place])

    def _sums(self) -> tuple[Floats, Floats]:
        right, either, _ = zip(*self._rows, strict=True)
        return np.array(right, np.float64), np.array(either, np.float64)

    def _measure(self, name: str, value: float, parts: Floats) -> Measure:
        """In percent; the interval is that of a mean of independent ``parts``, cut at 0 and 100."""
        n = len(parts)
        half = 1.96 * math.sqrt(n / (n - 1) * float((parts**2).sum())) if n > 1 else 0.0
        return Measure(name, 100 * value, "%", n, 100 * max(0.0, value - half), 100 * min(1.0, value + half))


def _ratio(above: Floats, below: Floats) -> tuple[Floats, Floats]:
    """Of (images, classes) twice: the ratio of the sums (classes,), and each image's part in its error."""
    total = below.sum(axis=0)
    values = above.sum(axis=0) / total
    return values, (above - values * below) / total
