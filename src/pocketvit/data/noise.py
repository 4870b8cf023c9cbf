"""Synthetic noise on 8-bit pixels, rounded and clipped to 0..255 as in the files that cameras write."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pocketvit.spec.preprocess import Pixels


def quantize(values: NDArray[np.floating]) -> Pixels:
    """Round to the nearest integer and clip to 0..255, uint8. ``values`` may be changed in place."""
    return np.clip(np.rint(values, out=values), 0, 255, out=values).astype(np.uint8)


def pick(shares: Mapping[str, float], rng: np.random.Generator) -> str:
    """One of the kinds, by shares that sum to 1."""
    return list(shares)[int(rng.choice(len(shares), p=list(shares.values())))]


def add_gaussian(image: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    """Add Gaussian noise of deviation ``sigma`` (0..255 scale), independent per pixel and channel, in float32."""
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    noise *= np.float32(sigma)
    noise += image
    return quantize(noise)


def add_poisson_gaussian(image: Pixels, sigma: float, shot: float, rng: np.random.Generator) -> Pixels:
    """Add sensor noise of variance ``shot * x + (sigma / 255)**2`` at signal ``x`` in [0, 1].

    The Poisson part is drawn from the Gaussian of the same mean and variance (the heteroscedastic model of Foi et al.
    2008), which is eight times faster to draw and differs only in the darkest pixels.
    """
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    noise *= np.sqrt(np.float32(shot * 255.0) * image + np.float32(sigma * sigma))
    noise += image
    return quantize(noise)
