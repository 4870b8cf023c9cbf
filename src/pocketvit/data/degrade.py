"""Clean photos made worse, with what the model should answer: for training crops, and for evaluation whole.

A kind of noise is a function of (image, recipe's ``data``, generator) to (noisy, truth), all (H, W, 3) uint8 of one
size, and a row of :data:`KINDS`. Every draw comes from the generator.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pocketvit.data import blur, camera
from pocketvit.data.augment import packed
from pocketvit.data.noise import add_gaussian, add_poisson_gaussian, pick, quantize
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.recipe import DataConfig

Pair = tuple[Pixels, Pixels]
BORDER = 8
"""Pixels around a crop that filters need and that are cut off at last."""
_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


def _sigma(data: DataConfig, rng: np.random.Generator) -> float:
    if data.sigma_spacing == "log":
        return math.exp(rng.uniform(*np.log(data.sigma)))
    return rng.uniform(*data.sigma)


def _gaussian(image: Pixels, data: DataConfig, rng: np.random.Generator) -> Pair:
    return add_gaussian(image, _sigma(data, rng), rng), image


def _poisson(image: Pixels, data: DataConfig, rng: np.random.Generator) -> Pair:
    return add_poisson_gaussian(image, _sigma(data, rng), rng.uniform(*data.shot), rng), image


def _camera(image: Pixels, data: DataConfig, rng: np.random.Generator) -> Pair:
    settings = data.camera
    noisy, clean = camera.develop(image, settings, rng)
    if rng.random() < settings.smooth:
        spans = rng.uniform(*settings.smooth_luma), rng.uniform(*settings.smooth_color)
        noisy = clean + camera.smooth_noise(noisy - clean, *spans)
    return _finished(noisy, clean, data, settings.sharpen, settings.jpeg, rng)


def _correlated(image: Pixels, data: DataConfig, rng: np.random.Generator) -> Pair:
    settings, clean = data.correlated, camera.to_unit(image)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    noise = camera.smooth_noise(noise, rng.uniform(*settings.luma), rng.uniform(*settings.color))
    noise *= np.float32(math.exp(rng.uniform(*np.log(settings.sigma))) / 255 / max(_deviation(noise), 1e-6))
    if rng.random() < settings.signal:
        noise *= (0.3 + clean.mean(2, keepdims=True)) ** np.float32(rng.uniform(-0.5, 0.5))
    return _finished(clean + noise, clean, data, settings.sharpen, settings.jpeg, rng)


def _deviation(noise: camera.Floats) -> float:
    """As ``noise.std()``, which makes two more pictures on the way."""
    values = camera.planes(noise).ravel()
    return math.sqrt(max(float(values @ values) / values.size - float(values.mean()) ** 2, 0.0))


def _finished(
    noisy: camera.Floats, clean: camera.Floats, data: DataConfig, sharpen: float, jpeg: float, rng: np.random.Generator
) -> Pair:
    """What comes last in a camera: sharpening, of both, and a JPEG file, of the noisy one."""
    settings = data.camera
    if rng.random() < sharpen:
        amount, deviation = rng.uniform(*settings.sharpen_by), rng.uniform(0.5, 1.2)
        if rng.random() < settings.sharpen_truth:
            noisy, clean = (camera.sharpen(each, amount, deviation) for each in (noisy, clean))
        else:  # edges alone
            noisy = noisy + camera.halo(clean, amount, deviation)
    degraded, truth = quantize(noisy * 255), quantize(clean * 255)
    if rng.random() < jpeg:
        quality = int(rng.integers(settings.quality[0], settings.quality[1] + 1))
        degraded = camera.jpeg(degraded, quality, subsampled=bool(rng.random() < settings.subsampling))
    return degraded, truth


Apply = Callable[[Pixels, np.random.Generator], Pair]
Kind = Callable[[Pixels, DataConfig, np.random.Generator], Pair]
KINDS: dict[str, Kind] = {
    "none": lambda image, data, rng: (image, image),
    "gaussian": _gaussian,
    "poisson": _poisson,
    "correlated": _correlated,
    "camera": _camera,
}


def shares(data: DataConfig) -> dict[str, float]:
    """Kinds of noise of the recipe and their shares of the samples, the most frequent first."""
    return data.mixture.shares() if data.noise == "mixture" else {data.noise: 1.0}


def rescaling(kind: str, data: DataConfig) -> float:
    """Share of the samples of a kind that are rescaled before noise is added."""
    return {"camera": data.camera.rescale, "correlated": data.correlated.rescale}.get(kind, 0.0)


def margin(data: DataConfig) -> int:
    """Pixels on each side of a crop that :func:`degrade` needs beyond ``data.patch``."""
    kinds, side = shares(data), data.patch + 2 * _border(data)
    smallest = min(1.0, data.camera.rescale_by[0]) if any(rescaling(kind, data) for kind in kinds) else 1.0
    return math.ceil((side / smallest - data.patch) / 2)


def _border(data: DataConfig) -> int:
    """Pixels on each side that blur and filters need once a sample has its size."""
    return blur.reach(data.blur) + (BORDER if {"camera", "correlated"} & set(shares(data)) else 0)


def degrade(region: Pixels, data: DataConfig, rng: np.random.Generator) -> Pair:
    """Degraded crop and truth, (patch, patch, 3) uint8, of a clean crop with :func:`margin` pixels on each side.

    ``region`` may be a view that is turned or flipped: only what is needed of it is copied.
    """
    kinds, around = shares(data), margin(data)
    kind = pick(kinds, rng) if len(kinds) > 1 else next(iter(kinds))
    if not around:
        return KINDS[kind](packed(region), data, rng)
    border, reach = _border(data), blur.reach(data.blur)
    side = data.patch + 2 * border
    if rng.random() < rescaling(kind, data):
        image = _rescaled(region, side, data, rng)
    else:
        image = packed(_middle(region, around - border))
    kernel, sharp, noise = blur.draw(data.blur, rng), _middle(image, reach), _drawn(kind, data)
    if kernel is None:
        degraded, truth = noise(sharp, rng)
    else:
        soft = blur.blurred(_middle(image, reach - kernel.shape[0] // 2), kernel, data.blur.gamma)
        degraded, truth = _followed(sharp, soft, noise, rng)
    cut = border - reach
    return np.ascontiguousarray(_middle(degraded, cut)), np.ascontiguousarray(_middle(truth, cut))


def _middle(image: Pixels, border: int) -> Pixels:
    return image[border : image.shape[0] - border, border : image.shape[1] - border]


def _followed(sharp: Pixels, soft: Pixels, noise: Apply, rng: np.random.Generator) -> Pair:
    """Noise on a blurred photo; the truth is what the same camera makes of the sharp one."""
    again = copy.deepcopy(rng)
    degraded, truth = noise(soft, rng)
    return degraded, sharp if truth is soft else noise(sharp, again)[1]


def _rescaled(region: Pixels, side: int, data: DataConfig, rng: np.random.Generator) -> Pixels:
    """The middle of a region, reduced by averaging squares and then enlarged: (side, side, 3)."""
    low, high = data.camera.reduce
    times, factor = int(rng.integers(low, high + 1)), rng.uniform(*data.camera.rescale_by)
    small = [-(-length // times) for length in region.shape[:2]]
    size = min(*small, side / factor / times)
    kind = _FILTERS[int(rng.integers(len(_FILTERS)))]
    # Only the squares that the filter sees are averaged: it reaches three of its pixels beyond the middle.
    beyond = math.ceil(3 * max(1.0, size / side)) + 1
    starts = [(length - size) / 2 for length in small]
    first = [max(0, math.floor(start) - beyond) for start in starts]
    last = [math.ceil(start + size) + beyond for start in starts]
    seen = region[first[0] * times : last[0] * times, first[1] * times : last[1] * times]
    top, left = (start - skipped for start, skipped in zip(starts, first))
    middle = Image.fromarray(packed(seen)).reduce(times)
    return np.asarray(middle.resize((side, side), kind, box=(left, top, left + size, top + size)))


@dataclass(frozen=True)
class Condition:
    """One way in which evaluation photos are degraded."""

    name: str
    """In the names of metrics, e.g. ``sigma25``."""
    apply: Apply


def conditions(data: DataConfig) -> list[Condition]:
    """How photos are degraded to evaluate a model of this recipe, in order; the generator is one for all photos.

    Gaussian noise at every level of ``data.eval_sigma``, rounded to 8 bits; with ``poisson``, shot noise of the middle
    of ``data.shot`` is added. Other kinds are drawn as in training, without rescaling. Where photos are blurred, each
    of these comes after each kind of blur: ``shake-sigma5``, and ``shake`` where ``data.noise`` is none.
    """
    noises = [condition for kind in shares(data) for condition in _noises(kind, data)]
    if not data.blur.probability:
        return noises
    return [_blurred(kind, noise, data) for kind in data.blur.shares() for noise in noises]


def main_of(data: DataConfig) -> Condition:
    """The condition of the main metric: of the most frequent kinds, the middle one of ``data.eval_sigma``."""
    return conditions(data)[len(_noises(next(iter(shares(data))), data)) // 2]


def _noises(kind: str, data: DataConfig) -> list[Condition]:
    if kind in ("camera", "correlated"):
        return [Condition(kind, _drawn(kind, data))]
    if kind == "none":
        return [Condition("" if data.blur.probability else "clean", _drawn(kind, data))]
    shot = (data.shot[0] + data.shot[1]) / 2 if kind == "poisson" else None
    return [_level(sigma, shot) for sigma in data.eval_sigma]


def _blurred(kind: str, noise: Condition, data: DataConfig) -> Condition:
    def apply(clean: Pixels, rng: np.random.Generator) -> Pair:
        kernel = blur.KERNELS[kind](data.blur, rng)
        edge = (kernel.shape[0] // 2,) * 2
        wider = np.pad(clean, (edge, edge, (0, 0)), mode="symmetric")
        return _followed(clean, blur.blurred(wider, kernel, data.blur.gamma), noise.apply, rng)

    return Condition("-".join(filter(None, (kind, noise.name))), apply)


def _drawn(kind: str, data: DataConfig) -> Apply:
    return lambda image, rng: KINDS[kind](image, data, rng)


def _level(sigma: float, shot: float | None) -> Condition:
    def apply(clean: Pixels, rng: np.random.Generator) -> Pair:
        if shot is not None:
            return add_poisson_gaussian(clean, sigma, shot, rng), clean
        return quantize(clean + rng.normal(0, sigma, clean.shape)), clean

    return Condition(f"sigma{sigma:g}" + ("" if shot is None else f"shot{shot:g}"), apply)
