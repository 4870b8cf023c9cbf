"""A small network that gives depth, one with adaptive bins, and photos whose depth can be learnt, for tests."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from pocketvit.models import VARIANTS
from pocketvit.models.backbone import AnySize, OneFeature
from pocketvit.models.variants import Architecture

NAME, BINS = "tiny_depth", "tiny_bins"


class TinyDepth(OneFeature, AnySize, nn.Module):
    """(B, 3, H, W) -> a score (B, 1, H/2, W/2)."""

    feature_kind, strides, embed_dim = "maps", (8,), 24

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        widths = (3, width, 16, self.embed_dim)
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(widths))
        self.fuse = nn.ModuleList(nn.Conv2d(c, 16, 1) for c in widths[1:])
        self.score = nn.Conv2d(16, 1, 3, 1, 1)

    def pyramid(self, image: Tensor) -> list[Tensor]:
        found = []
        for stage in self.stages:
            image = F.gelu(stage(image))
            found.append(image)
        return found

    def features(self, image: Tensor) -> list[Tensor]:
        return self.pyramid(image)[-1:]

    def fused(self, image: Tensor) -> Tensor:
        maps = self.pyramid(image)
        total = self.fuse[-1](maps[-1])
        for layer, each in reversed(list(zip(self.fuse[:-1], maps[:-1]))):
            total = layer(each) + F.interpolate(total, size=each.shape[2:], mode="bilinear", align_corners=False)
        return total

    def forward(self, image: Tensor) -> Tensor:
        return self.score(F.gelu(self.fused(image)))


class TinyBins(TinyDepth):
    """Depth in metres and the centres of eight bins, as AdaBins gives them."""

    bins = True

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Conv2d(16, 8, 1)
        self.widths = nn.Linear(self.embed_dim, 8)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        widths = torch.softmax(self.widths(self.features(image)[0].mean((2, 3))), 1) * 10
        centres = widths.cumsum(1) - widths / 2
        shares = torch.softmax(self.score(F.gelu(self.fused(image))), 1)
        return (shares * centres[:, :, None, None]).sum(1, keepdim=True), centres


def add(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put both into the table for the time of a test."""
    monkeypatch.setitem(VARIANTS, NAME, Architecture("depth", TinyDepth))
    monkeypatch.setitem(VARIANTS, BINS, Architecture("depth", TinyBins))


def scene(seed: int, height: int = 48, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A photo whose blue is the nearer the brighter, and its depth, 1 to 4 metres, with a hole of no values."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / (height, width)[0]
    slope = rng.uniform(-1, 1, 2)
    depth = 2.5 + slope[0] * (y - 0.5) + slope[1] * (x - 0.5)
    top, left = int(rng.integers(height // 2)), int(rng.integers(width // 2))
    depth[top : top + height // 3, left : left + width // 3] = rng.uniform(1, 1.8)
    photo = np.stack([rng.uniform(40, 200) + 20 * np.sin(9 * x), 120 + 60 * y, 255 - 60 * depth], 2)
    photo = np.clip(photo + rng.normal(0, 3, photo.shape), 0, 255).astype(np.uint8)
    depth[:3, :5] = 0
    return photo, depth.astype(np.float32)


def folder(root: Path, count: int, seed: int = 0, **size: int) -> Path:
    """``name.png`` with ``name_depth.png`` (16-bit millimetres) beside it."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        photo, depth = scene(seed + i, **size)
        Image.fromarray(photo).save(root / f"{i:03d}.png")
        Image.fromarray(np.rint(1000 * depth).astype(np.uint16)).save(root / f"{i:03d}_depth.png")
    return root
