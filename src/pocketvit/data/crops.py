"""Training samples as a pure function of (recipe, epoch, index): in one process, in many and after a resume."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pocketvit.data.augment import packed, settle, symmetry, vary, vary_map
from pocketvit.data.box_augment import vary_boxes
from pocketvit.data.collections import Collection
from pocketvit.data.decode import Decoded, ImageCache
from pocketvit.data.degrade import degrade, margin
from pocketvit.spec.preprocess import Pixels, Preprocess
from pocketvit.spec.recipe import DataConfig, TrainConfig
from pocketvit.spec.tasks import task_of

BLOCK_BYTES, MIN_BLOCK_IMAGES = 64_000_000, 16
"""Crops are mixed within blocks of about so many bytes of image files (at least so many images), so that photos too
large for the cache are decoded once per epoch while small collections are shuffled as a whole."""
ORDER, SAMPLE = 1, 2
"""Streams of random numbers. A seed is (seed, stream, ...): NumPy pads seeds with zeros, so that without the stream
(seed, epoch) and (seed, epoch, 0) would be one and the same."""

CACHE = ImageCache()
"""Decoded images of this process."""


def epoch_length(collection: Collection, data: DataConfig) -> int:
    """Samples per epoch: images, times ``data.patches_per_image`` where samples are crops."""
    return len(collection.items) * _per_image(collection, data)


def epoch_order(collection: Collection, data: DataConfig, train: TrainConfig, epoch: int) -> NDArray[np.int64]:
    """Sample indices of an epoch in training order: a permutation by the files, ``train.seed`` and ``epoch`` alone."""
    rng, per_image = _draw(train, ORDER, epoch), _per_image(collection, data)
    images = rng.permutation(len(collection.items))
    if per_image == 1:
        return images
    # A file that has vanished since is named by the DataError of the one who decodes it.
    mean_bytes = sum(item.path.stat().st_size for item in collection.items if item.path.exists()) / len(images)
    size = max(MIN_BLOCK_IMAGES, int(BLOCK_BYTES / max(mean_bytes, 1)))
    blocks = [images[i : i + size] for i in range(0, len(images), size)]
    samples = ((block[:, None] * per_image + np.arange(per_image)).ravel() for block in blocks)
    return np.concatenate([rng.permutation(each) for each in samples])


def training_sample(
    collection: Collection,
    data: DataConfig,
    preprocess: Preprocess,
    train: TrainConfig,
    epoch: int,
    index: int,
    cache: ImageCache | None = None,
) -> tuple[Pixels, NDArray[np.generic]]:
    """Sample ``index`` of an epoch: (input, target), (H, W, 3) uint8 and what the task's record calls its ``truth``.

    Geometry ``image``: the augmented photo at ``preprocess.size``. Geometry ``pixels``: a crop (patch, patch, 3) at
    native resolution, flipped and turned like its ground truth; images smaller than the patch are padded by reflection.
    Geometry ``maps``: the same part of photo and map, both at ``preprocess.size``, flipped together.
    Geometry ``boxes``: a part of the photo at ``preprocess.size``, with the boxes that lie in it.
    Raises DataError: the image cannot be decoded.
    """
    cache, record = cache if cache is not None else CACHE, task_of(collection.task)
    rng, item = _draw(train, SAMPLE, epoch, index), collection.items[index // _per_image(collection, data)]
    degraded = collection.degraded and item.clean is None  # a pair among clean photos stays as it is
    if record.geometry == "image":
        tag = (preprocess, train.augment, train.crop_scale)
        image, clean = cache.get(collection, item, lambda found: (settle(found[0], preprocess, train), found[1]), tag)
        image = vary(image, preprocess, train, rng)
    elif record.geometry == "maps":
        image, clean = vary_map(cache.get(collection, item), preprocess, train, record.partner.enlarged, rng)
    elif record.geometry == "boxes":
        tag = (preprocess, train.augment, train.crop_scale)
        found = cache.get(collection, item, lambda found: (settle(found[0], preprocess, train), found[1]), tag)
        image, clean = vary_boxes(*found, preprocess, train, rng)
    else:
        around = margin(data) if degraded else 0
        image, clean = _crop(cache.get(collection, item), data.patch + 2 * around, train, rng)
    if degraded:
        image, clean = degrade(image, data, rng)
    elif record.geometry == "pixels":
        image, clean = packed(image), None if clean is None else packed(clean)
    return image, record.truth(image, clean, item.labels)


def _per_image(collection: Collection, data: DataConfig) -> int:
    return data.patches_per_image if task_of(collection.task).geometry == "pixels" else 1


def _crop(decoded: Decoded, patch: int, train: TrainConfig, rng: np.random.Generator) -> Decoded:
    """A crop of both, as views: turned pixels are slow to copy, and few of a wide margin are used."""
    image, clean = decoded
    top, left = (int(rng.integers(max(1, length - patch + 1))) for length in image.shape[:2])
    turn = 0 if train.augment == "none" else int(rng.integers(8))
    return _cut(image, top, left, patch, turn), None if clean is None else _cut(clean, top, left, patch, turn)


def _cut(image: Pixels, top: int, left: int, patch: int, turn: int) -> Pixels:
    crop = image[top : top + patch, left : left + patch]
    short = [max(0, patch - length) for length in crop.shape[:2]]
    if any(short):
        crop = np.pad(crop, ((0, short[0]), (0, short[1]), (0, 0)), mode="reflect")
    return symmetry(crop, turn)


def _draw(train: TrainConfig, stream: int, *parts: int) -> np.random.Generator:
    return np.random.default_rng((train.seed & 0xFFFFFFFF, stream, *parts))
