"""The one table of variants: name -> task, builder, arguments, source. Adding an architecture is one module and one row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from pocketvit.models.restorer import DenseDenoiser, Restorer
from pocketvit.models.vit import ViT, ViTRestorer


@dataclass(frozen=True)
class Architecture:
    """A row: what the builder is called with."""

    task: str
    build: Callable[..., nn.Module]
    options: dict[str, Any] = field(default_factory=dict)
    sized: bool = False
    """The builder takes ``image_size`` (positions are a constant of that size)."""
    source: str = ""


def _vit(dim: int, depth: int, heads: int, patch: int, source: str, **more: Any) -> Architecture:
    return Architecture(
        "classify",
        ViT,
        {"embed_dim": dim, "depth": depth, "num_heads": heads, "patch_size": patch, **more},
        True,
        source,
    )


_VIT, _DEIT = "Dosovitskiy et al. 2020, table 1", "Touvron et al. 2021, table 1"
_OURS = "docs/LOG.md, timing table"

VARIANTS: dict[str, Architecture] = {
    "vit_micro_patch16_224": _vit(96, 6, 3, 16, "half of ViT-Ti, for quick runs"),
    "vit_tiny_patch16_224": _vit(192, 12, 3, 16, _DEIT),
    "vit_small_patch16_224": _vit(384, 12, 6, 16, _DEIT),
    "vit_base_patch16_224": _vit(768, 12, 12, 16, _VIT),
    "vit_base_patch32_224": _vit(768, 12, 12, 32, _VIT),
    "vit_large_patch16_224": _vit(1024, 24, 16, 16, _VIT),
    "vit_restorer_tiny": Architecture(
        "restore",
        ViTRestorer,
        {"embed_dim": 192, "depth": 6, "num_heads": 3, "patch_size": 8},
        True,
        "every token to its own pixels",
    ),
    "vit_restorer_base_global": Architecture(
        "restore",
        ViTRestorer,
        {"embed_dim": 768, "depth": 12, "num_heads": 12, "patch_size": 16, "decoder": "global"},
        True,
        "reference: one token to all",
    ),
    "restorer_xs": Architecture(
        "restore",
        Restorer,
        {"widths": (32, 64, 96), "encoder": (1, 1), "bottleneck": "rcwr", "decoder": (1, 1)},
        False,
        _OURS,
    ),
    "restorer_s": Architecture(
        "restore",
        Restorer,
        {"widths": (48, 64, 96), "encoder": (1, 1), "bottleneck": "rcwr", "decoder": (1, 1)},
        False,
        _OURS,
    ),
    "restorer_m": Architecture(
        "restore",
        Restorer,
        {"widths": (48, 64, 96), "encoder": (1, 1), "bottleneck": "rcwr", "decoder": (2, 1)},
        False,
        _OURS,
    ),
    "restorer_l": Architecture(
        "restore",
        Restorer,
        {"widths": (48, 96, 128), "encoder": (1, 1), "bottleneck": "rcwr", "decoder": (2, 1)},
        False,
        _OURS,
    ),
    "dense_ffdnet": Architecture("restore", DenseDenoiser, {}, False, "Zhang et al. 2018, colour FFDNet's layer stack"),
}
