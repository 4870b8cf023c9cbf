from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from pocketvit.data.augment import (
    OPERATIONS,
    color_jitter,
    packed,
    randaugment,
    random_resized_crop,
    settle,
    symmetry,
    vary,
)
from pocketvit.spec.preprocess import Preprocess, prepare
from pocketvit.spec.recipe import TrainConfig
from tests.bad_images import photo

PREPROCESS = Preprocess(size=(32, 48))
IMAGE = photo(90, 120)


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def augment(image: np.ndarray, preprocess: Preprocess, train: TrainConfig, rng: np.random.Generator) -> np.ndarray:
    return vary(settle(image, preprocess, train), preprocess, train, rng)


@pytest.mark.parametrize("turn", range(8))
def test_turned_pixels_are_packed_as_they_are(turn: int) -> None:
    view = symmetry(IMAGE[3:50, 7:40], turn)
    found = packed(view)
    assert np.array_equal(found, view)
    assert found.flags.c_contiguous
    colors_first = np.ascontiguousarray(view.transpose(2, 0, 1)).transpose(1, 2, 0)
    assert np.array_equal(packed(colors_first), view)
    assert packed(found) is found


def test_none_is_the_evaluation_transform_and_flip_its_mirror() -> None:
    expected = prepare(IMAGE, PREPROCESS)
    assert np.array_equal(augment(IMAGE, PREPROCESS, TrainConfig(augment="none"), draw()), expected)
    seen = {augment(IMAGE, PREPROCESS, TrainConfig(augment="flip"), draw(seed)).tobytes() for seed in range(20)}
    assert seen == {expected.tobytes(), np.ascontiguousarray(expected[:, ::-1]).tobytes()}


@pytest.mark.parametrize("name", ["none", "flip", "crop", "randaugment"])
def test_every_choice_gives_the_size_and_repeats(name: str) -> None:
    train = TrainConfig(augment=name, randaugment_magnitude=9)
    first, again = (augment(IMAGE, PREPROCESS, train, draw(5)) for _ in range(2))
    assert first.shape == (32, 48, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    if name != "none":
        assert len({augment(IMAGE, PREPROCESS, train, draw(seed)).tobytes() for seed in range(12)}) > 1


def test_crop_area_and_aspect_lie_in_their_ranges() -> None:
    y, x = np.mgrid[0:200, 0:240]
    coordinates = np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8)  # red is the column, green the row
    spec = Preprocess(size=(40, 40), interpolation="bilinear")
    areas = []
    for seed in range(60):
        crop = random_resized_crop(coordinates, spec, (0.2, 0.4), draw(seed)).astype(float)
        width, height = ((np.ptp(crop[..., c]) * 40 / 39) for c in (0, 1))
        areas.append(width * height / (200 * 240))
        assert 0.70 < width / height < 1.43
    assert min(areas) > 0.18
    assert max(areas) < 0.42
    assert max(areas) - min(areas) > 0.1


def test_crop_of_the_whole_and_of_extreme_shapes() -> None:
    square = photo(64, 64)
    assert random_resized_crop(square, Preprocess(size=(16, 16)), (1.0, 1.0), draw()).shape == (16, 16, 3)
    for shape in ((1, 1), (1, 500), (500, 1), (3, 200)):
        crop = random_resized_crop(photo(*shape), Preprocess(size=(16, 24)), (0.5, 1.0), draw())
        assert crop.shape == (16, 24, 3)


def test_jitter_strength() -> None:
    assert color_jitter(IMAGE, 0.0, draw()) is IMAGE
    weak, strong = (
        np.mean([np.abs(color_jitter(IMAGE, s, draw(seed)).astype(int) - IMAGE).mean() for seed in range(8)])
        for s in (0.05, 0.5)
    )
    assert 0 < weak < 0.3 * strong


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_operations_keep_size_and_grow_with_magnitude(name: str) -> None:
    picture = Image.fromarray(IMAGE)
    weak, strong = (np.asarray(OPERATIONS[name](picture, share, 1.0)).astype(int) for share in (0.1, 1.0))
    assert weak.shape == strong.shape == IMAGE.shape
    if name not in ("identity", "autocontrast", "equalize"):
        assert np.abs(weak - IMAGE).mean() < np.abs(strong - IMAGE).mean()
    if name not in ("autocontrast", "equalize", "solarize"):  # solarize of share 0 leaves white alone only up to 255
        assert np.array_equal(np.asarray(OPERATIONS[name](picture, 0.0, 1.0)), IMAGE)


def test_directions_are_opposite() -> None:
    picture = Image.fromarray(IMAGE)
    left, right = (np.asarray(OPERATIONS["translate_x"](picture, 0.5, sign)) for sign in (1.0, -1.0))
    shift = 150 / 331 * 120 * 0.5  # 27.2 pixels to the left or to the right
    assert np.abs(left[:, 5:80].astype(int) - IMAGE[:, 5 + round(shift) : 80 + round(shift)]).mean() < 8
    assert np.abs(right[:, 40:115].astype(int) - IMAGE[:, 40 - round(shift) : 115 - round(shift)]).mean() < 8
    assert np.abs(left.astype(int) - right).mean() > 30


def test_randaugment_magnitude_matters() -> None:
    changes = [
        np.mean([np.abs(randaugment(IMAGE, m, draw(seed)).astype(int) - IMAGE).mean() for seed in range(40)])
        for m in (1, 25)
    ]
    assert changes[0] < changes[1]
    assert np.array_equal(randaugment(IMAGE, 99, draw(3)), randaugment(IMAGE, 30, draw(3)))


def test_train_fields_reach_the_augmentation() -> None:
    base = TrainConfig(augment="crop", jitter=0.0)
    plain = augment(IMAGE, PREPROCESS, base, draw(1))
    assert not np.array_equal(augment(IMAGE, PREPROCESS, dataclasses.replace(base, jitter=0.5), draw(1)), plain)
    assert not np.array_equal(
        augment(IMAGE, PREPROCESS, dataclasses.replace(base, crop_scale=(0.1, 0.2)), draw(1)), plain
    )


def test_eight_symmetries_are_different_and_complete() -> None:
    tile = photo(8, 8)
    seen = {np.ascontiguousarray(symmetry(tile, k)).tobytes() for k in range(8)}
    assert len(seen) == 8
    assert np.ascontiguousarray(np.flipud(tile)).tobytes() in seen
    assert np.ascontiguousarray(tile.transpose(1, 0, 2)).tobytes() in seen
