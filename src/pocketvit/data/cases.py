"""Evaluation cases: what the model gets and what it should answer, always the same for the same files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.data.collections import Collection, Item
from pocketvit.data.decode import read_item
from pocketvit.data.noise import add_poisson_gaussian, quantize
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.recipe import DataConfig
from pocketvit.spec.tasks import task_of


@dataclass(frozen=True)
class Case:
    """One question with its answer."""

    image: Pixels
    """(H, W, 3) uint8 RGB as the model's user has it."""
    truth: NDArray[Any]
    """What the record of the task calls the truth of the image."""
    condition: str
    """Which averages the case belongs to, e.g. ``sigma25``; empty for real data."""
    path: Path


def main_condition(data: DataConfig, task: str) -> str:
    """Condition of the main metric: where photos are degraded the middle of ``data.eval_sigma``, e.g. ``sigma25``."""
    if data.layout != "clean" or not task_of(task).degrades:
        return ""
    return condition_name(data, data.eval_sigma[len(data.eval_sigma) // 2])


def condition_name(data: DataConfig, sigma: float) -> str:
    """``sigma25``; with shot noise ``sigma25shot0.01``."""
    shot = f"shot{_shot(data):g}" if data.noise == "poisson" else ""
    return f"sigma{sigma:g}{shot}"


def eval_cases(collection: Collection, data: DataConfig, limit: int | None = None) -> Iterator[Case]:
    """Yield the cases of a collection one by one, decoding each image when it is due.

    Degraded photos follow the 8-bit protocol: for each sigma in ``data.eval_sigma`` a fresh ``default_rng(0)`` runs
    through the images in order and noisy = clip(round(clean + noise), 0, 255). With ``poisson`` noise, shot noise of
    the middle of ``data.shot`` is added.

    At most ``limit`` images are taken, evenly spread over the collection, so that all classes have their share.
    Raises DataError: an image cannot be read, or the images of a pair differ in size.
    """
    items, truth = spread(collection.items, limit), task_of(collection.task).truth
    for sigma in data.eval_sigma if collection.degraded else (None,):
        rng, condition = np.random.default_rng(0), "" if sigma is None else condition_name(data, sigma)
        for item in items:
            image, clean = read_item(collection, item)
            if sigma is not None:
                image, clean = _degrade(image, data, sigma, rng), image
            yield Case(image, truth(image, clean, item.labels), condition, item.path)


def spread(items: Sequence[Item], limit: int | None) -> Sequence[Item]:
    """At most ``limit`` items, evenly spaced, in order."""
    if limit is None or limit >= len(items):
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, max(limit, 1)).round().astype(int)]


def _degrade(clean: Pixels, data: DataConfig, sigma: float, rng: np.random.Generator) -> Pixels:
    if data.noise == "poisson":
        return add_poisson_gaussian(clean, sigma, _shot(data), rng)
    return quantize(clean + rng.normal(0, sigma, clean.shape))


def _shot(data: DataConfig) -> float:
    return (data.shot[0] + data.shot[1]) / 2
