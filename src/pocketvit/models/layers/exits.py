"""Early exits of a classifier: small heads behind some blocks, the first of which that is sure enough answers.

BranchyNet (Teerapittayanon et al. 2016) with the largest probability in place of the entropy, as in shallow-deep
networks (Kaya et al. 2019). B images, N tokens, D width of the tokens, C classes of a level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Logits = tuple[Tensor, ...]
"""(B, C) of every label level, coarsest first."""
_MOST, _MOST_VALUES = 64, 100_000_000
"""Exits, and weights of all their heads, that a record may ask for."""


class ExitHead(nn.Module):
    """Norm, one small hidden layer (or none, with ``hidden`` 0) and a linear layer for each level."""

    def __init__(self, width: int, hidden: int, classes: Sequence[int]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, hidden) if hidden else None
        self.heads = nn.ModuleList(nn.Linear(hidden or width, count) for count in classes)

    def forward(self, pooled: Tensor) -> Logits:
        """(B, width) -> logits of every level."""
        x = self.norm(pooled)
        x = x if self.fc is None else F.gelu(self.fc(x))
        return tuple(head(x) for head in self.heads)


class Choice(nn.Module):
    """Takes for each image one of several answers; a module, so that its nodes in a graph can be told by its name."""

    def forward(self, early: Sequence[Logits], last: Logits, thresholds: Sequence[float]) -> Logits:
        """See :meth:`EarlyExits.choose`."""
        chosen = last
        for answer, threshold in zip(reversed(early), reversed(thresholds), strict=True):
            sure = confidence(answer)[:, None] >= threshold
            chosen = tuple(torch.where(sure, mine, other) for mine, other in zip(answer, chosen, strict=True))
        return chosen


class EarlyExits(nn.Module):
    """Heads behind blocks ``after`` (numbered from 1), each of which answers where it is sure enough.

    Sure is whose largest probability at the finest level is at least the exit's threshold: 0 always answers, anything
    above 1 never does. ``width`` is that of what :meth:`pool` gives.
    """

    def __init__(
        self, after: Sequence[int], thresholds: Sequence[float], classes: Sequence[int], width: int, hidden: int
    ) -> None:
        super().__init__()
        self.after, self.thresholds = tuple(after), tuple(float(x) for x in thresholds)
        self.classes, self.width, self.hidden = tuple(classes), width, hidden
        self.heads = nn.ModuleList(ExitHead(width, hidden, classes) for _ in after)
        self.choice = Choice()

    @property
    def settings(self) -> dict[str, Any]:
        """What :meth:`in_place_of` takes beside the layer."""
        lists = {"after": list(self.after), "thresholds": list(self.thresholds), "classes": list(self.classes)}
        return {**lists, "width": self.width, "hidden": self.hidden}

    @classmethod
    def in_place_of(
        cls,
        layer: nn.Module,
        after: Sequence[int],
        thresholds: Sequence[float],
        classes: Sequence[int],
        width: int,
        hidden: int,
    ) -> EarlyExits:
        """With random weights, where a classifier has no exits. Raises RuntimeError: it has, or there are no such."""
        numbers = [*after, *classes, width, hidden]
        if not isinstance(layer, nn.Identity) or not all(type(x) is int for x in numbers):
            raise RuntimeError(f"early exits in place of {type(layer).__name__}")
        ordered = list(after) == sorted(set(after)) and 0 < len(after) <= _MOST and after[0] > 0
        sound = len(thresholds) == len(after) and all(math.isfinite(x) and x >= 0 for x in thresholds)
        positive = classes and min(*classes, width) > 0 and hidden >= 0
        values = len(after) * (width * hidden + (hidden or width) * sum(classes))
        if not ordered or not sound or not positive or values > _MOST_VALUES:
            raise RuntimeError(f"early exits after {list(after)[:9]} with thresholds {list(thresholds)[:9]}")
        return cls(after, thresholds, classes, width, hidden)

    @staticmethod
    def pool(tokens: Tensor, prefix: int) -> Tensor:
        """(B, N, D) behind a block -> (B, width): class token and mean of the patches, or the mean alone."""
        mean = tokens[:, prefix:].mean(dim=1)
        return torch.cat([tokens[:, 0], mean], dim=1) if prefix else mean

    def answers(self, pooled: Sequence[Tensor]) -> list[Logits]:
        """What each exit would say to what was pooled before it."""
        return [head(x) for head, x in zip(self.heads, pooled, strict=True)]

    def margin(self, early: Sequence[Logits]) -> Tensor:
        """(B,): least distance of confidence and threshold over the exits up to the one that answers."""
        distances, waiting = [], torch.ones(len(early[0][0]), dtype=torch.bool)
        for answer, threshold in zip(early, self.thresholds, strict=True):
            over = confidence(answer) - threshold
            distances.append(torch.where(waiting, over.abs(), torch.ones_like(over)))
            waiting = waiting & (over < 0)
        return torch.stack(distances).amin(dim=0)

    def choose(self, early: Sequence[Logits], last: Logits) -> Logits:
        """For each image the answer of the first exit that is sure, or the last head's."""
        return self.choice(early, last, self.thresholds)  # type: ignore[no-any-return]


def confidence(answer: Logits) -> Tensor:
    """(B,) float32 in [0, 1]: the largest probability at the finest level."""
    return torch.softmax(answer[-1].float(), dim=-1).amax(dim=-1)
