"""Masks as pictures: classes at a photo's size, tints, lines between classes, the legend."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pocketvit.spec.mask_pictures import classes_at, colours, edges, painted, with_legend

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)


def probabilities(count: int = 4, size: tuple[int, int] = (7, 9), seed: int = 0) -> np.ndarray:
    raw = np.random.default_rng(seed).normal(0, 2, (count, *size))
    return (np.exp(raw) / np.exp(raw).sum(axis=0)).astype(np.float32)


@pytest.mark.parametrize("size", [(40, 60), (7, 9), (13, 9), (5, 8), (1, 1)])
def test_probabilities_are_enlarged_and_then_decided(size: tuple[int, int]) -> None:
    probs = probabilities()
    large = F.interpolate(torch.from_numpy(probs)[None], size=size, mode="bilinear", align_corners=False)[0].numpy()
    found = classes_at(probs, size)
    assert (found.shape, found.dtype) == (size, np.uint8)
    first, second = np.sort(large, axis=0)[[-1, -2]]
    sure = first - second > 1e-5
    np.testing.assert_array_equal(found[sure], large.argmax(axis=0)[sure])
    assert sure.mean() > 0.99


def test_many_classes_that_are_nowhere_change_nothing() -> None:
    probs = probabilities(60, (9, 12))
    probs[3:] *= 0.02
    probs /= probs.sum(axis=0)
    large = F.interpolate(torch.from_numpy(probs)[None], size=(90, 120), mode="bilinear", align_corners=False)[0]
    assert (classes_at(probs, (90, 120)) == large.argmax(0).numpy()).mean() > 0.999


def test_classes_that_are_in_a_corner_alone_are_decided_as_if_they_were_looked_at_everywhere() -> None:
    rng = np.random.default_rng(4)
    for size in ((60, 90), (6, 7), (3, 40), (1, 1)):
        raw = rng.normal(0, 1, (12, 9, 11))
        for k in range(2, 12):
            row, column = rng.integers(0, (7, 9))
            inside = np.zeros((9, 11), bool)
            inside[row : row + 3, column : column + 3] = True
            raw[k] += np.where(inside, 4, -12)
        probs = (np.exp(raw) / np.exp(raw).sum(axis=0)).astype(np.float32)
        large = F.interpolate(torch.from_numpy(probs)[None], size=size, mode="bilinear", align_corners=False)[0].numpy()
        first, second = np.sort(large, axis=0)[[-1, -2]]
        sure = first - second > 1e-5
        np.testing.assert_array_equal(classes_at(probs, size)[sure], large.argmax(axis=0)[sure])


def test_of_equal_classes_the_first_wins() -> None:
    assert classes_at(np.full((3, 2, 2), 1 / 3, np.float32), (5, 5)).max() == 0


def test_colours_differ_and_go_on_for_any_number() -> None:
    assert len({tuple(each) for each in colours(40).tolist()}) == 40
    assert colours(255).shape == (255, 3)
    np.testing.assert_array_equal(colours(3), colours(20)[:3])


def test_a_pixel_is_tinted_and_borders_are_lines() -> None:
    classes = np.zeros((40, 60), np.uint8)
    classes[:, 30:] = 1
    classes[:10] = 255
    picture = painted(PHOTO, classes, 2)
    np.testing.assert_array_equal(picture[:9], PHOTO[:9])
    lines = edges(classes)
    assert lines.sum() == 60 + 30
    assert (picture[lines] == 255).all()
    own = picture[20, 10].astype(int)
    np.testing.assert_array_equal(own, (PHOTO[20, 10].astype(int) * 141 + colours(2)[0].astype(int) * 115 + 128) >> 8)
    assert edges(np.repeat(np.repeat(classes, 40, 0), 40, 1)).sum() == (60 + 30) * 40 * 3, "wider on large photos"


def test_the_legend_names_what_is_large_and_leaves_small_pictures_alone() -> None:
    wide = np.zeros((240, 320, 3), np.uint8)
    labels = ["a\nb", *(f"class {k}" for k in range(12))]
    shares = np.array([0.6, 0.001, *([0.4 / 11] * 11)])
    found = with_legend(wide, labels, shares)
    assert found.shape == wide.shape
    assert not wide.any(), "the picture itself is left alone"
    there = {tuple(each) for each in found.reshape(-1, 3).tolist()}
    table = [tuple(each) for each in colours(13).tolist()]
    assert [k for k, each in enumerate(table) if each in there] == [0, 2, 3, 4, 5, 6, 7, 8]
    assert (with_legend(PHOTO, labels, shares) == PHOTO).all()
