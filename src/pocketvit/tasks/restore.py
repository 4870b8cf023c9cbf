"""Restore: denoise and deblur. The network's output is the image in [0, 1]; losses compare it with the clean one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pocketvit.errors import UsageError
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.tasks.restore import RestoreConfig


def charbonnier(difference: Tensor) -> Tensor:
    """sqrt(d^2 + eps^2), a smooth L1 (Lai et al. 2017), eps = 1e-3; mean over all elements."""
    return (difference * difference + 1e-6).sqrt().mean()


def log_mse(difference: Tensor) -> Tensor:
    """Mean over the batch of log(MSE per image): minus PSNR up to a factor (NAFNet's loss), so every noise level counts alike."""
    return torch.log(difference.square().mean(dim=(1, 2, 3)) + 1e-6).mean()


LOSSES = {
    "l1": lambda d: d.abs().mean(),
    "mse": lambda d: d.square().mean(),
    "charbonnier": charbonnier,
    "log_mse": log_mse,
    "auto": log_mse,
}


class RestoreTask:
    """Head, loss and targets of restoration."""

    def build_head(self, backbone: nn.Module, levels: Sequence[LevelSpec]) -> nn.Module:
        """The backbone already gives an image."""
        return backbone

    def check(self, preprocess: Preprocess) -> None:
        """Raise ``UsageError`` where the preprocessing would not give pixels in [0, 1] at native resolution."""
        if preprocess.mean != (0.0, 0.0, 0.0) or preprocess.std != (1.0, 1.0, 1.0) or preprocess.resize != "tile":
            raise UsageError(
                "restore needs preprocess.resize tile, mean [0, 0, 0] and std [1, 1, 1].",
                "Resizing averages noise away; set the three fields in the recipe.",
            )

    def targets(self, clean_bhwc: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [0, 1]."""
        return clean_bhwc.permute(0, 3, 1, 2).to(torch.float32) / 255.0

    def loss(
        self, output: Tensor, target: Tensor, settings: RestoreConfig, class_weights: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Scalar loss of (B, 3, H, W) against the same shape."""
        return LOSSES[settings.loss](output.float() - target)

    def graph_output(self, answer: Tensor, preprocess: Preprocess) -> Tensor:
        """(B, 3, H, W) in [0, 1] to RGB pixels (B, H, W, 3), 0 to 255, clamped, not rounded."""
        answer = answer.flip(1) if preprocess.color == "BGR" else answer
        return torch.clamp(answer.float() * 255.0, 0.0, 255.0).permute(0, 2, 3, 1).contiguous()

    def distil(self, output: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Charbonnier distance to the teacher's image."""
        return charbonnier(output.float() - teacher.float())
