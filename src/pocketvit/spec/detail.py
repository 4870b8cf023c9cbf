"""Where a photo is worth a close look: windows at its own resolution that hold most detail, the same each time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pocketvit.spec.preprocess import Pixels

CELL = 8
"""Side in pixels of the squares that are compared."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Shares of R, G and B in the light of a pixel (ITU-R BT.601)."""
_ROWS = 16
Box = tuple[int, int, int, int]
"""top, left, height, width in pixels."""


def detail(image: Pixels, minus: Pixels | None = None) -> NDArray[np.float32]:
    """Standard deviation of luma in each whole cell of an (H, W, 3) uint8 image: (H // 8, W // 8), 0 to 128.

    With ``minus`` it is that of the difference of two images. A few rows of cells at a time are float.
    """
    rows, columns = image.shape[0] // CELL, image.shape[1] // CELL
    found = np.empty((rows, columns), np.float32)
    for top in range(0, rows, _ROWS):
        part = slice(top * CELL, min(top + _ROWS, rows) * CELL), slice(0, columns * CELL)
        luma = image[part] @ LUMA if minus is None else image[part] @ LUMA - minus[part] @ LUMA
        found[top : top + _ROWS] = luma.reshape(-1, CELL, columns, CELL).std(axis=(1, 3))
    return found


def best_window(
    score: NDArray[np.float32], image: tuple[int, int], size: tuple[int, int], apart: Box | None = None
) -> Box:
    """The window of ``size`` with the largest sum of ``score``, on the grid of cells.

    Args:
        score: one value for each cell, as :func:`detail` gives them.
        image: height and width of the image in pixels.
        size: height and width of the window; what the image lacks, the window does too.
        apart: a window that the new one should not touch; where that is not possible, it may.

    Returns:
        The window; of equal ones that nearest to the middle.
    """
    height, width = min(size[0], image[0]), min(size[1], image[1])
    rows, columns = max(1, min(height // CELL, len(score))), max(1, min(width // CELL, score.shape[1]))
    if not score.size:
        return (image[0] - height) // 2, (image[1] - width) // 2, height, width
    total = np.pad(score.astype(np.float64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    sums = total[rows:, columns:] - total[:-rows, columns:] - total[rows:, :-columns] + total[:-rows, :-columns]
    y, x = np.ogrid[: sums.shape[0], : sums.shape[1]]
    if apart is not None:
        top, left, tall, wide = (value / CELL for value in apart)
        free = (y + rows <= top) | (y >= top + tall) | (x + columns <= left) | (x >= left + wide)
        sums = np.where(free, sums, -1.0) if free.any() else sums
    middle = (y - (sums.shape[0] - 1) / 2) ** 2 + (x - (sums.shape[1] - 1) / 2) ** 2
    best = int(np.argmin(np.where(sums >= sums.max() - 1e-6, middle, np.inf)))
    row, column = divmod(best, sums.shape[1])
    return min(row * CELL, image[0] - height), min(column * CELL, image[1] - width), height, width


def cut(image: Pixels, box: Box) -> Pixels:
    """The pixels of a window, as they are."""
    top, left, height, width = box
    return np.ascontiguousarray(image[top : top + height, left : left + width])
