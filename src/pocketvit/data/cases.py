"""Evaluation cases: what the model gets and what it should answer, always the same for the same files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.data.collections import Collection, Item
from pocketvit.data.decode import read_item
from pocketvit.data.degrade import Condition, conditions, main_of
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
    """Which averages the case belongs to, e.g. ``sigma25`` or a protocol; empty where there is one way alone."""
    path: Path


def main_condition(data: DataConfig, task: str) -> str:
    """Condition of the main metric, e.g. ``sigma25``; empty where there is one way to score alone."""
    record, layout = task_of(task), data.layout_of("val")
    if record.degrades and layout == "clean":
        return main_of(data).name
    return next(iter(record.conditions(data.protocol, layout)), "")


def condition_names(collection: Collection, data: DataConfig) -> list[str]:
    """Conditions under which the photos of a collection are degraded or their answers scored; none where there is one
    way alone."""
    return [each.name for each in _conditions(collection, data) if each is not _AS_IT_IS]


_AS_IT_IS = Condition("", lambda image, rng: (image, image))


def _conditions(collection: Collection, data: DataConfig) -> list[Condition]:
    if collection.degraded:
        return conditions(data)
    names = task_of(collection.task).conditions(data.protocol, collection.layout)
    return [replace(_AS_IT_IS, name=name) for name in names] or [_AS_IT_IS]


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
    found = [each for each in _conditions(collection, data) if only in (None, each.name) or each is _AS_IT_IS]
    for condition in found:
        rng = np.random.default_rng(0)
        for item in items:
            image, clean = read_item(collection, item)
            if collection.degraded:
                image, clean = condition.apply(image, rng)
            yield Case(image, truth(image, clean, item.labels), condition.name, item.path)


def spread(items: Sequence[Item], limit: int | None) -> Sequence[Item]:
    """At most ``limit`` items, evenly spaced, in order."""
    if limit is None or limit >= len(items):
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, max(limit, 1)).round().astype(int)]
