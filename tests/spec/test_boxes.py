"""Overlap, peaks and suppression of boxes against plain loops, and how boxes are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from pocketvit.spec.boxes import COLOURS, drawn, overlaps, peaks, suppressed


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1)
    return corners.reshape(count, 4)


def test_overlap_is_intersection_over_union() -> None:
    a = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 5, 5]], float)
    np.testing.assert_allclose(overlaps(a, a[:2]), [[1, 1 / 7], [1 / 7, 1], [0, 0]])
    assert overlaps(a[:0], a).shape == (0, 3)


def test_overlap_equals_a_count_of_points() -> None:
    boxes = random_boxes(np.random.default_rng(0), 6)
    y, x = (np.mgrid[0:500, 0:500] + 0.5) / 500
    masks = [(x >= a) & (x < c) & (y >= b) & (y < d) for a, b, c, d in boxes]
    counted = [[np.sum(m & n) / max(1, np.sum(m | n)) for n in masks] for m in masks]
    np.testing.assert_allclose(overlaps(boxes, boxes), counted, atol=0.02)


def test_peaks_are_the_places_that_no_neighbour_exceeds() -> None:
    heat = np.random.default_rng(1).uniform(0, 1, (3, 7, 5))
    wanted = []
    for k, row, column in np.ndindex(heat.shape):
        around = heat[k, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        if heat[k, row, column] >= max(0.3, around.max()):
            wanted.append((heat[k, row, column], (k, row, column)))
    places = [place for _, place in sorted(wanted, reverse=True)]
    assert list(zip(*(x.tolist() for x in peaks(heat, 0.3, 100)), strict=True)) == places
    assert list(zip(*(x.tolist() for x in peaks(heat, 0.3, 2)), strict=True)) == places[:2]


def test_equal_neighbours_are_all_peaks_in_the_order_of_memory() -> None:
    heat = np.zeros((1, 3, 3))
    heat[0, 1, :2] = 0.5
    assert [x.tolist() for x in peaks(heat, 0.1, 9)] == [[0, 0], [1, 1], [0, 1]]


def test_only_a_box_of_its_own_class_suppresses_one() -> None:
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, 0.9], [0, 0, 1, 0.9], [0, 0, 1, 0.5]])
    assert suppressed(boxes, np.array([0, 0, 1, 0]), 0.6) == [0, 2, 3]
    assert suppressed(boxes, np.array([0, 0, 1, 0]), 0.95) == [0, 1, 2, 3]
    assert suppressed(boxes[:0], np.zeros(0, np.int64), 0.6) == []


def test_frames_lie_on_the_box_in_the_colour_of_the_class() -> None:
    photo = np.full((80, 100, 3), 90, np.uint8)
    picture = drawn(photo, np.array([[0.5, 0.5, 0.9, 0.75]]), [""], [14])
    changed = np.argwhere((picture != photo).any(axis=2))
    assert changed.min(axis=0).tolist() == [40, 50]
    assert changed.max(axis=0).tolist() == [59, 89]
    assert tuple(picture[40, 50]) == COLOURS[2]
    assert (picture[50, 70] == 90).all()


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (0.999, 0.999, 1, 1), (0, 0, 0.001, 0.001)])
def test_boxes_at_the_edges_and_long_labels_can_be_drawn(box: tuple[float, ...]) -> None:
    picture = drawn(np.zeros((40, 50, 3), np.uint8), np.array([box]), ["a very long label 99 %"], [0])
    assert picture.shape == (40, 50, 3)
    assert picture.any()
