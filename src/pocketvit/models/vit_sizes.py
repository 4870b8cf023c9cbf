"""Sizes of plain ViTs by name: options of :class:`pocketvit.models.vit.ViT` and where they are from."""

from __future__ import annotations

from typing import Any


def _size(dim: int, depth: int, heads: int, patch: int) -> dict[str, Any]:
    return {"embed_dim": dim, "depth": depth, "num_heads": heads, "patch_size": patch}


_VIT, _DEIT = "Dosovitskiy et al. 2020, table 1", "Touvron et al. 2021, table 1"
_OQUAB = "Oquab et al. 2023 (DINOv2), appendix"
_DINOV2 = {"layer_scale": 1.0, "resample": "bicubic"}

VIT_SIZES: dict[str, tuple[dict[str, Any], str]] = {
    "vit_micro_patch16_224": (_size(96, 6, 3, 16), "half of ViT-Ti, for quick runs"),
    "vit_tiny_patch16_224": (_size(192, 12, 3, 16), _DEIT),
    "vit_small_patch16_224": (_size(384, 12, 6, 16), _DEIT),
    "vit_base_patch16_224": (_size(768, 12, 12, 16), _VIT),
    "vit_base_patch32_224": (_size(768, 12, 12, 32), _VIT),
    "vit_large_patch16_224": (_size(1024, 24, 16, 16), _VIT),
    "vit_small_patch14_dinov2": (_size(384, 12, 6, 14) | _DINOV2, f"{_OQUAB}, ViT-S/14"),
    "vit_base_patch14_dinov2": (_size(768, 12, 12, 14) | _DINOV2, f"{_OQUAB}, ViT-B/14"),
    "vit_large_patch14_dinov2": (_size(1024, 24, 16, 14) | _DINOV2, f"{_OQUAB}, ViT-L/14"),
}
"""A row of ``VARIANTS`` each, and the backbones of ``DPT`` by name."""
