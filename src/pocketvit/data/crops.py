"""Training samples as a pure function of (recipe, epoch, index): the same on one process, in many and after a resume."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pocketvit.data.augment import augment, symmetry
from pocketvit.data.collections import Collection
from pocketvit.data.decode import ImageCache
from pocketvit.data.noise import add_noise
from pocketvit.spec.preprocess import Pixels, Preprocess
from pocketvit.spec.recipe import DataConfig, TrainConfig

BLOCK_BYTES, MIN_BLOCK_IMAGES = 64_000_000, 16
"""Crops are mixed within blocks of about so many bytes of image files (at least so many images), so that photos too large
for the cache are decoded once per epoch while small collections are shuffled as a whole."""

CACHE = ImageCache()
"""Decoded images of this process."""


def epoch_length(collection: Collection, data: DataConfig) -> int:
    """Samples per epoch: images, for restore times ``data.patches_per_image``."""
    return len(collection.items) * (data.patches_per_image if collection.task == "restore" else 1)


def epoch_order(collection: Collection, data: DataConfig, train: TrainConfig, epoch: int) -> NDArray[np.int64]:
    """Sample indices of an epoch in training order: a permutation that depends on the collection's files, ``train.seed`` and ``epoch`` alone."""
    rng = np.random.default_rng(_seed(train, epoch))
    images = rng.permutation(len(collection.items))
    per_image = epoch_length(collection, data) // len(collection.items)
    if per_image == 1:
        return images
    # A file that has vanished since is named by the DataError of the one who decodes it.
    mean_bytes = sum(item.path.stat().st_size for item in collection.items if item.path.exists()) / len(images)
    size = max(MIN_BLOCK_IMAGES, int(BLOCK_BYTES / max(mean_bytes, 1)))
    blocks = [images[i : i + size] for i in range(0, len(images), size)]
    return np.concatenate(
        [rng.permutation((block[:, None] * per_image + np.arange(per_image)).ravel()) for block in blocks]
    )


def training_sample(
    collection: Collection,
    data: DataConfig,
    preprocess: Preprocess,
    train: TrainConfig,
    epoch: int,
    index: int,
    cache: ImageCache | None = None,
) -> tuple[Pixels, NDArray[np.uint8] | NDArray[np.int64]]:
    """Sample ``index`` of an epoch: (input, target).

    Returns:
        restore: noisy and clean crop, each (patch, patch, 3) uint8 at native resolution, flipped and turned alike; images
        smaller than the patch are padded by reflection. classify: (H, W, 3) uint8 at ``preprocess.size`` and (levels,) int64.

    Raises:
        DataError: the image cannot be decoded.
    """
    cache = cache if cache is not None else CACHE
    rng = np.random.default_rng(_seed(train, epoch, index))
    if collection.task == "classify":
        item = collection.items[index]
        image, _ = cache.get(collection, item, _short_side(preprocess, train))
        return augment(image, preprocess, train, rng), np.asarray(item.labels, np.int64)
    image, clean = cache.get(collection, collection.items[index // data.patches_per_image])
    top, left = (int(rng.integers(max(1, length - data.patch + 1))) for length in image.shape[:2])
    turn = 0 if train.augment == "none" else int(rng.integers(8))
    noisy = _cut(image, top, left, data.patch, turn)
    if clean is None:
        return add_noise(noisy, data, rng), noisy
    return noisy, _cut(clean, top, left, data.patch, turn)


def _cut(image: Pixels, top: int, left: int, patch: int, turn: int) -> Pixels:
    crop = image[top : top + patch, left : left + patch]
    short = [max(0, patch - length) for length in crop.shape[:2]]
    if any(short):
        crop = np.pad(crop, ((0, short[0]), (0, short[1]), (0, 0)), mode="reflect")
    return np.ascontiguousarray(symmetry(crop, turn))


def _short_side(preprocess: Preprocess, train: TrainConfig) -> int:
    """Short side at which even the smallest random crop still has the model's resolution; larger photos only cost memory."""
    smallest = train.crop_scale[0] if train.augment in ("crop", "randaugment") else preprocess.crop_pct**2
    return math.ceil(max(preprocess.size) / math.sqrt(max(smallest, 0.05)))


def _seed(train: TrainConfig, *parts: int) -> tuple[int, ...]:
    return (train.seed & 0xFFFFFFFF, *parts)
