"""What boxes teach each cell: Gaussian targets of centres, and the sides of the box that a cell belongs to.

B batch, M boxes (filled up with class -1), K classes, h w cells. TTFNet (Liu et al. 2019, "Training-Time-Friendly
Network for Real-Time Object Detection"): cells around a centre learn its sides too, each by its share of a Gaussian, so
that few photos teach much. Simplified: every box weighs the same, where TTFNet weighs by the logarithm of its area.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Targets(NamedTuple):
    """What the cells should answer."""

    heat: Tensor
    """(B, K, h, w) 0 to 1; 1 in the cells of centres."""
    boxes: Tensor
    """(B, h, w, 4) left, top, right, bottom in shares of the photo of the box that a cell belongs to."""
    weight: Tensor
    """(B, h, w): sums to 1 over the cells of each box; 0 in cells that belong to none."""
    total: int
    """Boxes in the batch."""


def targets(boxes_bm5: Tensor, classes: int, size: tuple[int, int], spread: float) -> Targets:
    """Targets of boxes (B, M, 5): class, then left, top, right, bottom in shares of the photo, for a grid of ``size``.

    A Gaussian around the centre's cell, whose deviation is ``spread`` / 6 of the box in each direction, reaches over
    ``spread`` of the box. Of boxes that share a cell the smaller one has it.
    """
    rows, columns = size
    valid = boxes_bm5[..., 0] >= 0
    sides = boxes_bm5[..., 1:].float()
    low, high = sides[..., :2], sides[..., 2:]
    scale = sides.new_tensor([columns, rows])
    extent, centre = (high - low) * scale, (low + high) / 2 * scale
    across = [_bell(centre[..., i], extent[..., i] * spread, length) for i, length in enumerate((columns, rows))]
    bell = across[1][..., :, None] * across[0][..., None, :] * valid[..., None, None]  # (B, M, h, w)
    heat = bell.new_zeros(len(bell), classes, rows, columns)
    index = boxes_bm5[..., 0].clamp(min=0).long()[..., None, None].expand_as(bell)
    heat = heat.scatter_reduce(1, index, bell, "amax")
    area = torch.where(bell > 0, (extent[..., 0] * extent[..., 1])[..., None, None], torch.inf)
    owner = area.argmin(1, keepdim=True)  # (B, 1, h, w)
    mine = torch.zeros_like(bell).scatter(1, owner, bell.gather(1, owner))
    share = mine / mine.sum((2, 3), keepdim=True).clamp(min=1e-6)
    wanted = sides.gather(1, owner.flatten(1)[..., None].expand(-1, -1, 4)).unflatten(1, size)
    return Targets(heat, wanted, share.sum(1), int(valid.sum()))


def _bell(centre: Tensor, reach: Tensor, length: int) -> Tensor:
    """(B, M) in cells -> (B, M, length): 1 in the centre's cell, 0 further from it than half of ``reach``."""
    cell = centre.floor().clamp(0, length - 1)[..., None]
    away = (torch.arange(length, device=centre.device) - cell).abs()
    sigma = (reach / 6).clamp(min=1e-3)[..., None]
    return torch.exp(-(away**2) / (2 * sigma**2)) * (away <= (reach / 2).floor().clamp(min=0)[..., None])


def focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Penalty-reduced focal loss (Zhou et al. 2019, CenterNet, eq. 1: alpha 2, beta 4), summed over all cells."""
    sure, unsure = F.logsigmoid(logits), F.logsigmoid(-logits)
    found = torch.sigmoid(logits)
    right = (1 - found) ** 2 * sure
    wrong = (1 - wanted) ** 4 * found**2 * unsure
    return -torch.where(wanted == 1, right, wrong).sum()


def corners(sides: Tensor) -> Tensor:
    """Distances (B, 4, h, w) from the cells' centres -> boxes (B, h, w, 4), all in shares of the photo."""
    rows, columns = sides.shape[2:]
    x = ((torch.arange(columns, device=sides.device) + 0.5) / columns).expand(rows, columns)
    y = ((torch.arange(rows, device=sides.device) + 0.5) / rows)[:, None].expand(rows, columns)
    left, top, right, bottom = sides.float().unbind(1)
    return torch.stack([x - left, y - top, x + right, y + bottom], dim=-1)


def one_minus_giou(a: Tensor, b: Tensor) -> Tensor:
    """Boxes (..., 4) -> (...), 0 to 2: 1 - generalised overlap (Rezatofighi et al. 2019, algorithm 1)."""
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    outer = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = sum((x[..., 2:] - x[..., :2]).clamp(min=0).prod(-1) for x in (a, b)) - inner
    return 1 - inner / union.clamp(min=1e-9) + (outer - union) / outer.clamp(min=1e-9)
