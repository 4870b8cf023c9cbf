"""What is measured of each photo and answer, and how far an answer is from those that were expected. NumPy only.

Of a large photo 16 parts are looked at. No statistic can be turned back into a picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.regions import luma, regions
from pocketvit.spec.tasks import TASKS

Floats = NDArray[np.float64]
DISTANCE = "distance"
_HH_SCALE = 2 * 0.6744897501960817
"""Twice the median of the absolute value of a standard normal variable: a sum of four pixels has twice their noise."""
_ROUNDING = 1 / 12
"""Variance that rounding to 8 bits adds."""


@dataclass(frozen=True)
class Statistic:
    """A number that each answered request has."""

    name: str
    unit: str
    meaning: str
    log: bool = False
    """Compared and drawn by its decimal logarithm: it spans orders of magnitude."""

    def scaled(self, value: float) -> float:
        """The value as it is compared."""
        return math.log10(max(value, 1e-6)) if self.log else value

    def plain(self, value: float) -> float:
        """A compared value in the statistic's own unit again."""
        return 10.0**value if self.log else value


OF_PHOTOS = (
    Statistic("brightness", "", "mean luma of the photo, 0 to 255"),
    Statistic("contrast", "", "standard deviation of its luma"),
    Statistic("noise", "", "estimated standard deviation of noise in R, G and B, 0 to 255"),
    Statistic("sharpness", "", "variance of the Laplacian of its luma; noise raises it too", log=True),
)
OF_RUNS = (Statistic("latency", "ms", "reading the photo, inference and writing the answer", log=True),)


def statistics_of(task: str) -> tuple[Statistic, ...]:
    """All statistics of a task's requests, in the order in which they are shown."""
    signs = TASKS[task].signs
    if signs is None:
        return OF_PHOTOS + OF_RUNS
    of_answers = tuple(Statistic(name, "", meaning) for name, meaning in signs.statistics.items())
    distance = Statistic(DISTANCE, "", f"from those of the reference (Mahalanobis), in {signs.embedding}", log=True)
    return (*OF_PHOTOS, *of_answers, distance, *OF_RUNS)


def photo_statistics(image: Pixels) -> dict[str, float]:
    """Brightness, contrast, noise and sharpness of an (H, W, 3) uint8 photo."""
    parts = regions(image)
    planes = luma(parts)
    return {
        "brightness": float(planes.mean()),
        "contrast": float(planes.std()),
        "noise": noise_sigma(parts),
        "sharpness": laplacian_variance(planes),
    }


def noise_sigma(parts: NDArray[np.uint8]) -> float:
    """Standard deviation of the noise of (N, h, w, 3) uint8, 0 to 255, alike in the three channels.

    The median of the absolute diagonal Haar coefficients, in which photos have little but noise (Donoho and Johnstone,
    "Ideal spatial adaptation by wavelet shrinkage", Biometrika 1994, section 2.5), interpolated between the integers
    that 8-bit pixels give. Fine texture counts as noise, JPEG hides some.
    """
    _, height, width, _ = parts.shape
    if min(height, width) < 2:
        return 0.0
    even = parts[:, : height // 2 * 2, : width // 2 * 2].astype(np.int16)
    diagonal = np.abs(even[:, ::2, ::2] - even[:, ::2, 1::2] - even[:, 1::2, ::2] + even[:, 1::2, 1::2])
    counts = np.bincount(diagonal.ravel())
    below = np.cumsum(counts)
    half = below[-1] / 2
    middle = int(np.searchsorted(below, half))
    # The integer k stands for k - 0.5 to k + 0.5; 0 only for half of that.
    low, wide = (middle - 0.5, 1.0) if middle else (0.0, 0.5)
    median = low + wide * (half - (below[middle] - counts[middle])) / counts[middle]
    return math.sqrt(max((median / _HH_SCALE) ** 2 - _ROUNDING, 0.0))


def laplacian_variance(planes: Floats) -> float:
    """Variance of the 5-point Laplacian of (N, h, w): a common measure of focus (Pech-Pacheco et al., ICPR 2000)."""
    if min(planes.shape[1:]) < 3:
        return 0.0
    middle = planes[:, 1:-1, 1:-1]
    around = planes[:, :-2, 1:-1] + planes[:, 2:, 1:-1] + planes[:, 1:-1, :-2] + planes[:, 1:-1, 2:]
    return float((around - 4 * middle).var())


@dataclass(frozen=True)
class Cloud:
    """Where the embeddings of the reference lie: their mean and the inverse of their covariance."""

    mean: Floats
    """(D,)"""
    inverse: Floats
    """(D, D)"""

    @classmethod
    def of(cls, embeddings: Floats) -> Cloud:
        """The cloud of (N, D) embeddings, N at least 2; the covariance is shrunk, so that D may be above N."""
        mean = embeddings.mean(axis=0)
        covariance = shrunk_covariance(embeddings - mean)
        inverse = np.linalg.inv(covariance + 1e-9 * np.eye(len(mean)))
        return cls(mean, np.asarray(inverse, np.float64))

    def distance(self, embedding: Floats) -> float:
        """Mahalanobis distance of (D,), by its dimension: about 1 for what is like the reference."""
        apart = embedding - self.mean
        return math.sqrt(max(float(apart @ self.inverse @ apart), 0.0) / len(apart))


def shrunk_covariance(centred: Floats) -> Floats:
    """(D, D) covariance of centred (N, D) samples, shrunk towards a multiple of the identity.

    Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004, equation 14.
    """
    n, d = centred.shape
    sample = centred.T @ centred / n
    level = np.trace(sample) / d
    spread = float(np.square(sample - level * np.eye(d)).sum()) / d
    squares = float(np.square(np.square(centred).sum(axis=1)).sum())
    error = (squares / n - float(np.square(sample).sum())) / (n * d)
    share = min(error / spread, 1.0) if spread > 0 else 1.0
    return (1 - share) * sample + share * level * np.eye(d)  # type: ignore[no-any-return]


def distances_apart(embeddings: Floats, folds: int = 5) -> Floats:
    """(N,) distance of each of (N, D) embeddings from a cloud of others, which it had no part in."""
    found = np.zeros(len(embeddings))
    part = np.arange(len(embeddings)) % folds
    for fold in range(folds):
        cloud = Cloud.of(embeddings[part != fold])
        found[part == fold] = [cloud.distance(each) for each in embeddings[part == fold]]
    return found


def scaled(statistics: tuple[Statistic, ...], values: Mapping[str, float]) -> dict[str, float]:
    """Values as they are compared, by name; those that are not there are left out."""
    return {each.name: each.scaled(values[each.name]) for each in statistics if each.name in values}
