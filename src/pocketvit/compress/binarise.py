"""Binarise: weights are a sign and one scale for each output channel, learned with a straight-through gradient.

BinaryViT (Le and Li 2023) without its changes of the architecture, and of weights alone: activations stay float. A
weight is ``mean |w| * sign(w)`` (Rastegari et al. 2016, XNOR-Net, eq. 6), its gradient that of w clipped to [-1, 1]
(Courbariaux et al. 2016). First and last layers stay in float unless they are asked for. Engines have no kernels for
it: the file computes in float32, and one bit a weight is what the step ``store`` makes of it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pocketvit.compress.latent import chosen_layers, settled, weighty, with_latent
from pocketvit.compress.retrain import Retraining, own_folder, retrained
from pocketvit.compress.step import Context, StepReport
from pocketvit.models.trained import Trained


@dataclass(frozen=True)
class Binarise(Retraining):
    """Binary weights, trained with distillation from the float network."""

    first: bool = False
    """Binarise the first layer too (of a ViT the patch embedding)."""
    last: bool = False
    """Binarise the heads too (or the last layer of a network without)."""
    layers: tuple[str, ...] = ()
    """Only layers whose path holds one of these words (``mlp``); empty takes all."""
    least_values: int = 1024
    """Layers with fewer weights stay in float."""


def binarise(step: Binarise, trained: Trained, context: Context) -> StepReport:
    """A copy with binary weights, trained on; its layers are plain ones.

    Raises:
        UsageError: no layer is left to binarise, or there are no data to train on.
    """
    chosen = chosen_layers(
        "binarise", trained, first=step.first, last=step.last, words=step.layers, least_values=step.least_values
    )
    constants = dict.fromkeys(chosen, torch.zeros(0))
    latent = with_latent(trained, constants, binary)
    network = settled(retrained(latent, trained, own_folder(context, asdict(step)), step.settings()), constants, binary)
    layers = weighty(network.model)
    weights = sum(layers[path].weight.numel() for path in chosen)
    total = sum(parameter.numel() for parameter in network.model.parameters())
    notes = {"layers": chosen, "binary_weights": weights, "parameters": total}
    told = (
        f"{100 * weights / total:.0f} % of the weights are a sign and a scale; engines compute them in float32, "
        "so nothing gets faster; the step store keeps one bit of each"
    )
    return StepReport("binarise", asdict(step), network, notes=notes, told=told)


def binary(weight: Tensor, _: Tensor) -> Tensor:
    """The sign of each weight times the mean absolute value of its output channel; 0 counts as positive.

    The gradient is that of the weight itself between -1 and 1, and 0 beyond.
    """
    scale = weight.detach().abs().mean(dim=tuple(range(1, weight.dim())), keepdim=True)
    value = torch.where(weight.detach() < 0, -scale, scale)
    passed = weight.clamp(-1, 1)
    # The sum rounds, and the value must not be touched by it: what is stored are exactly two values a channel.
    return _Through.apply(value, passed)  # type: ignore[no-any-return]


class _Through(torch.autograd.Function):
    """A value with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, passed: Tensor) -> Tensor:
        """The value."""
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        """All of it to the other."""
        return None, gradient
