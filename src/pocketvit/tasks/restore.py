"""Restore: denoise and deblur. The network's output is the image in [0, 1]; losses compare it with the clean one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pocketvit.models.told import ToldRestorer
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


LEVEL_WEIGHT = 0.3
"""Of the noise level's estimate in the loss."""
LOW_COSTS = 3.0
LOSSES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "l1": lambda d, floor: d.abs().mean(),
    "mse": lambda d, floor: d.square().mean(),
    "charbonnier": lambda d, floor: charbonnier(d),
    "log_mse": log_mse,
    "auto": log_mse,
}


def build(backbone: nn.Module, config: Any, levels: Sequence[LevelSpec], preprocess: Preprocess) -> nn.Module:
    """The backbone itself, which already gives an image."""
    return backbone


def targets(clean_bhwc: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [0, 1]."""
    return clean_bhwc.permute(0, 3, 1, 2).to(torch.float32) / 255.0


def loss(output: Any, target: Tensor, config: Any, state: None = None) -> Tensor:
    """Scalar ``config.loss`` of (B, 3, H, W) against the same shape."""
    if isinstance(output, tuple):
        output, estimate, truth = output
        return loss(output, target, config) + LEVEL_WEIGHT * level_loss(estimate.float(), truth.float())
    return LOSSES[config.loss](output.float() - target, config.loss_floor)


def level_loss(estimate: Tensor, truth: Tensor) -> Tensor:
    """Squared difference of the logs of noise levels; too low counts ``LOW_COSTS`` times (CBDNet, equation 5)."""
    difference = estimate - truth
    return (difference.square() * torch.where(difference < 0, LOW_COSTS, 1.0)).mean()


def told(model: nn.Module, image: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """The true noise level for a network that asks for one."""
    return (model.true_level(image, target),) if isinstance(model, ToldRestorer) else ()


def distil(output: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Charbonnier distance to the teacher's image."""
    return charbonnier(output.float() - teacher.float())


def graph_output(answer: Tensor, preprocess: Preprocess) -> Tensor:
    """(B, 3, H, W) in [0, 1], in the model's colour order -> (B, H, W, 3) RGB, 0 to 255, clamped and not rounded."""
    if preprocess.color == "BGR":
        answer = answer.flip(1)
    return torch.clamp(answer.float() * 255.0, 0.0, 255.0).permute(0, 2, 3, 1).contiguous()


RESTORE = TorchTask(build=build, loss=loss, told=told, distil=distil, graph_output=graph_output, targets=targets)
