"""Restore: denoise and deblur. The network's output is the image in [0, 1]; losses compare it with the clean one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pocketvit.errors import UsageError
from pocketvit.models.layers.patch_embed import fold_patches
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.preprocess import Preprocess
from pocketvit.tasks.base import TorchTask


def charbonnier(difference: Tensor) -> Tensor:
    """sqrt(d^2 + eps^2), a smooth L1 (Lai et al. 2017), eps = 1e-3; mean over all elements."""
    return (difference * difference + 1e-6).sqrt().mean()


def log_mse(difference: Tensor, floor: float = 0.255) -> Tensor:
    """Mean over the batch of log(MSE per image + floor^2): -PSNR up to a factor (NAFNet's loss); noise levels count
    alike, down to errors (root mean square, 0 to 255) near ``floor``."""
    return torch.log(difference.square().mean(dim=(1, 2, 3)) + (floor / 255) ** 2).mean()


LOSSES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "l1": lambda d, floor: d.abs().mean(),
    "mse": lambda d, floor: d.square().mean(),
    "charbonnier": lambda d, floor: charbonnier(d),
    "log_mse": log_mse,
    "auto": log_mse,
}


class PixelDecoder(nn.Module):
    """Features to an image: (B, 3, H, W) in [0, 1] -> the same.

    ``decoder="token"`` decodes every place of each feature to the pixels that it stands for (LayerNorm, Linear
    C -> 3 * stride^2, fold), added up on top of the input; ``"global"`` the pooled feature to all pixels (LayerNorm,
    Linear D -> 3 * H * W). ``backbone`` keeps :class:`pocketvit.models.backbone.Backbone`, ``size`` is (H, W).
    """

    def __init__(self, backbone: Any, decoder: str, size: tuple[int, int]) -> None:
        super().__init__()
        self.backbone, self.size, self.strides = backbone, size, () if decoder == "global" else backbone.strides
        widths = [(c, 3 * stride**2) for c, stride in zip(backbone.channels, self.strides)]
        widths = widths or [(backbone.embed_dim, 3 * size[0] * size[1])]
        self.decoders = nn.ModuleList(nn.Sequential(nn.LayerNorm(c), nn.Linear(c, pixels)) for c, pixels in widths)
        if self.strides:  # training starts at the identity
            for parameter in (p for decode in self.decoders for p in decode.get_submodule("1").parameters()):
                nn.init.zeros_(parameter)

    def forward(self, image: Tensor) -> Tensor:
        """Restore."""
        if not self.strides:
            return self.decoders[0](self.backbone(image)).unflatten(1, (3, *self.size))
        restored, (height, width) = image, image.shape[-2:]
        for feature, decode, stride in zip(self.backbone.features(image), self.decoders, self.strides, strict=True):
            tokens = feature if feature.dim() == 3 else feature.flatten(2).transpose(1, 2)
            pixels = fold_patches(decode(tokens), (-(-height // stride), -(-width // stride)), stride, 3)
            restored = restored + pixels[..., :height, :width]
        return restored


def build(backbone: nn.Module, config: Any, levels: Sequence[LevelSpec], preprocess: Preprocess) -> nn.Module:
    """The backbone itself where it gives an image, else a decoder on it.

    Raises UsageError: ``config.decoder`` is set for an architecture that has one of its own.
    """
    if getattr(backbone, "gives", "image") == "features":
        return PixelDecoder(backbone, config.decoder or "token", preprocess.size)
    if config.decoder:
        what = f"task.decoder {config.decoder} is for architectures that give features; this one gives an image."
        raise UsageError(what, "Leave task.decoder out; a vit_restorer has model.options.decoder.")
    return backbone


def targets(clean_bhwc: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [0, 1]."""
    return clean_bhwc.permute(0, 3, 1, 2).to(torch.float32) / 255.0


def loss(output: Tensor, target: Tensor, config: Any, state: None = None) -> Tensor:
    """Scalar ``config.loss`` of (B, 3, H, W) against the same shape."""
    return LOSSES[config.loss](output.float() - target, config.loss_floor)


def distil(output: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Charbonnier distance to the teacher's image."""
    return charbonnier(output.float() - teacher.float())


def graph_output(answer: Tensor, preprocess: Preprocess) -> Tensor:
    """(B, 3, H, W) in [0, 1], in the model's colour order -> (B, H, W, 3) RGB, 0 to 255, clamped and not rounded."""
    if preprocess.color == "BGR":
        answer = answer.flip(1)
    return torch.clamp(answer.float() * 255.0, 0.0, 255.0).permute(0, 2, 3, 1).contiguous()


RESTORE = TorchTask(
    build=build,
    loss=loss,
    distil=distil,
    graph_output=graph_output,
    targets=targets,
    takes=("image", "features"),
    uncut="it joins what it found at full size to what it makes at the end, so more than the photo would be sent",
)
