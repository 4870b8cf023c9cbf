"""The plan of tiles from a memory limit."""

from __future__ import annotations

import pytest

from pocketvit.errors import UsageError
from pocketvit.runtimes.whole import PHOTO_BYTES, TILE_BYTES, check_limit, tile_for
from pocketvit.spec.manifest import Memory
from pocketvit.spec.preprocess import Preprocess

SPEC = Preprocess(size=(256, 256), resize="tile", overlap=16, multiple=8)
MEMORY = Memory(fixed_mb=20, bytes_per_pixel=280)


@pytest.mark.parametrize("shape", [(1, 1), (321, 481), (1500, 2000)])
def test_what_fits_runs_whole(shape: tuple[int, int]) -> None:
    assert tile_for(shape, SPEC, MEMORY) is None


@pytest.mark.parametrize("limit", [150.0, 400.0, 1000.0, 2000.0])
@pytest.mark.parametrize("shape", [(3000, 4000), (4000, 3000), (500, 24000), (24000, 500)])
def test_tiles_are_as_large_as_the_limit_allows(shape: tuple[int, int], limit: float) -> None:
    tile = tile_for(shape, SPEC, MEMORY, limit)
    assert tile is not None
    height, width = tile
    assert height % 8 == width % 8 == 0

    def needed(pixels: float) -> float:
        return 20e6 + shape[0] * shape[1] * PHOTO_BYTES + pixels * (280 + TILE_BYTES)

    least = min(256, shape[0]) * min(256, shape[1])
    assert needed(height * width) <= limit * 1e6 or height * width <= least * 1.1
    if height * width > least * 1.1:
        assert needed((height + 8) * (width + 8)) > 0.9 * limit * 1e6


def test_without_a_limit_tiles_leave_a_huge_photo_below_three_times_its_bytes() -> None:
    height, width = tile_for((8000, 8000), SPEC, MEMORY) or (8000, 8000)
    assert 20e6 + 64e6 * PHOTO_BYTES + height * width * (280 + TILE_BYTES) <= 3 * 3 * 64e6 * 1.1
    assert height * width >= 256 * 256


@pytest.mark.parametrize("limit", [0.0, -5.0, float("nan"), float("inf")])
def test_a_limit_is_a_positive_number(limit: float) -> None:
    with pytest.raises(UsageError, match="memory_mb"):
        check_limit(limit)
