"""Parts of a photo that stand for the whole, so that measuring a large photo costs no more than a small one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIDE, GRID = 128, 4
"""Side of a part in pixels, and how many there are across and down."""
OCTAVES = 4
Floats = NDArray[np.float64]
LUMA = np.array([0.299, 0.587, 0.114])


def regions(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 to (N, h, w, 3): the photo itself, or 16 parts of at most 128x128 pixels, evenly spread."""
    height, width = image.shape[:2]
    if height * width <= 2 * (GRID * SIDE) ** 2:
        return image[None]
    rows, columns = ((min(SIDE, n), np.linspace(0, n - min(SIDE, n), GRID).astype(int)) for n in (height, width))
    return np.stack([image[y : y + rows[0], x : x + columns[0]] for y in rows[1] for x in columns[1]])


def luma(parts: NDArray[np.uint8]) -> Floats:
    """(..., 3) RGB to (...) brightness, 0 to 255 (BT.601)."""
    return np.asarray(parts @ LUMA, np.float64)


def octaves(planes: Floats) -> Floats:
    """Energy of (N, h, w) in four octaves, finest first, as log10 of the mean square: (4,).

    An octave is what averaging 2x2 pixels takes away. Where a plane is too small for one, it counts as empty.
    """
    found = []
    for _ in range(OCTAVES):
        n, height, width = planes.shape
        if min(height, width) < 2:
            found.append(0.0)
            continue
        blocks = planes[:, : height // 2 * 2, : width // 2 * 2].reshape(n, height // 2, 2, width // 2, 2)
        planes = blocks.mean(axis=(2, 4))
        found.append(float(np.square(blocks - planes[:, :, None, :, None]).mean()))
    return np.log10(np.array(found) + 1e-2)
