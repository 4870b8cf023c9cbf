"""Evaluators: fed with answers and ground truth, they yield ``(name, value, unit)``. One per task, chosen by a table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from pocketvit.errors import DataError
from pocketvit.spec.hierarchy import height_of_mistake
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.metrics import psnr, ssim
from pocketvit.spec.results import Classification, Restored

Metric = tuple[str, float, str]


class Evaluator(Protocol):
    """Collects answers one by one."""

    main: str
    """Name of the main metric; for every task a higher value is better."""

    def update(self, result: Any, truth: Any, condition: str = "") -> None:
        """Add one answer with its ground truth; ``condition`` (e.g. ``sigma25``) keeps averages apart."""
        ...

    def metrics(self) -> Iterator[Metric]:
        """All averages so far."""
        ...


MAX_PSNR = 100.0
"""dB that an exact pair counts in an average; without a cap one such pair would make the average infinite."""


class RestoreEvaluator:
    """PSNR (dB) and SSIM on 8-bit RGB, per image and then averaged, for each condition. Names: ``psnr@sigma25``; ``psnr`` for real pairs.

    Every metric is finite: an image's PSNR is capped at 100 dB (an exact pair has no finite one), and SSIM is averaged over the images
    of at least 11 pixels a side, where it is defined; a condition without any such image yields no SSIM.
    """

    def __init__(self, main_condition: str = "") -> None:
        self.main = f"psnr@{main_condition}" if main_condition else "psnr"
        self._scores: dict[str, list[tuple[float, float | None]]] = defaultdict(list)

    def update(self, result: Restored, truth: Any, condition: str = "") -> None:
        """``truth`` is the clean (H, W, 3) uint8 image."""
        if result.image.shape != truth.shape:
            raise DataError(
                f"output {result.image.shape} and ground truth {truth.shape} differ in shape.",
                "Check that the pair belongs together.",
            )
        similarity = ssim(result.image, truth) if min(truth.shape[:2]) >= 11 else None
        self._scores[condition].append((min(psnr(result.image, truth), MAX_PSNR), similarity))

    def metrics(self) -> Iterator[Metric]:
        """Mean PSNR and SSIM of each condition."""
        for condition, scores in self._scores.items():
            suffix = f"@{condition}" if condition else ""
            yield f"psnr{suffix}", float(np.mean([value for value, _ in scores])), "dB"
            if defined := [value for _, value in scores if value is not None]:
                yield f"ssim{suffix}", float(np.mean(defined)), ""


class ClassifyEvaluator:
    """Top-1 of each level along the consistent path, top-5 of the finest, mean mistake distance in the tree. Names: ``fine.top1``."""

    def __init__(self, levels: Sequence[LevelSpec]) -> None:
        self.levels = [level.name for level in levels]
        self.main = f"{self.levels[-1]}.top1"
        self._hits: list[np.ndarray[Any, np.dtype[np.bool_]]] = []
        self._top5: list[bool] = []

    def update(self, result: Classification, truth: Any, condition: str = "") -> None:
        """``truth`` holds one class per level, coarsest first."""
        self._hits.append(np.array([level.index == t for level, t in zip(result.levels, truth, strict=True)]))
        self._top5.append(int(truth[-1]) in np.argsort(-result.levels[-1].scores)[:5])

    def metrics(self) -> Iterator[Metric]:
        """Percentages and the mean mistake distance."""
        if not self._hits:
            return
        hits = np.stack(self._hits)
        for k, name in enumerate(self.levels):
            yield f"{name}.top1", float(100 * hits[:, k].mean()), "%"
        yield f"{self.levels[-1]}.top5", float(100 * np.mean(self._top5)), "%"
        if len(self.levels) > 1:
            yield "mistake_distance", float(height_of_mistake(~hits).mean()), "levels"


def make_evaluator(task: str, levels: Sequence[LevelSpec] = (), main_condition: str = "") -> Evaluator:
    """The evaluator of ``task``; ``main_condition`` names the condition of restore's main metric."""
    table: dict[str, Callable[[], Evaluator]] = {
        "restore": lambda: RestoreEvaluator(main_condition),
        "classify": lambda: ClassifyEvaluator(levels),
    }
    return table[task]()
