"""Covering a large image with overlapping tiles of one fixed size, with bounded memory and no visible seams.

Tiles are equally sized and evenly spread, so that the last one ends at the image's edge. In each overlap neighbouring
answers are mixed with linear weights. Rows of tiles are finished one after the other: the peak is the 8-bit output
plus two bands of one tile's height in float32, whatever the height of the image.
"""

from __future__ import annotations

from collections.abc import Callable

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
    if height < tile_h or width < tile_w:
        image = np.pad(image, ((0, max(0, tile_h - height)), (0, max(0, tile_w - width)), (0, 0)), mode="reflect")
    full_h, full_w = image.shape[:2]
    rows, columns = starts(full_h, tile_h, overlap), starts(full_w, tile_w, overlap)
    row_weights, column_weights = axis_weights(rows, tile_h), axis_weights(columns, tile_w)
    output = np.empty(image.shape, np.uint8)
    carry = np.zeros((0, full_w, 3), np.float32)  # weighted sum of the rows shared with the next band
    for i, top in enumerate(rows):
        band = np.zeros((tile_h, full_w, 3), np.float32)
        for j, left in enumerate(columns):
            answer = run(np.ascontiguousarray(image[top : top + tile_h, left : left + tile_w]))
            band[:, left : left + tile_w] += answer * column_weights[j][None, :, None]
            if on_tile is not None:
                on_tile()
        band *= row_weights[i][:, None, None]
        band[: len(carry)] += carry
        end = rows[i + 1] if i + 1 < len(rows) else full_h
        output[top:end] = np.clip(np.rint(band[: end - top]), 0, 255)
        carry = band[end - top :]
    return np.ascontiguousarray(output[:height, :width])
