"""The halves of a split model: photo to features in one place, features to answer in another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pocketvit.errors import UsageError
from pocketvit.runtimes.model import Model
from pocketvit.spec.features import Features, decode, encode
from pocketvit.spec.images import ImageLike
from pocketvit.spec.split import FEATURES, Split, check_pair
from pocketvit.spec.tasks.base import Result


def split_of(model: Model, part: str) -> Split:
    """What a manifest says of a head or tail.

    Raises:
        UsageError: the model is something else.
    """
    split = model.manifest.split
    if split is None or split.part != part:
        have = f"the {split.part} of one" if split is not None else "a whole model"
        what = f"{model.manifest.name} is not the {part} of a split model but {have}."
        raise UsageError(what, f"Name the folder {part} of what `pocketvit export --split_at` wrote.")
    return split


def features_of(head: Model, image: ImageLike) -> Features:
    """(tokens, width) float32 of one image. Raises what :meth:`pocketvit.runtimes.model.Model.__call__` does."""
    split_of(head, "head")
    found: Features = head.infer(head.prepare(image))[FEATURES][0]
    return found


def encoded(head: Model, image: ImageLike) -> bytes:
    """What a head has to send of one image: :mod:`pocketvit.spec.features`."""
    return encode(features_of(head, image), split_of(head, "head"))


def answer(tail: Model, features: Features) -> Result:
    """The typed answer of a tail to (tokens, width) float32."""
    split_of(tail, "tail")
    return tail.finish(tail.infer(np.ascontiguousarray(features)))


@dataclass(frozen=True)
class Joined:
    """Head and tail in one place, with the way between them: what a client and a server answer together."""

    head: Model
    tail: Model

    def __post_init__(self) -> None:
        check_pair(self.head.manifest.split, self.tail.manifest.split)

    def __call__(
        self, image: ImageLike, on_tile: Callable[[], None] | None = None, *, strength: float | None = None
    ) -> Result:
        """Answer for one image. Raises what :meth:`pocketvit.runtimes.model.Model.__call__` does."""
        return answer(self.tail, decode(encoded(self.head, image), split_of(self.tail, "tail")))
