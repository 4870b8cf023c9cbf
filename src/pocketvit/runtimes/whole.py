"""How an image goes through a file that takes any size: whole, or in the largest tiles that the memory allows.

Memory is counted above the idle process, in bytes: what the file takes for each pixel (measured when the artifact is
made, ``memory`` of its variant in the manifest) and what the pictures beside it take.
"""

from __future__ import annotations

import math

from pocketvit.errors import UsageError
from pocketvit.spec.manifest import Memory, Variant
from pocketvit.spec.preprocess import Preprocess

LIMIT_MB = 1000.0
TILED_MB, TILED_PHOTOS = 500.0, 2.6
"""What tiles keep to where nobody gives a limit, whichever is more: so many MB, or times the photo's own bytes. Larger
tiles would save next to nothing: the overlap is a small part of them already."""
UNMEASURED = Memory(fixed_mb=50.0, bytes_per_pixel=600.0)
"""For files that are in no artifact yet, and variants of which nothing is stated: more than the networks here take."""
WHOLE_BYTES = 3 + 3 + 12 + 12 + 3
"""Of a pixel beside the file: photo, padded photo, the answer as float and rounded, and as bytes."""
PHOTO_BYTES = 3 + 3 + 3
"""Of a pixel of a photo in tiles: photo, answer, and what reading and writing it take."""
TILE_BYTES = 3 + 12 + 12 + 12
"""Of a pixel of a tile: its cut, its answer, weighted, and the strip of sums."""


def check_limit(memory_mb: float | None) -> None:
    """Raise ``UsageError`` for a limit that is no positive number of MB."""
    if memory_mb is not None and not 0 < memory_mb < math.inf:
        raise UsageError(f"memory_mb must be more than 0, not {memory_mb}.", "Write e.g. 1000.")


def memory_of(variant: Variant | None) -> Memory:
    """What a variant takes, as its manifest states it."""
    return (variant and variant.memory) or UNMEASURED


def tile_for(
    shape: tuple[int, int], spec: Preprocess, memory: Memory, limit_mb: float | None = None
) -> tuple[int, int] | None:
    """Height and width of the tiles for an image of ``shape`` (height, width); ``None`` where it runs whole.

    Without ``limit_mb`` (MB of 1e6 bytes) the limit is ``LIMIT_MB``. Tiles are multiples of ``spec.multiple`` and never
    smaller than ``spec.size``, which is as small as the network was made for: below that the limit cannot be kept.
    """
    height, width = (-(-side // spec.multiple) * spec.multiple for side in shape)
    area, fixed = height * width, memory.fixed_mb * 1e6
    if area * (memory.bytes_per_pixel + WHOLE_BYTES) + fixed <= (limit_mb or LIMIT_MB) * 1e6:
        return None
    tiled_mb = min(LIMIT_MB, max(TILED_MB, TILED_PHOTOS * 3 * area / 1e6)) if limit_mb is None else limit_mb
    spare = tiled_mb * 1e6 - fixed - PHOTO_BYTES * area
    pixels = max(spare, 0.0) / (memory.bytes_per_pixel + TILE_BYTES)
    least_h, least_w = (-(-side // spec.multiple) * spec.multiple for side in spec.size)
    tile_h = min(height, max(least_h, _floor(math.sqrt(pixels), spec.multiple)))
    tile_w = min(width, max(least_w, _floor(pixels / tile_h, spec.multiple)))
    tile_h = min(height, max(tile_h, _floor(pixels / tile_w, spec.multiple)))  # where the image is narrow
    return None if (tile_h, tile_w) == (height, width) else (tile_h, tile_w)


def _floor(value: float, multiple: int) -> int:
    return int(value) // multiple * multiple
