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
from pocketvit.data.degrade import conditions, main_of
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
    """Condition of the main metric where photos are degraded, e.g. ``sigma25``; else empty."""
    if data.layout_of("val") != "clean" or not task_of(task).degrades:
        return ""
    return main_of(data).name


def condition_names(collection: Collection, data: DataConfig) -> list[str]:
    """Conditions under which the photos of a collection are degraded; none of pairs and of photos with labels."""
    return [each.name for each in conditions(data)] if collection.degraded else []


def eval_cases(
    collection: Collection, data: DataConfig, limit: int | None = None, only: str | None = None
) -> Iterator[Case]:
    """Yield the cases of a collection one by one, decoding each image when it is due.

    Photos are degraded under each of the recipe's conditions (:func:`pocketvit.data.degrade.conditions`), or under the
    one named ``only``: for each a fresh ``default_rng(0)`` runs through the images in order. For Gaussian noise that is
    the 8-bit protocol, noisy = clip(round(clean + noise), 0, 255).

    At most ``limit`` images are taken, evenly spread over the collection, so that all classes have their share.
    Raises DataError: an image cannot be read, or the images of a pair differ in size.
    """
    items, truth = spread(collection.items, limit), task_of(collection.task).truth
    found = [each for each in conditions(data) if only in (None, each.name)] if collection.degraded else [None]
    for condition in found:
        rng = np.random.default_rng(0)
        for item in items:
            image, clean = read_item(collection, item)
            if condition is not None:
                image, clean = condition.apply(image, rng)
            yield Case(image, truth(image, clean, item.labels), condition.name if condition else "", item.path)


def spread(items: Sequence[Item], limit: int | None) -> Sequence[Item]:
    """At most ``limit`` items, evenly spaced, in order."""
    if limit is None or limit >= len(items):
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, max(limit, 1)).round().astype(int)]
