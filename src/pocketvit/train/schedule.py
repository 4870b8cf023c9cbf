"""The learning rate as a function of progress alone, so that a resumed run continues on the same curve."""

from __future__ import annotations

import math

from torch import nn, optim
from torch.nn.modules.conv import _ConvNd

from pocketvit.spec.recipe import TrainConfig


def lr_scale(settings: TrainConfig, progress: float) -> float:
    """Factor on ``lr`` at ``progress`` (0 to 1): linear warm-up, then cosine or linear decay to ``min_lr``, or none."""
    progress = min(max(progress, 0.0), 1.0)
    if progress < settings.warmup:
        return (progress + 1e-3 * settings.warmup) / (settings.warmup * 1.001)
    if settings.schedule == "constant":
        return 1.0
    done = (progress - settings.warmup) / (1 - settings.warmup)
    falling = 0.5 * (1 + math.cos(math.pi * done)) if settings.schedule == "cosine" else 1 - done
    return settings.min_lr + (1 - settings.min_lr) * falling


def make_optimizer(model: nn.Module, settings: TrainConfig) -> optim.Optimizer:
    """AdamW, Adam or SGD with Nesterov momentum.

    Only weights of linear and convolution layers are decayed: not biases, norms, class tokens, positions, queries or
    temperatures, whatever their shape.
    """
    weights = {id(module.weight) for module in model.modules() if isinstance(module, (nn.Linear, _ConvNd))}
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in weights], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if id(p) not in weights], "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        return optim.SGD(groups, lr=settings.lr, momentum=settings.betas[0], nesterov=settings.betas[0] > 0)
    kind = {"adamw": optim.AdamW, "adam": optim.Adam}[settings.optimizer]
    return kind(groups, lr=settings.lr, betas=settings.betas)


def set_lr(optimizer: optim.Optimizer, lr: float) -> None:
    """Set the rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
