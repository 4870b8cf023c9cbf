"""The width of a ViT's tokens: channels ranked by Taylor importance where they are read, and cut off everywhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pocketvit.compress.importance import Batches, losses
from pocketvit.errors import UsageError
from pocketvit.models.narrow import find_vit, keep_width, width_layers
from pocketvit.models.trained import Trained


def narrow_width(network: Trained, width: int, batches: Batches) -> None:
    """Cut a ViT to the ``width`` channels that matter most, in place.

    The norms then see other means and deviations, so the answers change whatever is cut: retraining has to follow.

    Raises UsageError: there is no ViT with learned positions, or it is not that wide.
    """
    vit = find_vit(network.model)
    if vit is None:
        what = f"{network.model_spec.name} is no plain ViT with learned positions: its width cannot be cut."
        raise UsageError(what, "Leave out width.")
    if width > vit.embed_dim:
        what = f"compress.steps.prune.width {width} is above the {vit.embed_dim} channels that there are."
        raise UsageError(what, "Lower it.")
    ranked = torch.sort(channel_importance(network, batches), stable=True, descending=True).indices
    keep_width(network.model, sorted(ranked[:width].tolist()))


def channel_importance(network: Trained, batches: Batches) -> Tensor:
    """(D,) float64: what the loss loses to first order without a channel of the tokens, as each norm reads it."""
    norms, inputs = width_layers(network.model)[2], dict[int, Tensor]()
    handles = [norm.register_forward_pre_hook(_keeper(inputs, index)) for index, norm in enumerate(norms)]
    vit = find_vit(network.model)
    assert vit is not None
    total = torch.zeros(vit.embed_dim, dtype=torch.float64)
    try:
        network.model.eval()
        for loss, _ in losses(network, batches):
            known = sorted(inputs)
            for index, gradient in zip(known, torch.autograd.grad(loss, [inputs[i] for i in known], allow_unused=True)):
                if gradient is not None:
                    gates = (inputs[index].detach() * gradient).reshape(len(gradient), -1, len(total)).sum(1)
                    total += gates.abs().sum(0).double()
    finally:
        for handle in handles:
            handle.remove()
    return total


def _keeper(inputs: dict[int, Tensor], index: int) -> Any:
    def keep(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs[index] = arguments[0]

    return keep
