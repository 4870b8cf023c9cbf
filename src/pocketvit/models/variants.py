"""The table of variants: what a row gives, its builder, arguments, source. An architecture is a module and a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from pocketvit.models.adabins import AdaBins
from pocketvit.models.dpt import DPT
from pocketvit.models.pocketdepth import PocketDepth
from pocketvit.models.restorer import DenseDenoiser, Restorer
from pocketvit.models.vit import ViT, ViTRestorer
from pocketvit.models.vit_sizes import VIT_SIZES


@dataclass(frozen=True)
class Architecture:
    """A row: what the builder is called with. What it builds keeps :class:`pocketvit.models.backbone.Backbone`."""

    gives: Literal["features", "image", "depth"]
    """``forward`` gives pooled features (B, embed_dim), for a task to put its head on, an image (B, 3, H, W), or of
    each pixel a score of its depth (B, 1, h, w) without an activation, or, where it is told to (``give_classes``), the
    logits of its classes; with adaptive bins depth and their centres."""
    build: Callable[..., nn.Module]
    options: dict[str, Any] = field(default_factory=dict)
    sized: bool = False
    """The builder takes ``image_size`` (height, width), and the network takes images of that size alone."""
    source: str = ""
    parts: tuple[str, ...] = ()
    """Options that name architectures, ``timm:`` ones too: the builder gets a function from (height, width), and its
    options if any, to each."""


def _restorer(widths: tuple[int, ...], decoder: tuple[int, ...]) -> Architecture:
    options = {"widths": widths, "encoder": (1, 1), "bottleneck": "rcwr", "decoder": decoder}
    return Architecture("image", Restorer, options, source="docs/LOG.md, timing table")


def _pocketdepth(hooks: tuple[int, ...], widths: tuple[int, ...]) -> Architecture:
    options = {"hooks": hooks, "widths": widths, "embed_dim": 192, "num_heads": 3, "patch_size": 16}
    return Architecture("depth", PocketDepth, options, True, "docs/LOG.md, depth shapes")


def _adabins(backbone: str, **options: int) -> Architecture:
    return Architecture("depth", AdaBins, {"backbone": backbone} | options, True, _ADABINS, ("backbone",))


def _dpt(backbone: str, reassemble: tuple[int, ...], width: int, source: str, **more: Any) -> Architecture:
    options = {"backbone": backbone, "hooks": (2, 5, 8, 11), "reassemble": reassemble, "width": width}
    return Architecture("depth", DPT, options | more, True, source, ("backbone",))


_ADABINS = "Bhat et al. 2020, section 4.2"
_TRANSFORMERS = {"backbone_options": {"resample": "bilinear"}}  # as their published checkpoints are run
_HYBRID, _ANYTHING = {"stages": (0, 1), "hooks": (8, 11)}, {"read": "ignore", "hook_norm": True}
_MOBILE = {"backbone": "timm:mobilenetv4_conv_small", "width": 64}  # no hooks: any pyramid takes its place
_DPT = "Ranftl et al. 2021, sec. 3 and table 1"
_SMALL = {"embed_dim": 192, "depth": 6, "num_heads": 3, "patch_size": 8}
_BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12, "patch_size": 16}
_GLOBAL, _TOKEN = {**_BASE, "decoder": "global"}, {**_BASE, "decoder": "token"}

VARIANTS: dict[str, Architecture] = {
    **{name: Architecture("features", ViT, size, True, source) for name, (size, source) in VIT_SIZES.items()},
    "vit_restorer_tiny": Architecture("image", ViTRestorer, _SMALL, True, "every token to its own pixels"),
    "vit_restorer_base_global": Architecture("image", ViTRestorer, _GLOBAL, True, "reference: one token to all"),
    "vit_restorer_base_token": Architecture("image", ViTRestorer, _TOKEN, True, "reference: every token to its own"),
    "dpt_tiny": _dpt("vit_tiny_patch16_224", (24, 48, 96, 192), 64, "DPT on ViT-Ti, decoder as Depth Anything's"),
    "dpt_mobilenet": Architecture("depth", DPT, _MOBILE, True, "Qin et al. 2024, MobileNetV4-Conv-S", ("backbone",)),
    "dpt_base": _dpt("vit_base_patch16_224", (96, 192, 384, 768), 256, f"{_DPT}, ViT-B", **_TRANSFORMERS),
    "dpt_large": _dpt(
        "vit_large_patch16_224", (256, 512, 1024, 1024), 256, f"{_DPT}, ViT-L", hooks=(5, 11, 17, 23), **_TRANSFORMERS
    ),
    "dpt_hybrid": _dpt("timm:vit_base_r50_s16_384", (256, 512, 768, 768), 256, f"{_DPT}, ViT-B R50", **_HYBRID),
    "depth_anything_small": _dpt(
        "vit_small_patch14_dinov2", (48, 96, 192, 384), 64, "Yang et al. 2024 (V2), ViT-S", **_ANYTHING
    ),
    "restorer_xs": _restorer((32, 64, 96), (1, 1)),
    "restorer_s": _restorer((48, 64, 96), (1, 1)),
    "restorer_m": _restorer((48, 64, 96), (2, 1)),
    "restorer_l": _restorer((48, 96, 128), (2, 1)),
    "dense_ffdnet": Architecture("image", DenseDenoiser, source="Zhang et al. 2018, colour FFDNet's layer stack"),
    "pocketdepth_xs": _pocketdepth((2, 5), (16, 32, 64, 96)),
    "pocketdepth": _pocketdepth((3, 7), (32, 64, 96, 128)),
    "pocketdepth_l": _pocketdepth((4, 8), (48, 96, 128, 160)),
    "adabins": _adabins("timm:tf_efficientnet_b5"),
    "adabins_small": _adabins("timm:mobilenetv3_large_100", decoder_width=256, width=64, num_bins=64, queries=32),
}
