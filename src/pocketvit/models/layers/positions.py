"""Positions: learned or sinusoidal, as one table (1, tokens, D), interpolated ahead of time so that exports hold a constant."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def sinusoidal(tokens: int, embed_dim: int) -> Tensor:
    """PE(pos, 2i) = sin(pos / 10000^(2i/D)), PE(pos, 2i+1) = cos(...) (Vaswani et al. 2017): (1, tokens, D) float32."""
    position = torch.arange(tokens, dtype=torch.float64)[:, None]
    rate = torch.exp(torch.arange(0, embed_dim, 2, dtype=torch.float64) * (-math.log(10000.0) / embed_dim))
    table = torch.zeros(tokens, embed_dim, dtype=torch.float64)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate[: embed_dim // 2])
    return table.float()[None]


def resample_grid(table: Tensor, old: tuple[int, int], new: tuple[int, int], prefix: int) -> Tensor:
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
