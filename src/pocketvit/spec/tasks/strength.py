"""How strongly a model of pictures works on them: less than trained, as trained, or more."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pocketvit.spec.preprocess import Pixels

_ROWS = 64


class Strength(BaseModel):
    """The range of ``strength``; 1 is the trained answer, and what is taken where nobody says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float = Field(default=0.0, ge=0, le=1)
    high: float = Field(default=2.0, ge=1, le=2)
    default: float = Field(default=1.0, ge=1, le=1)
    meaning: str = (
        "0 is the input, 1 the trained answer, between them a blend of their pixels; "
        "above 1 the model runs once more on its own answer, and 2 is the second answer"
    )


def adjusted(image: Pixels, answer: Callable[[Pixels], Pixels], strength: float) -> Pixels:
    """The picture at a strength of 0 to 2, rounded once; see :class:`Strength`.

    Args:
        image: (H, W, 3) uint8; it is not changed.
        answer: the model, from a picture to a new one of the same shape; runs never, once, or (above 1) twice.
        strength: what is outside 0 to 2 is the caller's to refuse.
    """
    if strength == 0:
        return image.copy()
    first = answer(image)
    if strength <= 1:
        return first if strength == 1 else _blend(image, first, strength)
    return _blend(first, answer(first), strength - 1)


def _blend(start: Pixels, end: Pixels, share: float) -> Pixels:
    """``start + share * (end - start)``, written over ``end``: a photo has no third copy, and few rows are float."""
    for top in range(0, len(end), _ROWS):
        low, high = start[top : top + _ROWS].astype(np.float32), end[top : top + _ROWS].astype(np.float32)
        end[top : top + _ROWS] = np.rint(low + np.float32(share) * (high - low))  # between two pixels: no clipping
    return end
