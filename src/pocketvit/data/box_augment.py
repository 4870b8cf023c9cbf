"""Random changes to a photo with boxes: the boxes go with what is cut and flipped."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pocketvit.data.augment import color_jitter
from pocketvit.spec.preprocess import Pixels, Preprocess, resize
from pocketvit.spec.recipe import TrainConfig
from pocketvit.spec.tasks.base import Truth

LEAST_SEEN = 0.4
"""Share of a box that must lie in a cut for it to be kept: of less nobody could say what it is."""


def vary_boxes(
    image: Pixels, truth: Truth | None, preprocess: Preprocess, train: TrainConfig, rng: np.random.Generator
) -> tuple[Pixels, Truth | None]:
    """What ``data.augment.settle`` gave and its boxes (N, 5), as a training sample of ``preprocess.size``.

    ``none`` is the evaluation transform; ``flip`` mirrors both at random; ``crop`` also cuts a part of the photo, whose
    area is a share ``train.crop_scale`` of it and whose aspect is the photo's own, and jitters its colours.
    """
    if train.augment not in ("none", "flip"):
        share = math.sqrt(rng.uniform(*train.crop_scale))
        left, top = (float(x) for x in rng.uniform(0, 1 - share, 2))
        height, width = image.shape[:2]
        part = (left * width, top * height, (left + share) * width, (top + share) * height)
        image = resize(image, preprocess.size, preprocess.interpolation, box=part)
        image = color_jitter(image, train.jitter, rng)
        truth = None if truth is None else cut(truth, left, top, share)
    if train.augment != "none" and rng.random() < 0.5:
        image, truth = np.ascontiguousarray(image[:, ::-1]), None if truth is None else mirrored(truth)
    return image, truth


def cut(boxes: NDArray[np.floating], left: float, top: float, share: float) -> NDArray[np.float32]:
    """Boxes (N, 5) in shares of the part that begins at ``left`` and ``top`` and has ``share`` of width and height;
    without those of which less than ``LEAST_SEEN`` lies in it."""
    corner = np.array([left, top, left, top])
    moved = (boxes[:, 1:] - corner) / share
    inside = np.clip(moved, 0.0, 1.0)
    areas = [np.prod(x[:, 2:] - x[:, :2], axis=1) for x in (inside, moved)]
    kept = areas[0] >= LEAST_SEEN * np.maximum(areas[1], 1e-12)
    return np.concatenate([boxes[kept, :1], inside[kept]], axis=1).astype(np.float32)


def mirrored(boxes: NDArray[np.floating]) -> NDArray[np.float32]:
    """Boxes (N, 5) of the photo with left and right exchanged."""
    left, right = 1 - boxes[:, 3], 1 - boxes[:, 1]
    return np.stack([boxes[:, 0], left, boxes[:, 2], right, boxes[:, 4]], axis=1).astype(np.float32)
