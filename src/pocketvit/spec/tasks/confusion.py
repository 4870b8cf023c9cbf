"""What a classifier confuses: the matrix as counts and as a picture, each class's accuracy, the worst mistakes."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pocketvit.spec.hierarchy import LevelSpec
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.tasks import base

MOST_CLASSES, MOST_NAMED, MOST_MISTAKES, MOST_LINES = 100, 24, 12, 5
"""Classes of which all counts are listed; that are named in the picture; mistakes kept; lines for people."""
THUMB = 240
"""Longer side of a kept photo in pixels."""


def most_confused(counts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """(truth, answer) of wrong answers in (K, K) counts, rows being the truth, the most frequent first."""
    wrong = counts * (1 - np.eye(len(counts), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[: 4 * MOST_LINES]
    pairs = [divmod(int(i), len(counts)) for i in order]
    return [(a, b) for a, b in pairs if wrong[a, b]]


def confusions(labels: Sequence[str], counts: NDArray[np.int64], one: str, all_of: str) -> dict[str, Any]:
    """``confused`` (the most frequent pairs, each number under the name ``one``) and, of up to 100 classes, the whole
    ``confusion`` (all numbers under the name ``all_of``), in plain types."""
    pairs = [{"truth": labels[a], "answer": labels[b], one: int(counts[a, b])} for a, b in most_confused(counts)]
    whole = {"labels": list(labels), "rows": "truth", "columns": "answer", all_of: counts.tolist()}
    return {"confused": pairs, **({"confusion": whole} if len(labels) <= MOST_CLASSES else {})}


class ClassifyStudy:
    """Counts answers of the finest level by truth; see :class:`pocketvit.spec.tasks.base.Study`."""

    def __init__(self, levels: Sequence[LevelSpec]) -> None:
        self.labels = list(levels[-1].labels)
        self.counts = np.zeros((len(self.labels), len(self.labels)), np.int64)
        """(classes, classes): rows are the truth, columns the answers."""
        self._mistakes: list[tuple[float, int, str, Pixels]] = []

    def add(self, case: base.Case, result: Any) -> None:
        """Count one answer; of wrong ones the most certain are kept with their photos."""
        level, truth = result.levels[-1], int(case.truth[-1])
        self.counts[truth, level.index] += 1
        if level.index == truth:
            return
        image = Image.fromarray(case.image)
        image.thumbnail((THUMB, THUMB))
        name = Path(getattr(case, "path", "")).name
        caption = f"{name}: {level.label} {100 * level.score:.0f} %, truth {self.labels[truth]}".removeprefix(": ")
        kept = (level.score, int(self.counts.sum()), caption, np.asarray(image))  # the count: arrays have no order
        if len(self._mistakes) < MOST_MISTAKES:
            heapq.heappush(self._mistakes, kept)
        else:
            heapq.heappushpop(self._mistakes, kept)

    @property
    def _totals(self) -> Any:
        return self.counts.sum(axis=1)

    def _accuracy(self, k: int) -> float | None:
        return 100 * float(self.counts[k, k]) / float(self._totals[k]) if self._totals[k] else None

    def lines(self) -> list[str]:
        """The weakest classes and the most frequent mistakes."""
        seen = [k for k in range(len(self.labels)) if self._totals[k] and self.counts[k, k] < self._totals[k]]
        weak = sorted(seen, key=lambda k: self._accuracy(k) or 0.0)[:MOST_LINES]
        text = [f"{self.labels[k]} {self.counts[k, k]} of {self._totals[k]}" for k in weak]
        lines = [f"Weakest classes: {', '.join(text)}."] if text else []
        text = [
            f"{self.labels[a]} as {self.labels[b]} ({self.counts[a, b]})"
            for a, b in most_confused(self.counts)[:MOST_LINES]
        ]
        return [*lines, f"Most frequent mistakes: {', '.join(text)}."] if text else lines

    def to_dict(self) -> dict[str, Any]:
        """``per_class``, ``confused`` (the most frequent pairs) and, of up to 100 classes, the whole ``confusion``."""
        rows = enumerate(self.labels)
        classes = [
            {
                "label": label,
                "count": int(self._totals[k]),
                "correct": int(self.counts[k, k]),
                "top1": self._accuracy(k),
            }
            for k, label in rows
        ]
        return {"per_class": classes, **confusions(self.labels, self.counts, "count", "counts")}

    def pictures(self) -> list[tuple[str, list[base.Panel]]]:
        """The confusion matrix, then the mistakes that the model was most certain of."""
        if not self.counts.any():
            return []
        matrix = ("confusion matrix: rows are the truth, columns the answers", [("", self._picture())])
        worst = sorted(self._mistakes, key=lambda kept: -kept[0])
        return [matrix, *((f"mistake: {caption}", [("", pixels)]) for _, _, caption, pixels in worst)]

    def _picture(self) -> Pixels:
        """Shares of each row from white to blue; counts and names where there is room."""
        n = len(self.labels)
        cell = max(2, min(44, 880 // n))
        left = top = 130 if n <= MOST_NAMED else 0
        canvas = Image.new("RGB", (left + n * cell + 1, top + n * cell + 1), (255, 255, 255))
        draw = ImageDraw.Draw(canvas)
        shares = self.counts / np.maximum(self._totals[:, None], 1)
        for (a, b), share in np.ndenumerate(shares):
            x, y = left + b * cell, top + a * cell
            colour = tuple(round(255 + share * (c - 255)) for c in (36, 89, 168))
            draw.rectangle((x, y, x + cell, y + cell), colour, (214, 220, 228) if cell > 8 else None)
            if cell >= 22 and self.counts[a, b]:
                ink = (255, 255, 255) if share > 0.5 else (28, 36, 48)
                draw.text((x + cell / 2, y + cell / 2), str(self.counts[a, b]), ink, anchor="mm")
        if left:
            for k, label in enumerate(self.labels):
                draw.text((left - 6, top + (k + 0.5) * cell), label[:20], (28, 36, 48), anchor="rm")
            _write_upright(canvas, [label[:20] for label in self.labels], left, top, cell)
        return np.asarray(canvas)


def _write_upright(canvas: Image.Image, labels: Sequence[str], left: int, top: int, cell: int) -> None:
    """Names of the columns, from the matrix upwards."""
    strip = Image.new("RGB", (top, len(labels) * cell), (255, 255, 255))
    for k, label in enumerate(labels):
        ImageDraw.Draw(strip).text((6, (k + 0.5) * cell), label, (28, 36, 48), anchor="lm")
    canvas.paste(strip.rotate(90, expand=True), (left, 0))
