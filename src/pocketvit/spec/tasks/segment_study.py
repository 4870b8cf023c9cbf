"""What masks confuse: the overlap of each class, pixels of one class answered as another, the worst photos."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pocketvit.spec.hierarchy import LevelSpec
from pocketvit.spec.mask_pictures import painted
from pocketvit.spec.preprocess import Pixels, nearest
from pocketvit.spec.tasks import base
from pocketvit.spec.tasks.confusion import MOST_LINES, confusions, most_confused
from pocketvit.spec.tasks.segment_scores import confusion

MOST_PHOTOS = 6
"""Photos kept."""
LONGER = 320
"""Longer side of a kept photo in pixels."""


class SegmentStudy:
    """Counts pixels by truth and answer; see :class:`pocketvit.spec.tasks.base.Study`."""

    def __init__(self, levels: Sequence[LevelSpec]) -> None:
        self.labels = list(levels[-1].labels)
        self.counts = np.zeros((len(self.labels), len(self.labels)), np.int64)
        """(classes, classes): rows are the truth, columns the answers."""
        self._worst: list[tuple[float, int, str, list[base.Panel]]] = []
        self._seen = 0

    def add(self, case: base.Case, result: Any) -> None:
        """Count one answer; the photos with the fewest right pixels are kept."""
        answer = result.resized(*case.truth.shape)
        counts = confusion(answer, case.truth, len(self.labels))
        self.counts += counts
        self._seen += 1
        if not (total := int(counts.sum())):
            return
        right = float(np.trace(counts)) / total
        rank = (-right, -self._seen)  # the number: of equal ones the first is kept, and pictures have no order
        if len(self._worst) == MOST_PHOTOS and rank <= self._worst[0][:2]:
            return
        caption = f"{Path(getattr(case, 'path', '')).name}: {100 * right:.0f} % of the pixels right".removeprefix(": ")
        kept = (*rank, caption, self._panels(case, answer))
        (heapq.heappush if len(self._worst) < MOST_PHOTOS else heapq.heappushpop)(self._worst, kept)

    def _panels(self, case: base.Case, answer: Any) -> list[base.Panel]:
        image = Image.fromarray(case.image)
        image.thumbnail((LONGER, LONGER))
        photo: Pixels = np.asarray(image)
        size, count = (photo.shape[0], photo.shape[1]), len(self.labels)
        drawn = [painted(photo, nearest(classes, size), count) for classes in (answer, case.truth)]
        return [("photo", photo), ("classes", drawn[0]), ("truth", drawn[1])]

    def _overlap(self, k: int) -> float | None:
        either = int(self.counts[k].sum() + self.counts[:, k].sum() - self.counts[k, k])
        return 100 * float(self.counts[k, k]) / either if either else None

    def _absent(self) -> list[str]:
        """A warning where some classes are in no mask."""
        absent = [self.labels[k] for k in np.flatnonzero(self.counts.sum(axis=1) == 0)]
        if len(absent) in (0, len(self.labels)):
            return []
        more = f" and {len(absent) - MOST_LINES} more" if len(absent) > MOST_LINES else ""
        names = ", ".join(absent[:MOST_LINES])
        return [f"Warning: no mask has a pixel of {names}{more}: the figures say nothing of that."]

    def lines(self) -> list[str]:
        """Classes that no mask has, the classes of least overlap and the most frequent mistakes."""
        warnings = self._absent()
        known = [(value, k) for k in range(len(self.labels)) if (value := self._overlap(k)) is not None]
        text = [f"{self.labels[k]} {value:.1f} %" for value, k in sorted(known)[:MOST_LINES]]
        lines = [*warnings, *([f"Least overlap: {', '.join(text)}."] if text else [])]
        total = max(1, int(self.counts.sum()))
        pairs = most_confused(self.counts)[:MOST_LINES]
        text = [f"{self.labels[a]} as {self.labels[b]} ({100 * self.counts[a, b] / total:.1f} %)" for a, b in pairs]
        return [*lines, f"Most frequent mistakes, of all pixels: {', '.join(text)}."] if text else lines

    def to_dict(self) -> dict[str, Any]:
        """``per_class``, ``confused`` (the most frequent pairs) and, of up to 100 classes, the whole ``confusion``."""
        classes = [
            {"label": label, "pixels": int(self.counts[k].sum()), "iou": self._overlap(k)}
            for k, label in enumerate(self.labels)
        ]
        return {"per_class": classes, **confusions(self.labels, self.counts, "pixels", "pixels")}

    def pictures(self) -> list[tuple[str, list[base.Panel]]]:
        """The photos with the fewest right pixels, the worst first."""
        return [(caption, panels) for *_, caption, panels in sorted(self._worst, key=lambda kept: kept[:2])[::-1]]
