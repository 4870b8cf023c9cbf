"""Pictures for people: a photo made smaller, and a frame drawn on it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pocketvit.spec.detail import Box
from pocketvit.spec.preprocess import Pixels

_FRAME = (255, 214, 10), (20, 24, 31)
_BAND = 64


def overview(image: Pixels, side: int) -> tuple[Pixels, float]:
    """(H, W, 3) uint8 with its longer side at most ``side``, and the scale: 1, and the pixels as they are, if it fits.

    Means of whole squares first, in bands of rows, so that a large photo costs no second copy of itself.
    """
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image, 1.0
    size = max(1, round(width * scale)), max(1, round(height * scale))
    step = max(1, min(int(1 / scale), height, width))
    if step > 1:
        rows, columns = height // step, width // step
        bands = []
        for top in range(0, rows, _BAND):
            part = image[top * step : min(top + _BAND, rows) * step, : columns * step]
            means = part.reshape(-1, step, columns, step, 3).mean(axis=(1, 3), dtype=np.float32)
            bands.append(np.rint(means).astype(np.uint8))
        image = np.concatenate(bands)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX)), scale


def frame(image: Pixels, box: Box) -> Pixels:
    """A copy with a thin bright frame, edged darkly, around ``box``; what lies outside is left away."""
    drawn = image.copy()
    for colour, out in ((_FRAME[1], 1), (_FRAME[0], 0)):
        top, left = max(0, box[0] - out), max(0, box[1] - out)
        bottom, right = min(len(drawn), box[0] + box[2] + out), min(drawn.shape[1], box[1] + box[3] + out)
        drawn[[top, bottom - 1], left:right] = colour
        drawn[top:bottom, [left, right - 1]] = colour
    return drawn
