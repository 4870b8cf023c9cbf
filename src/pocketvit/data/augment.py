"""Random changes to training images: crops, flips, colour jitter, RandAugment; every draw from the generator given."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from pocketvit.spec.preprocess import Pixels, Preprocess, nearest, prepare, resize
from pocketvit.spec.recipe import TrainConfig
from pocketvit.spec.tasks.base import Truth

RANDAUGMENT_OPS, RANDAUGMENT_MAX = 2, 30
"""Operations per image and largest magnitude (N and the scale of M in Cubuk et al. 2020)."""
_FILL = (128, 128, 128)
Operation = Callable[[Image.Image, float, float], Image.Image]


def settle(image: Pixels, preprocess: Preprocess, train: TrainConfig) -> Pixels:
    """The part of the augmentation without chance, worth keeping: :func:`vary` makes a training input of its result.

    ``none`` and ``flip`` get the evaluation transform of ``preprocess``. For crops, photos more than half as large
    again as the smallest random crop asks for are shrunk (bicubic, antialiased): more pixels would only cost memory.
    """
    if train.augment in ("none", "flip"):
        return prepare(image, preprocess)
    needed = math.ceil(max(preprocess.size) / math.sqrt(max(train.crop_scale[0], 0.05)))
    height, width = image.shape[:2]
    if min(height, width) <= 1.5 * needed:
        return image
    scale = needed / min(height, width)
    return resize(image, (max(1, round(height * scale)), max(1, round(width * scale))), "bicubic")


def vary(image: Pixels, preprocess: Preprocess, train: TrainConfig, rng: np.random.Generator) -> Pixels:
    """Turn what :func:`settle` gave into a training input of ``preprocess.size`` as ``train.augment`` says.

    ``none`` is the evaluation transform; ``flip`` mirrors it at random; ``crop`` is a random resized crop, flip and
    colour jitter; ``randaugment`` adds RandAugment to that.
    """
    if train.augment in ("none", "flip"):
        return image if train.augment == "none" else _flip(image, rng)
    image = _flip(random_resized_crop(image, preprocess, train.crop_scale, rng), rng)
    image = color_jitter(image, train.jitter, rng)
    return randaugment(image, train.randaugment_magnitude, rng) if train.augment == "randaugment" else image


def vary_map(
    found: tuple[Pixels, Truth | None],
    preprocess: Preprocess,
    train: TrainConfig,
    enlarged: Callable[[Truth, float], Truth],
    rng: np.random.Generator,
) -> tuple[Pixels, Truth | None]:
    """A photo (H, W, 3) and its map (h, w), of one field of view, as a training sample of ``preprocess.size``.

    ``none`` is the evaluation transform; ``flip`` mirrors both at random; ``crop`` also cuts a box, whose area is a
    share ``train.crop_scale`` of the photo, and jitters the photo's colours. The box has the photo's own aspect, so
    that the model sees things stretched as in evaluation; values of the map are never mixed (nearest), and
    ``enlarged`` makes them those of the camera that would have seen the box alone.
    """
    image, truth = found
    box = (0.0, 0.0, 1.0, 1.0)
    if train.augment not in ("none", "flip"):
        share = math.sqrt(rng.uniform(*train.crop_scale))
        left, top = rng.uniform(0, 1 - share, 2)
        box = (left, top, left + share, top + share)
        truth = None if truth is None else enlarged(truth, 1 / share)
    height, width = image.shape[:2]
    part = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    image = resize(image, preprocess.size, preprocess.interpolation, box=None if box[2] - box[0] == 1 else part)
    truth = None if truth is None else nearest(truth, preprocess.size, box)
    if train.augment not in ("none", "flip"):
        image = color_jitter(image, train.jitter, rng)
    if train.augment != "none" and rng.random() < 0.5:
        image, truth = image[:, ::-1], None if truth is None else truth[:, ::-1]
    return np.ascontiguousarray(image), None if truth is None else np.ascontiguousarray(truth)


def random_resized_crop(
    image: Pixels, preprocess: Preprocess, scale: tuple[float, float], rng: np.random.Generator
) -> Pixels:
    """Cut a random box and resize it to ``preprocess.size`` (Szegedy et al. 2015).

    Its area is the share ``scale`` of the image's, its aspect 3/4 to 4/3 of the target's.
    """
    height, width = image.shape[:2]
    target = preprocess.size[1] / preprocess.size[0]
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = target * math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        box_w, box_h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if box_w <= width and box_h <= height:
            break
    else:  # a very long image: the largest centred box of the target's aspect
        box_w, box_h = min(width, height * target), min(height, width / target)
    left, top = rng.uniform(0, 1) * (width - box_w), rng.uniform(0, 1) * (height - box_h)
    box = (left, top, min(width, left + box_w), min(height, top + box_h))
    return resize(image, preprocess.size, preprocess.interpolation, box=box)


def color_jitter(image: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Scale brightness, contrast and saturation, in random order, each by a factor within ``1 +- strength``."""
    if strength <= 0:
        return image
    picture = Image.fromarray(image)
    for index in rng.permutation(3):
        enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[index]
        picture = enhance(picture).enhance(float(rng.uniform(max(0.0, 1 - strength), 1 + strength)))
    return np.asarray(picture)


def randaugment(image: Pixels, magnitude: int, rng: np.random.Generator) -> Pixels:
    """Apply ``RANDAUGMENT_OPS`` random operations of the table at ``magnitude`` (0 to 30, larger is stronger)."""
    share = min(max(magnitude, 0), RANDAUGMENT_MAX) / RANDAUGMENT_MAX
    picture = Image.fromarray(image)
    for name in rng.choice(list(OPERATIONS), size=RANDAUGMENT_OPS):
        picture = OPERATIONS[name](picture, share, 1.0 if rng.random() < 0.5 else -1.0)
    return np.asarray(picture)


def symmetry(image: Pixels, which: int) -> Pixels:
    """One of the eight flips and quarter turns of the square; ``which`` 0 to 7. Returns a view."""
    image = np.rot90(image, which % 4)
    return image[:, ::-1] if which >= 4 else image


def packed(image: Pixels) -> Pixels:
    """A C-contiguous (H, W, 3) copy of a turned or flipped view, pixel by pixel: twice as fast as byte by byte."""
    if image.flags.c_contiguous or image.strides[2] != 1:
        return np.ascontiguousarray(image)
    return np.ascontiguousarray(image.view("V3")).view(np.uint8).reshape(image.shape)


def _flip(image: Pixels, rng: np.random.Generator) -> Pixels:
    return np.ascontiguousarray(image[:, ::-1]) if rng.random() < 0.5 else image


def _affine(picture: Image.Image, matrix: tuple[float, float, float, float, float, float]) -> Image.Image:
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=_FILL)


def _enhanced(enhance: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda picture, share, sign: enhance(picture).enhance(1 + 0.9 * share * sign)


# Ranges as in torchvision's RandAugment; share is magnitude / 30, sign is drawn for operations with a direction.
OPERATIONS: dict[str, Operation] = {
    "identity": lambda p, share, sign: p,
    "shear_x": lambda p, share, sign: _affine(p, (1, 0.3 * share * sign, 0, 0, 1, 0)),
    "shear_y": lambda p, share, sign: _affine(p, (1, 0, 0, 0.3 * share * sign, 1, 0)),
    "translate_x": lambda p, share, sign: _affine(p, (1, 0, 150 / 331 * p.width * share * sign, 0, 1, 0)),
    "translate_y": lambda p, share, sign: _affine(p, (1, 0, 0, 0, 1, 150 / 331 * p.height * share * sign)),
    "rotate": lambda p, share, sign: p.rotate(30 * share * sign, Image.Resampling.BILINEAR, fillcolor=_FILL),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "color": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "posterize": lambda p, share, sign: ImageOps.posterize(p, 8 - round(4 * share)),
    "solarize": lambda p, share, sign: ImageOps.solarize(p, round(255 * (1 - share))),
    "autocontrast": lambda p, share, sign: ImageOps.autocontrast(p),
    "equalize": lambda p, share, sign: ImageOps.equalize(p),
}
