"""Maps at another size."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def at_size(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, h, w) to (B, C, H, W), bilinear; where that is its size, as it is."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
