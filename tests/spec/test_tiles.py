from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from pocketvit.errors import DataError
from pocketvit.spec.tiles import axis_weights, count_tiles, run_tiled, starts
from tests.bad_images import photo


def identity(tile: np.ndarray) -> np.ndarray:
    return tile.astype(np.float32)


def box_blur(tile: np.ndarray) -> np.ndarray:
    """3x3 mean with replicated edges: a network whose receptive field reaches one pixel."""
    padded = np.pad(tile.astype(np.float32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = tile.shape[:2]
    return sum(padded[dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)) / 9


@pytest.mark.parametrize("length", [1, 31, 32, 33, 50, 63, 64, 65, 100, 127, 128, 481])
@pytest.mark.parametrize("overlap", [0, 1, 8, 16])
def test_starts_cover_the_axis(length: int, overlap: int) -> None:
    first = starts(length, 32, overlap)
    assert first[0] == 0
    if length <= 32:
        assert first == [0]
        return
    assert first[-1] + 32 == length
    assert all(0 < b - a <= 32 - overlap for a, b in pairwise(first))


@pytest.mark.parametrize("length", [32, 33, 48, 65, 97, 200])
@pytest.mark.parametrize("overlap", [0, 8, 16])
def test_weights_sum_to_one(length: int, overlap: int) -> None:
    first = starts(length, 32, overlap)
    total = np.zeros(length)
    for start, weight in zip(first, axis_weights(first, 32), strict=True):
        assert (weight > 0).all()
        total[start : start + 32] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (5, 200), (24, 32), (25, 33), (100, 75), (37, 64)])
@pytest.mark.parametrize("overlap", [0, 6, 12])
def test_identity_gives_the_image_back(shape: tuple[int, int], overlap: int) -> None:
    image = photo(*shape)
    np.testing.assert_array_equal(run_tiled(identity, image, (24, 32), overlap), image)


def test_tiled_equals_untiled_where_the_receptive_field_allows() -> None:
    image = photo(90, 110)
    whole = np.clip(np.rint(box_blur(image)), 0, 255).astype(np.uint8)
    tiled = run_tiled(box_blur, image, (32, 32), 16)
    difference = np.abs(tiled.astype(int) - whole)
    # Only pixels next to a tile's edge see padding; the blend gives them at most a sixteenth of the weight.
    assert difference.max() <= 3
    edges = {p for s in (starts(90, 32, 16), starts(110, 32, 16)) for a in s for p in (a, a + 31)}
    away = [r for r in range(90) if r not in edges], [c for c in range(110) if c not in edges]
    assert difference[np.ix_(*away)].max() <= 1  # rounding


def test_no_visible_step_where_tiles_disagree() -> None:
    """Every tile answers with its own brightness; the blend must ramp and not jump."""
    level = iter(np.tile([60.0, 180.0], 100))
    output = run_tiled(
        lambda tile: np.full(tile.shape, next(level), np.float32), np.zeros((32, 200, 3), np.uint8), (32, 32), 16
    )
    steps = np.abs(np.diff(output[:, :, 0].astype(int), axis=1))
    assert output.max() - output.min() > 100
    assert steps.max() <= 120 / 16 + 8
    hard = iter(np.tile([60.0, 180.0], 100))
    unblended = run_tiled(
        lambda tile: np.full(tile.shape, next(hard), np.float32), np.zeros((32, 192, 3), np.uint8), (32, 32), 0
    )
    assert np.abs(np.diff(unblended[:, :, 0].astype(int), axis=1)).max() == 120  # the measure does see a seam


def test_output_is_rounded_and_clipped() -> None:
    image = np.full((8, 8, 3), 100, np.uint8)
    assert (run_tiled(lambda t: np.full(t.shape, 300.0, np.float32), image, (8, 8), 2) == 255).all()
    assert (run_tiled(lambda t: np.full(t.shape, -7.0, np.float32), image, (8, 8), 2) == 0).all()
    assert (run_tiled(lambda t: np.full(t.shape, 99.6, np.float32), image, (8, 8), 2) == 100).all()


def test_tiles_are_counted_and_contiguous() -> None:
    seen = []

    def run(tile: np.ndarray) -> np.ndarray:
        assert tile.flags["C_CONTIGUOUS"]
        assert tile.shape == (24, 32, 3)
        return identity(tile)

    run_tiled(run, photo(70, 90), (24, 32), 8, lambda: seen.append(1))
    assert len(seen) == count_tiles(70, 90, (24, 32), 8) == len(starts(70, 24, 8)) * len(starts(90, 32, 8))


def test_peak_memory_does_not_grow_with_the_height() -> None:
    def peak(height: int) -> int:
        image = np.zeros((height, 256, 3), np.uint8)
        tracemalloc.start()
        run_tiled(identity, image, (64, 64), 16)
        top = tracemalloc.get_traced_memory()[1] - image.nbytes  # the 8-bit output is as large as the input
        tracemalloc.stop()
        return top

    assert peak(2048) < peak(512) + 300_000


@pytest.mark.parametrize("shape", [(8192, 200), (200, 8192), (8192, 1), (1, 8192)])
def test_peak_memory_is_bounded_by_the_picture_whatever_its_shape(shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    tracemalloc.start()
    run_tiled(identity, image, (64, 64), 16)
    top = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The output, the rows that tiles share (16 or more of 64, 4 bytes a value), weights, and a few tiles.
    assert top <= 2.5 * image.nbytes + 800_000


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (47, 64), (48, 65), (70, 90), (131, 203)])
@pytest.mark.parametrize(("size", "overlap"), [((48, 64), 0), ((48, 64), 7), ((24, 32), 12), ((64, 16), 8)])
def test_blending_is_the_weighted_sum_in_order_to_the_bit(
    shape: tuple[int, int], size: tuple[int, int], overlap: int
) -> None:
    image = photo(*shape)
    lack = [max(0, tile - side) for tile, side in zip(size, shape, strict=True)]
    padded = np.pad(image, ((0, lack[0]), (0, lack[1]), (0, 0)), mode="reflect")
    rows, columns = (starts(side, tile, overlap) for side, tile in zip(padded.shape, size, strict=False))
    total = np.zeros(padded.shape, np.float32)
    for top, weight in zip(rows, axis_weights(rows, size[0]), strict=True):
        band = np.zeros((size[0], padded.shape[1], 3), np.float32)
        for left, ramp in zip(columns, axis_weights(columns, size[1]), strict=True):
            tile = padded[top : top + size[0], left : left + size[1]]
            band[:, left : left + size[1]] += box_blur(tile) * ramp[None, :, None]
        total[top : top + size[0]] += band * weight[:, None, None]
    expected = np.clip(np.rint(total), 0, 255).astype(np.uint8)[: shape[0], : shape[1]]
    np.testing.assert_array_equal(run_tiled(box_blur, image, size, overlap), expected)


def test_wrong_arrays_are_refused() -> None:
    with pytest.raises(DataError, match="expected"):
        run_tiled(identity, np.zeros((8, 8, 3), np.float32), (8, 8), 0)
