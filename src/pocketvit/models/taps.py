"""What a dense decoder takes from the inside of an encoder: maps of its stages, tokens behind some of its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from pocketvit.errors import UsageError
from pocketvit.models.backbone import Backbone, Size


@dataclass(frozen=True)
class Tap:
    """One place that is read: a map (B, C, h, w), or tokens (B, prefix + h * w, C) of a grid in row order."""

    channels: int
    stride: int
    grid: Size | None = None
    """Rows and columns of the tokens; None: a map, of any size."""
    prefix: int = 0
    """Tokens in front of the grid's; the first is the class token."""


class Tapped(Backbone, Protocol):
    """An encoder that can be read inside: a ViT at blocks, a pyramid at stages, a hybrid at both (stages first)."""

    @property
    def block_count(self) -> int:
        """Blocks behind which tokens can be read."""

    def taps(self, stages: Sequence[int], hooks: Sequence[int]) -> tuple[Tap, ...]:
        """What :meth:`tapped` will give, in that order. Raises UsageError: there is no such stage or block."""

    def tapped(self, image: Tensor, stages: Sequence[int], hooks: Sequence[int], norm: bool = False) -> list[Tensor]:
        """(B, 3, H, W) -> a map of each of ``stages``, then tokens behind each block of ``hooks``.

        ``norm``: tokens go through the network's final norm.
        """

    def cut(self, stages: Sequence[int], hooks: Sequence[int], norm: bool = False) -> None:
        """Remove, for good, what no tap needs."""


def check_hooks(stages: Sequence[int], stage_count: int, hooks: Sequence[int], block_count: int) -> None:
    """Raise UsageError: numbers that are not rising, or beyond the stages and blocks that there are."""
    for name, chosen, count in (("stages", stages, stage_count), ("hooks", hooks, block_count)):
        if list(chosen) != sorted(set(chosen)) or (chosen and not 0 <= chosen[0] <= chosen[-1] < count):
            have = f"the backbone has {'stages' if name == 'stages' else 'blocks'} 0 to {count - 1}"
            have = have if count else "the backbone has none to read"
            what = f"{name} {tuple(chosen)}: {have}, each to be named once, in order."
            raise UsageError(what, f"Correct model.options.{name}.")
