"""A small network that gives classes, and photos of shapes with their masks, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from pocketvit.models import VARIANTS
from pocketvit.models.variants import Architecture
from tests.depth_net import TinyDepth

NAME = "tiny_segment"
LABELS = ("ground", "ball", "wall")
SIZE = (48, 64)


class TinySegment(TinyDepth):
    """(B, 3, H, W) -> logits (B, K, H/2, W/2)."""

    renewed = ("score.",)

    def give_classes(self, count: int) -> None:
        self.score = nn.Conv2d(16, count, 3, 1, 1)


def add(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put it into the table for the time of a test."""
    monkeypatch.setitem(VARIANTS, NAME, Architecture("depth", TinySegment))


def scene(seed: int, height: int = SIZE[0], width: int = SIZE[1]) -> tuple[np.ndarray, np.ndarray]:
    """A grey ground with a red ball and a blue wall, (H, W, 3) uint8, and the class of each pixel, 255 at the rims."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    mask = np.zeros((height, width), np.uint8)
    photo = np.full((height, width, 3), rng.uniform(110, 150), float)
    left = int(rng.integers(width // 2))
    mask[:, left : left + width // 4] = 2
    radius = rng.uniform(height / 5, height / 3)
    apart = np.hypot(y - rng.uniform(0.2, 0.8) * height, x - rng.uniform(0.2, 0.8) * width)
    mask[apart < radius] = 1
    photo[mask == 2] = (40, 60, 190)
    photo[mask == 1] = (200, 50, 40)
    mask[np.abs(apart - radius) < 0.7] = 255
    return np.clip(photo + rng.normal(0, 8, photo.shape), 0, 255).astype(np.uint8), mask


def palette_png(path: Path, mask: np.ndarray) -> Path:
    """The mask as tools for annotation write it: indices with a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask, "P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    image.save(path)
    return path


def folder(root: Path, count: int, seed: int = 0, *, names: bool = True, **size: int) -> Path:
    """``images/NNN.png`` with ``masks/NNN.png``, every other one with a palette, and ``classes.txt``."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        photo, mask = scene(seed + i, **size)
        Image.fromarray(photo).save(root / "images" / f"{i:03d}.png")
        if i % 2:
            palette_png(root / "masks" / f"{i:03d}.png", mask)
        else:
            Image.fromarray(mask).save(root / "masks" / f"{i:03d}.png")
    if names:
        (root / "classes.txt").write_text("\n".join(LABELS) + "\n")
    return root
