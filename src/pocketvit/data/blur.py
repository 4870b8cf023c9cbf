"""Synthetic blur of clean photos: kernels of camera shake and of defocus, and the convolution, in linear light.

One kernel blurs the whole picture: what moves by itself or lies at another depth is left out (GoPro's pairs have it).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pocketvit.data.noise import pick, quantize
from pocketvit.spec.degradation import BlurConfig
from pocketvit.spec.preprocess import Pixels

Kernel = NDArray[np.float32]
_SAMPLES, _LENGTH = 2000, 60.0
"""Of the trajectories that the published constants of the random walk belong to."""


def shake_path(steps: int, anxiety: float, rng: np.random.Generator) -> NDArray[np.complex128]:
    """Where a shaken camera points during the exposure: ``steps`` points of a random walk of constant speed.

    Boracchi & Foi 2012, "Modeling the Performance of Image Restoration From Motion Blur", section II-B, as in Kupyn et
    al. 2018, "DeblurGAN", algorithm 1: inertia, a Gaussian push, a pull back to the start and sudden turns, all in
    proportion to ``anxiety``; 0 is a straight line. Theirs has 2000 points: here each stands for several.
    """
    each = _SAMPLES / steps
    pull, sudden, tremor = rng.random(3) * (0.7, 0.2, 10.0)
    pushes = (anxiety * tremor * math.sqrt(each) * rng.standard_normal((steps, 2))).view(np.complex128)[:, 0].tolist()
    turns = np.where(
        rng.random(steps) < sudden * anxiety * each, -2 * np.exp(1j * (rng.random(steps) - 0.5)), 0
    ).tolist()
    place, direction, path = 0j, complex(np.exp(2j * np.pi * rng.random())), []
    for push, turn in zip(pushes, turns, strict=True):  # of Python's numbers: as fast as drawing them
        path.append(place)
        direction += push + turn * direction - anxiety * pull * each * place
        direction /= abs(direction)
        place += direction * (_LENGTH / steps)
    return np.array(path)


def shake_kernel(blur: BlurConfig, rng: np.random.Generator) -> Kernel:
    """The time that a shaken camera spends on each pixel, its mean in the middle; ``blur.shake_size`` pixels wide."""
    reach = (rng.uniform(*blur.shake_size) - 1) / 2
    half = math.ceil(reach)
    side = 2 * half + 2  # a row and a column more than can be reached
    path = shake_path(64 + 4 * half, rng.uniform(*blur.anxiety), rng)
    path -= path.mean()
    path *= reach / max(np.abs(path.real).max(), np.abs(path.imag).max())
    y, x = path.imag + half, path.real + half
    corner = y.astype(int) * side + x.astype(int)
    down, right = y % 1, x % 1
    # The four pixels around a point share it, which keeps the mean.
    shares = (1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right
    places = corner, corner + 1, corner + side, corner + side + 1
    kernel = np.bincount(np.concatenate(places), np.concatenate(shares), side * side).reshape(side, side)[:-1, :-1]
    return (kernel / kernel.sum()).astype(np.float32)


def defocus_kernel(blur: BlurConfig, rng: np.random.Generator) -> Kernel:
    """A disc, the picture of a point through a round aperture that is out of focus, of ``blur.defocus_size`` pixels.

    Its edge falls off over ``blur.defocus_edge`` pixels; the soft disc of Hendrycks & Dietterich 2019, "Benchmarking
    Neural Network Robustness to Common Corruptions", with a linear edge.
    """
    radius, edge = rng.uniform(*blur.defocus_size) / 2, rng.uniform(*blur.defocus_edge)
    half = math.ceil(radius + edge / 2)
    from_middle = np.arange(-half, half + 1)
    distance = np.hypot(from_middle[:, None], from_middle)
    kernel = np.clip((radius - distance) / edge + 0.5, 0, 1)
    return (kernel / kernel.sum()).astype(np.float32)


KERNELS: dict[str, Callable[[BlurConfig, np.random.Generator], Kernel]] = {
    "shake": shake_kernel,
    "defocus": defocus_kernel,
}


def reach(blur: BlurConfig) -> int:
    """Half the width of the largest kernel that may be drawn, in pixels; 0 where nothing is blurred."""
    sizes = {"shake": blur.shake_size[1] - 1, "defocus": blur.defocus_size[1] + blur.defocus_edge[1]}
    return max(math.ceil(sizes[kind] / 2) for kind in blur.shares()) if blur.probability else 0


def convolve(image: NDArray[np.float32], kernel: Kernel) -> NDArray[np.float32]:
    """Convolve each channel of (H, W, C) with an odd kernel, and leave out the border: (H - h + 1, W - w + 1, C).

    By Fourier transforms of about the picture's size: what comes in from the other side is in the border that is cut.
    """
    (height, width), border = image.shape[:2], kernel.shape[0] - 1
    size = _fast(height), _fast(width)
    planes = np.fft.rfft2(np.moveaxis(image, 2, 0), size) * np.fft.rfft2(kernel, size)
    found = np.fft.irfft2(planes, size)[:, border:height, border:width]
    return np.moveaxis(found, 0, 2).astype(np.float32, copy=False)


@lru_cache(256)
def _fast(length: int) -> int:
    """The next length without a prime factor above 5, which transforms are quick at."""
    return next(n for n in itertools.count(length) if 30**20 % n == 0)


def blurred(image: Pixels, kernel: Kernel, gamma: float) -> Pixels:
    """Convolve (H, W, 3) uint8 pixels that were made linear by the power ``gamma``; smaller by the kernel, as above."""
    linear = convolve(_linear(gamma).take(image), kernel)
    np.clip(linear, 0, 1, out=linear)
    return quantize(255 * linear ** np.float32(1 / gamma))


def draw(blur: BlurConfig, rng: np.random.Generator) -> Kernel | None:
    """A kernel as the recipe has them, ``None`` for a photo that stays sharp (``blur.probability``)."""
    if not blur.probability or rng.random() >= blur.probability:
        return None
    return KERNELS[pick(blur.shares(), rng)](blur, rng)


@lru_cache(4)
def _linear(gamma: float) -> NDArray[np.float32]:
    """Of each 8-bit value, in [0, 1]."""
    return ((np.arange(256) / 255) ** gamma).astype(np.float32)
