"""Positions, learned or sinusoidal: one table (1, tokens, D), interpolated ahead of time: a constant of the export."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]


def sinusoidal(tokens: int, embed_dim: int) -> Tensor:
    """PE(pos, 2i) = sin(pos / 10000^(2i/D)), PE(pos, 2i+1) = cos(...) (Vaswani et al. 2017): (1, tokens, D) float32."""
    position = torch.arange(tokens, dtype=torch.float64)[:, None]
    rate = torch.exp(torch.arange(0, embed_dim, 2, dtype=torch.float64) * (-math.log(10000.0) / embed_dim))
    table = torch.zeros(tokens, embed_dim, dtype=torch.float64)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate[: embed_dim // 2])
    return table.float()[None]


def resample_grid(table: Tensor, old: Grid, new: Grid, prefix: int) -> Tensor:
    """Bicubic, antialiased resampling of the grid part of a position table (as timm does); the ``prefix`` tokens stay.

    Args:
        table: (1, prefix + old_h * old_w, D).
        old: rows and columns of the table's grid.
        new: rows and columns wanted.
        prefix: number of class tokens in front.
    """
    if old == new:
        return table
    head, grid = table[:, :prefix], table[:, prefix:]
    grid = grid.reshape(1, *old, -1).permute(0, 3, 1, 2).float()
    grid = F.interpolate(grid, size=new, mode="bicubic", antialias=True, align_corners=False)
    grid = grid.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1)
    return torch.cat([head, grid.to(table.dtype)], dim=1)


def fit_table(table: Tensor, own: Grid, new: Grid, prefix: int) -> Tensor:
    """A table of another input size, or of other pooling, for the grid ``new`` and ``prefix`` class tokens.

    Args:
        table: (1, tokens, D), over the grid ``own`` where the number of tokens says so, else over a square one.
        own: rows and columns of the network that asks.
        new: rows and columns wanted.
        prefix: class tokens wanted in front: those of the table are kept, a missing one is zero.

    Returns:
        (1, prefix + new_h * new_w, D); the table as it is where its grid cannot be told, for a shape check to report.
    """
    tokens = table.shape[1]
    cells = {n: tokens - n for n in (prefix, 0, 1)}
    found = [(own, n) for n, rest in cells.items() if rest == own[0] * own[1]]
    found += [((math.isqrt(rest),) * 2, n) for n, rest in cells.items() if rest > 0 and math.isqrt(rest) ** 2 == rest]
    if not found:
        return table
    old, had = found[0]
    if had > prefix:
        table, had = table[:, had - prefix :], prefix
    elif had < prefix:
        table, had = torch.cat([table.new_zeros(1, prefix - had, table.shape[2]), table], dim=1), prefix
    return resample_grid(table, old, new, prefix)
