"""Positions, learned or sinusoidal: one table (1, tokens, D), interpolated ahead of time: a constant of the export."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]
RESAMPLING: dict[str, dict[str, Any]] = {
    "antialias": {"mode": "bicubic", "antialias": True},
    "bicubic": {"mode": "bicubic"},
    "bilinear": {"mode": "bilinear"},
}
"""How a grid of positions is brought to another size: as timm, transformers' DINOv2 and transformers' DPT do it."""


def sinusoidal(tokens: int, embed_dim: int) -> Tensor:
    """PE(pos, 2i) = sin(pos / 10000^(2i/D)), PE(pos, 2i+1) = cos(...) (Vaswani et al. 2017): (1, tokens, D) float32."""
    position = torch.arange(tokens, dtype=torch.float64)[:, None]
    rate = torch.exp(torch.arange(0, embed_dim, 2, dtype=torch.float64) * (-math.log(10000.0) / embed_dim))
    table = torch.zeros(tokens, embed_dim, dtype=torch.float64)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate[: embed_dim // 2])
    return table.float()[None]


def resample_grid(table: Tensor, old: Grid, new: Grid, prefix: int, how: str = "antialias") -> Tensor:
    """Resampling of the grid part of a position table, by a row of ``RESAMPLING``.

    ``table`` (1, prefix + old_h * old_w, D), from the grid ``old`` (rows, columns) to ``new``; the ``prefix`` class
    tokens in front stay.
    """
    if old == new:
        return table
    grid = table[:, prefix:].reshape(1, *old, -1).permute(0, 3, 1, 2).float()
    grid = F.interpolate(grid, size=new, align_corners=False, **RESAMPLING[how])
    grid = grid.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1)
    return torch.cat([table[:, :prefix], grid.to(table.dtype)], dim=1)


def fit_table(table: Tensor, own: Grid, new: Grid, prefix: int, how: str = "antialias") -> Tensor:
    """A table of another input size, or of other pooling, for the grid ``new`` (rows, columns): (1, tokens, D).

    The table lies over ``own``, the grid of the network that asks, where the number of tokens says so, else over a
    square one. Of the ``prefix`` class tokens wanted in front those of the table are kept, a missing one is zero.
    Where its grid cannot be told, the table is returned as it is, for a shape check to report.
    """
    tokens = table.shape[1]
    cells = {n: tokens - n for n in (prefix, 0, 1)}
    found = [(own, n) for n, rest in cells.items() if rest == own[0] * own[1]]
    found += [((math.isqrt(rest),) * 2, n) for n, rest in cells.items() if rest > 0 and math.isqrt(rest) ** 2 == rest]
    if not found:
        return table
    old, had = found[0]
    table = torch.cat([table.new_zeros(1, max(0, prefix - had), table.shape[2]), table[:, max(0, had - prefix) :]], 1)
    return resample_grid(table, old, new, prefix, how)
