"""A model in two halves: the head runs where the photo is, the tail where there is more power; features go between.

Both are artifacts of their own. What binds them is stated in each of their manifests; :mod:`pocketvit.spec.features`
is how the features travel.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pocketvit.errors import UsageError
from pocketvit.spec.tasks.base import TensorSpec

FEATURES = "features"
"""Name of the head's only output and the tail's only input."""
MEANING = "tokens behind the last block of the head: one row for each, the class token first where there is one"
MAX_VALUES = 1 << 24
"""Of the features of one photo: far above any network here, and still memory that a machine has."""
HEAD_TOLERANCES = {"fp32": {"max_abs": 0.02, "mean_abs": 1e-3, "min_cosine": 0.9999}}
"""Of a head's features against the trained network's, as shares of their mean absolute value."""
LOSSY = "int8"
"""Answers to features that were quantised on their way are held against what a task allows this precision."""


class Split(BaseModel):
    """Which half of a model an artifact is, and what goes between the two."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    part: Literal["head", "tail"]
    id: str = Field(
        pattern="^[0-9a-f]{32}$",
        description="First half of a SHA-256 over the head's weights, its preprocessing and the cut: a tail takes the "
        "features of heads with its own id and of no others.",
    )
    after: int = Field(ge=1, le=1024, description="Blocks in the head.")
    blocks: int = Field(ge=1, le=1024, description="Blocks of the whole network.")
    bits: int = Field(ge=2, le=8, description="Of each value on the way from head to tail, as proven.")
    features: TensorSpec = Field(description="float32 (1, tokens, width): what the head gives and the tail takes.")

    @field_validator("features")
    @classmethod
    def _features_are_tokens(cls, spec: TensorSpec) -> TensorSpec:
        rows = spec.shape[1:]
        if len(rows) != 2 or spec.shape[0] != 1 or min(rows) < 1 or math.prod(rows) > MAX_VALUES:
            raise ValueError(f"features have shape {spec.shape}, not (1, tokens, width)")
        if (spec.name, spec.dtype) != (FEATURES, "float32"):
            raise ValueError(f"features are {spec.dtype} {spec.name!r}, not float32 {FEATURES!r}")
        return spec

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens and width of the features of one photo."""
        return self.features.shape[1], self.features.shape[2]

    @property
    def is_head(self) -> bool:
        """Whether it is the half that takes photos."""
        return self.part == "head"


def check_whole(name: str, split: Split | None) -> None:
    """Raise ``UsageError`` for half a model where a whole one is needed."""
    if split is None:
        return
    if split.is_head:
        what = f"{name} is the head of a split model: it gives features, which its tail turns into answers."
        raise UsageError(what, "Send them to a server of its tail: pocketvit predict HEAD PHOTOS --server URL.")
    what = f"{name} is the tail of a split model: it takes the features of its head, not photos."
    raise UsageError(what, "Serve it (pocketvit serve TAIL), and run its head where the photos are.")


def check_pair(head: Split | None, tail: Split | None) -> None:
    """Raise ``UsageError`` unless the first is a head and the second the tail that takes its features."""
    if head is None or tail is None or not head.is_head or tail.is_head:
        have = [("a whole model" if part is None else f"a {part.part}") for part in (head, tail)]
        raise UsageError(f"{have[0]} and {have[1]} are no head and tail.", "Name the head first, then its tail.")
    if head.id != tail.id or head.features != tail.features:
        what = f"this head (split {head.id[:8]}) and this tail (split {tail.id[:8]}) are not of one network and cut."
        raise UsageError(what, "Take both from one export --split_at.")
