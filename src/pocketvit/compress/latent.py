"""Layers that compute with a function of their weights while they are retrained: masked, binary, or rounded.

The parameters stay what they are, under their names, so that training, its average and its checkpoints know nothing of
it; afterwards the function's values take their place, and the network is one of plain layers again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketvit.errors import UsageError
from pocketvit.models.backbone import backbone_of
from pocketvit.models.trained import Trained, copy_of

Form = Callable[[Tensor, Tensor], Tensor]
"""(weight, the layer's constant) to the weight that is computed with, which the gradient passes."""


class LatentLinear(nn.Linear):
    """A linear layer that computes with a function of its weight."""

    form: Form
    constant: Tensor
    inputs: Form | None = None
    """What becomes of its inputs, likewise."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        x = x if self.inputs is None else self.inputs(x, self.constant)
        return F.linear(x, self.form(self.weight, self.constant), self.bias)


class LatentConv2d(nn.Conv2d):
    """A convolution that computes with a function of its weight."""

    form: Form
    constant: Tensor
    inputs: Form | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H', W')."""
        x = x if self.inputs is None else self.inputs(x, self.constant)
        return self._conv_forward(x, self.form(self.weight, self.constant), self.bias)


_LATENT: dict[type, type] = {nn.Linear: LatentLinear, nn.Conv2d: LatentConv2d}


def weighty(model: nn.Module, least_values: int = 0) -> dict[str, nn.Linear | nn.Conv2d]:
    """Linear layers and convolutions with at least so many weights, by path, in the order of the network."""
    found = ((path, module) for path, module in model.named_modules() if type(module) in _LATENT)
    return {path: layer for path, layer in found if layer.weight.numel() >= least_values}  # type: ignore[misc, union-attr]


def heads_of(model: nn.Module) -> tuple[str, ...]:
    """Paths of the layers that give the answers: those outside of the backbone, or else the last one."""
    layers, backbone = list(weighty(model)), backbone_of(model)
    if backbone is not model:
        inner = {id(module) for module in backbone.modules()}
        outside = tuple(path for path in layers if id(model.get_submodule(path)) not in inner)
        if outside:
            return outside
    return tuple(layers[-1:])


def chosen_layers(
    step: str, trained: Trained, *, first: bool, last: bool, words: Sequence[str], least_values: int
) -> list[str]:
    """Paths of the layers that a step changes, in the order of the network.

    Args:
        step: its name, for the error.
        trained: the network.
        first: with the first layer (of a ViT the patch embedding).
        last: with the heads.
        words: only layers whose path holds one of them; empty takes all.
        least_values: layers with fewer weights are left alone.

    Raises:
        UsageError: there are none.
    """
    layers = weighty(trained.model)
    heads = heads_of(trained.model)
    start = next((path for path in layers if path not in heads), "")
    spared = (() if last else heads) + (() if first else (start,))
    named = [x for x in layers if not words or any(word in x for word in words)]
    chosen = [x for x in named if x not in spared and layers[x].weight.numel() >= least_values]
    if not chosen:
        what = f"compress.steps.{step}: {trained.model_spec.name} has no layer for it."
        raise UsageError(what, "Set first and last, name other layers, or lower least_values.")
    return chosen


def with_latent(trained: Trained, constants: Mapping[str, Tensor], form: Form, inputs: Form | None = None) -> Trained:
    """A copy whose layers at these paths compute with ``form(weight, constant)`` of ``inputs(x, constant)``."""
    result = copy_of(trained)
    for path, constant in constants.items():
        layer = result.model.get_submodule(path)
        # The class alone is another: parameters, hooks and all the rest are the layer's own.
        layer.__class__ = _LATENT[type(layer)]
        layer.form, layer.inputs = form, inputs  # type: ignore[assignment]
        layer.register_buffer("constant", constant.clone(), persistent=False)
    return result


@torch.no_grad()
def settled(trained: Trained, constants: Mapping[str, Tensor], form: Form) -> Trained:
    """A copy of plain layers whose weights at these paths are ``form(weight, constant)``."""
    result = copy_of(trained)
    for path, constant in constants.items():
        layer = result.model.get_submodule(path)
        if isinstance(layer, (LatentLinear, LatentConv2d)):
            del layer.form, layer.inputs, layer._buffers["constant"]
            layer._non_persistent_buffers_set.discard("constant")
            layer.__class__ = type(layer).__mro__[1]
        weight: Tensor = layer.weight  # type: ignore[assignment]
        weight.copy_(form(weight, constant.to(weight.device)))
    return replace(result, model=result.model.eval())
