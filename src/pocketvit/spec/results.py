"""Typed, drawable answers of the tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Restored:
    """A restored photograph."""

    image: Pixels
    """(H, W, 3) uint8, RGB."""

    def to_dict(self) -> dict[str, Any]:
        """JSON summary (the pixels go to a file)."""
        return {"task": "restore", "height": int(self.image.shape[0]), "width": int(self.image.shape[1])}

    def draw(self, source: Pixels) -> Pixels:
        """The picture to look at: the restored image itself."""
        return self.image


@dataclass(frozen=True)
class Level:
    """The answer at one level of the label hierarchy (flat classification has one level)."""

    name: str
    """Level name, e.g. ``fine``."""
    labels: tuple[str, ...] = field(repr=False)
    """All class names of the level."""
    scores: NDArray[np.float32] = field(repr=False)
    """(classes,) float32 probabilities."""
    index: int
    """Class chosen at this level; consistent with the levels above and below."""

    @property
    def label(self) -> str:
        """Name of the chosen class."""
        return self.labels[self.index]

    @property
    def score(self) -> float:
        """Probability of the chosen class, 0 to 1."""
        return float(self.scores[self.index])

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The ``k`` most probable classes of this level as ``(label, score)``, best first."""
        order = np.argsort(-self.scores, kind="stable")[: max(k, 0)]
        return [(self.labels[i], float(self.scores[i])) for i in order]


@dataclass(frozen=True)
class Classification:
    """A path through the label hierarchy, coarsest level first."""

    levels: tuple[Level, ...]

    @property
    def path(self) -> tuple[str, ...]:
        """Labels from the coarsest to the finest level."""
        return tuple(level.label for level in self.levels)

    def to_dict(self) -> dict[str, Any]:
        """JSON form with the chosen class and the five best of each level."""
        return {
            "task": "classify",
            "path": list(self.path),
            "levels": [
                {
                    "name": x.name,
                    "label": x.label,
                    "score": x.score,
                    "top": [{"label": a, "score": b} for a, b in x.top(5)],
                }
                for x in self.levels
            ],
        }

    def draw(self, source: Pixels) -> Pixels:
        """``source`` with the path and score written on a bar below it."""
        picture = Image.fromarray(source)
        canvas = Image.new("RGB", (max(picture.width, 160), picture.height + 24), (20, 20, 20))
        canvas.paste(picture, (0, 0))
        text = f"{' > '.join(self.path)}  {100 * self.levels[-1].score:.0f} %"
        ImageDraw.Draw(canvas).text((6, picture.height + 6), text, fill=(240, 240, 240))
        return np.asarray(canvas)


Result = Restored | Classification
