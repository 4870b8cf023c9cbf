"""Boxes as arrays: overlap, peaks of a heat map, suppression of doubles, and pictures of boxes with their labels.

N boxes (x0, y0, x1, y1), in any unit that is the same for all; what a model answers is in shares of the photo, 0 to 1.
``web/src/detect.ts`` does the same in the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features

from pocketvit.spec.preprocess import Pixels

Boxes = NDArray[np.floating[Any]]
"""(N, 4)."""
COLOURS = (
    *((230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180)),
    *((70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212), (0, 128, 128), (220, 190, 255)),
)
"""RGB of classes 0, 1, ...; the thirteenth has the first one's again."""
_DARK, _LIGHT = (20, 24, 31), (245, 246, 248)


def overlaps(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """(N, 4) and (M, 4) to (N, M): intersection over union, 0 where both are empty."""
    a, b = np.asarray(a, np.float64).reshape(-1, 4), np.asarray(b, np.float64).reshape(-1, 4)
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared: NDArray[np.float64] = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(x[:, 2:] - x[:, :2], axis=1) for x in (a, b)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1.0), 0.0)


def peaks(heat: NDArray[np.floating[Any]], least: float, most: int) -> tuple[NDArray[np.int64], ...]:
    """(K, h, w) to the places (class, row, column) that no neighbour exceeds, at most ``most`` of at least ``least``.

    Best first; of equals the first in memory is first.
    """
    padded = np.pad(heat, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    columns = np.maximum(np.maximum(padded[:, :, :-2], padded[:, :, 1:-1]), padded[:, :, 2:])
    around = np.maximum(np.maximum(columns[:, :-2], columns[:, 1:-1]), columns[:, 2:])
    places = np.flatnonzero((heat >= least) & (heat >= around))
    best = places[np.argsort(-heat.ravel()[places], kind="stable")[:most]]
    return tuple(np.asarray(x, np.int64) for x in np.unravel_index(best, heat.shape))


def suppressed(boxes: Boxes, classes: NDArray[np.int64], most_overlap: float) -> list[int]:
    """Which boxes stay, of (N, 4) that are given best first: one of a class that overlaps no better one by more."""
    beats = (overlaps(boxes, boxes) > most_overlap) & (classes[:, None] == classes)
    kept, beaten = list[int](), np.zeros(len(boxes), bool)
    for i in range(len(boxes)):
        if not beaten[i]:
            kept.append(i)
            beaten |= beats[i]
    return kept


def drawn(image: Pixels, boxes: Boxes, texts: Sequence[str], classes: Sequence[int]) -> Pixels:
    """A copy of (H, W, 3) uint8 with a frame around each box (shares of the photo), and its text above it."""
    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    draw, line = ImageDraw.Draw(picture), max(2, min(height, width) // 160)
    font: Any = (
        ImageFont.load_default(max(10, height // 32)) if features.check("freetype2") else ImageFont.load_default()
    )
    for (x0, y0, x1, y1), text, index in reversed(list(zip(boxes, texts, classes, strict=True))):  # the best on top
        colour = COLOURS[index % len(COLOURS)]
        left, top = min(int(x0 * width), width - 1), min(int(y0 * height), height - 1)
        right, bottom = max(left, round(x1 * width) - 1), max(top, round(y1 * height) - 1)
        draw.rectangle((left, top, right, bottom), outline=colour, width=line)
        if text:
            wide, tall = draw.textbbox((0, 0), text, font=font)[2:]
            above = top - tall - 4 if top > tall + 4 else top
            draw.rectangle((left, above, left + wide + 6, above + tall + 4), fill=colour)
            ink = _DARK if sum(colour) > 380 else _LIGHT
            draw.text((left + 3, above + 1), text, fill=ink, font=font)
    return np.asarray(picture)
