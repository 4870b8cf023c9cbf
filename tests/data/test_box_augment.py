"""Boxes go with the photo: where a box lies in a training sample, the thing lies too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pocketvit.data.augment import settle
from pocketvit.data.box_augment import LEAST_SEEN, cut, mirrored, vary_boxes
from pocketvit.data.collections import Collection, load_collection
from pocketvit.data.crops import training_sample
from pocketvit.data.decode import ImageCache
from pocketvit.data.loader import Loader
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import DataConfig, TrainConfig
from tests import detect_data

SPEC = Preprocess(size=(128, 128), resize="stretch")
DATA = DataConfig(layout="yolo")


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    root = detect_data.yolo(tmp_path_factory.mktemp("boxes") / "d", 6)
    return load_collection([str(root)], DATA, "detect", "train")


@pytest.mark.parametrize("augment", ["none", "flip", "crop"])
def test_the_pixels_in_a_box_have_its_colour(collection: Collection, augment: str) -> None:
    train, cache = TrainConfig(augment=augment, jitter=0.0, crop_scale=(0.2, 1.0)), ImageCache()  # type: ignore[arg-type]
    seen = 0
    for epoch in range(6):
        for index in range(len(collection.items)):
            image, truth = training_sample(collection, DATA, SPEC, train, epoch, index, cache)
            assert image.shape == (128, 128, 3)
            assert truth.dtype == np.float32
            for kind, x0, y0, x1, y1 in truth:
                assert 0 <= x0 < x1 <= 1
                assert 0 <= y0 < y1 <= 1
                inner = image[int(y0 * 128) + 4 : int(y1 * 128) - 3, int(x0 * 128) + 4 : int(x1 * 128) - 3]
                colour = inner.reshape(-1, 3).mean(axis=0)
                assert abs(colour - detect_data._COLOURS[int(kind)]).max() < 12
                seen += 1
    assert 25 < seen <= 36


@pytest.mark.parametrize("augment", ["none", "flip", "crop"])
def test_a_box_is_the_box_of_its_pixels(augment: str) -> None:
    """To a pixel of the sample: half of one for what antialiasing mixes at each side, and the rounding of a shrunk
    photo."""
    rng = np.random.default_rng(0)
    train, seen = TrainConfig(augment=augment, jitter=0.0, crop_scale=(0.2, 1.0)), 0  # type: ignore[arg-type]
    for size in ((128, 128), (96, 160), (100, 60)):
        spec = Preprocess(size=size, resize="stretch", interpolation="bilinear")
        for _ in range(40):
            height, width = (int(x) for x in rng.integers(30, 700, 2))
            x0, x1, y0, y1 = (int(x) for side in (width, height) for x in np.sort(rng.choice(side + 1, 2, False)))
            photo = np.zeros((height, width, 3), np.uint8)
            photo[y0:y1, x0:x1] = 255
            truth = np.array([[0, x0 / width, y0 / height, x1 / width, y1 / height]], np.float32)
            image, moved = vary_boxes(settle(photo, spec, train), truth, spec, train, rng)
            assert moved is not None
            for left, top, right, bottom in moved[:, 1:] * np.tile(size[::-1], 2):
                if min(right - left, bottom - top) < 3:
                    continue
                rows, columns = np.nonzero(image[..., 0] > 127)
                found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                np.testing.assert_allclose(found, (left, top, right, bottom), atol=0.75)
                seen += 1
    assert seen > 60


def test_a_sample_is_the_same_for_the_same_epoch_and_differs_between_epochs(collection: Collection) -> None:
    train = TrainConfig(augment="crop")
    one, same, other = (
        training_sample(collection, DATA, SPEC, train, epoch, 2, ImageCache())[1] for epoch in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert one.shape != other.shape or (one != other).any()


def test_a_cut_keeps_what_is_mostly_in_it() -> None:
    boxes = np.array([[0, 0.25, 0.25, 0.75, 0.75], [1, 0.0, 0.0, 0.6, 0.6], [2, 0.0, 0.0, 0.5, 0.3]], np.float32)
    made = cut(boxes, 0.25, 0.25, 0.5)
    assert made[:, 0].tolist() == [0]
    np.testing.assert_allclose(made[0, 1:], [0, 0, 1, 1])
    assert LEAST_SEEN > (0.35 / 0.6) ** 2  # the second one
    assert cut(boxes[:0], 0, 0, 0.5).shape == (0, 5)
    np.testing.assert_allclose(cut(boxes, 0, 0, 1), boxes)


def test_mirrored_twice_is_as_before() -> None:
    boxes = np.array([[1, 0.1, 0.2, 0.4, 0.7]], np.float32)
    np.testing.assert_allclose(mirrored(boxes), [[1, 0.6, 0.2, 0.9, 0.7]], atol=1e-6)
    np.testing.assert_allclose(mirrored(mirrored(boxes)), boxes, atol=1e-6)


def test_batches_fill_up_the_boxes_of_photos_that_have_fewer(collection: Collection) -> None:
    train = TrainConfig(augment="none", batch_size=6)
    ((pixels, boxes),) = Loader(collection, DATA, SPEC, train).epoch(0)
    counts = sorted(len(item.boxes or ()) for item in collection.items)
    assert pixels.shape == (6, 128, 128, 3)
    assert boxes.shape == (6, counts[-1], 5)
    assert boxes.dtype == torch.float32
    assert sorted((boxes[..., 0] >= 0).sum(1).tolist()) == counts


def test_changed_boxes_of_a_file_are_not_taken_from_the_cache(collection: Collection, tmp_path: Path) -> None:
    cache, train = ImageCache(), TrainConfig(augment="none")
    changed = Collection(**{**vars(collection), "items": tuple(_moved(item) for item in collection.items)})
    before, after = (training_sample(x, DATA, SPEC, train, 0, 0, cache)[1] for x in (collection, changed))
    np.testing.assert_allclose(after[:, 1:], before[:, 1:] / 2, atol=1e-6)


def _moved(item):  # type: ignore[no-untyped-def]
    boxes = tuple((k, *(x / 2 for x in sides)) for k, *sides in item.boxes)
    return type(item)(item.path, boxes=boxes)
