"""Covering a large image with overlapping tiles of one fixed size, with bounded memory and no visible seams.

Tiles are equally sized and evenly spread, so that the last one ends at the image's edge. In each overlap neighbouring
answers are mixed with linear weights. Tiles are finished one after the other: the peak is the 8-bit output plus, in
float32, a few tiles and the rows that two rows of tiles share.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pocketvit.spec.preprocess import Pixels, check_pixels

Run = Callable[[Pixels], NDArray[np.float32]]


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """First pixel of each tile along one axis of ``length`` pixels; neighbours share at least ``overlap`` pixels."""
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def count_tiles(height: int, width: int, size: tuple[int, int], overlap: int) -> int:
    """How many times the model runs for one image."""
    return len(starts(height, size[0], overlap)) * len(starts(width, size[1], overlap))


def axis_weights(positions: list[int], tile: int) -> list[NDArray[np.float32]]:
    """Blend weights (tile,) of each tile along one axis: linear ramps over the overlaps; everywhere they sum to 1."""
    total = np.zeros(positions[-1] + tile, np.float32)
    ramps = []
    for index, start in enumerate(positions):
        ramp = np.ones(tile, np.float32)
        if index > 0:
            shared = positions[index - 1] + tile - start
            ramp[:shared] = (np.arange(shared) + 0.5) / max(shared, 1)
        if index + 1 < len(positions):
            shared = start + tile - positions[index + 1]
            ramp[tile - shared :] = np.minimum(ramp[tile - shared :], 1 - (np.arange(shared) + 0.5) / max(shared, 1))
        total[start : start + tile] += ramp
        ramps.append(ramp)
    # Three tiles can meet where they are spread evenly, so the ramps alone need not sum to one.
    return [ramp / total[start : start + tile] for ramp, start in zip(ramps, positions, strict=True)]


def run_tiled(
    run: Run, image: Pixels, size: tuple[int, int], overlap: int, on_tile: Callable[[], None] | None = None
) -> Pixels:
    """Apply ``run`` to every tile and blend the answers.

    Args:
        run: maps one (tile_h, tile_w, 3) uint8 tile to float32 of the same shape, 0 to 255.
        image: (H, W, 3) uint8, any size; smaller images are padded by reflection and cut back.
        size: tile height and width in pixels.
        overlap: least number of pixels that neighbours share; at most half a tile.
        on_tile: called after each tile (progress).

    Returns:
        (H, W, 3) uint8, rounded and clipped.
    """
    check_pixels(image)
    height, width = image.shape[:2]
    tile_h, tile_w = size
    rows, columns = starts(height, tile_h, overlap), starts(width, tile_w, overlap)
    row_weights, column_weights = axis_weights(rows, tile_h), axis_weights(columns, tile_w)
    output = np.empty(image.shape, np.uint8)
    # Weighted sums of the pixels that the next row of tiles has a share in; ``kept`` rows of it are in use.
    shared, kept = max((a + tile_h - b for a, b in pairwise(rows)), default=0), 0
    carry = np.empty((shared, width, 3), np.float32)
    for top, end, weight in zip(rows, [*rows[1:], height], row_weights, strict=True):
        after = max(0, top + tile_h - end) if end < height else 0
        strip = np.zeros((tile_h, tile_w, 3), np.float32)  # sums below the present tile, whose left part it completes
        for left, right, ramp in zip(columns, [*columns[1:], width], column_weights, strict=True):
            strip += run(_cut(image, top, left, size)) * ramp[None, :, None]
            if on_tile is not None:
                on_tile()
            done = strip[:, : right - left] * weight[:, None, None]
            done[:kept] += carry[:kept, left:right]
            carry[:after, left:right] = done[end - top : end - top + after]
            output[top:end, left:right] = to_pixels(done[: end - top])
            strip[:, : left + tile_w - right] = strip[:, right - left :]
            strip[:, left + tile_w - right :] = 0
        kept = after
    return output


def to_pixels(values: NDArray[np.float32]) -> Pixels:
    """Round and clip values of 0 to 255 to uint8."""
    rounded = np.rint(values)
    return np.clip(rounded, 0, 255, out=rounded).astype(np.uint8)


def _cut(image: Pixels, top: int, left: int, size: tuple[int, int]) -> Pixels:
    """One tile of the image, contiguous; what the image lacks is its reflection."""
    tile = image[top : top + size[0], left : left + size[1]]
    below, beside = size[0] - tile.shape[0], size[1] - tile.shape[1]
    if below or beside:
        return np.pad(tile, ((0, below), (0, beside), (0, 0)), mode="reflect")
    return np.ascontiguousarray(tile)
