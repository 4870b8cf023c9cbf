"""What is left of layers whose constants a step has folded into the weights of their neighbours."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit.models.layers.attention import SelfAttention


class BareNorm(nn.LayerNorm):
    """(x - mean) / deviation over the last axis, whatever its width, with no weight and no bias."""

    settings: ClassVar[dict[str, Any]] = {}

    @classmethod
    def in_place_of(cls, layer: nn.Module) -> BareNorm:
        """With the epsilon of a LayerNorm. Raises RuntimeError: it is none, or one over several axes."""
        if not isinstance(layer, nn.LayerNorm) or len(layer.normalized_shape) != 1:
            raise RuntimeError(f"{type(layer).__name__} is no norm over the last axis")
        return cls(layer.normalized_shape, eps=layer.eps, elementwise_affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return F.layer_norm(x, x.shape[-1:], None, None, self.eps)


class Nothing(nn.Identity):
    """In place of a batch norm, or of a factor for each channel."""

    settings: ClassVar[dict[str, Any]] = {}

    @classmethod
    def in_place_of(cls, layer: nn.Module) -> Nothing:
        """Raises RuntimeError: the layer does more than to scale and shift channels."""
        if type(layer) is not nn.BatchNorm2d and [name for name, _ in layer.named_parameters()] != ["gamma"]:
            raise RuntimeError(f"{type(layer).__name__} is more than a factor for each channel")
        return cls()


class Activation(nn.Module):
    """In place of timm's batch norm with its activation: the activation alone."""

    settings: ClassVar[dict[str, Any]] = {}

    def __init__(self, drop: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.drop, self.act = drop, act

    @classmethod
    def in_place_of(cls, layer: nn.Module) -> Activation:
        """Raises RuntimeError: the layer is no batch norm that has an activation."""
        if not has_activation(layer):
            raise RuntimeError(f"{type(layer).__name__} is no batch norm with an activation")
        return cls(layer.get_submodule("drop"), layer.get_submodule("act"))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.act(self.drop(x))  # type: ignore[no-any-return]


def has_activation(layer: nn.Module) -> bool:
    """Whether a layer is a batch norm with an activation behind it (``BatchNormAct2d`` of timm)."""
    parts = (getattr(layer, name, None) for name in ("drop", "act"))
    return isinstance(layer, nn.BatchNorm2d) and all(isinstance(part, nn.Module) for part in parts)


class UnscaledAttention(SelfAttention):
    """softmax(Q K^T) V: the factor 1 / sqrt(d) is in the weights that make Q."""

    settings: ClassVar[dict[str, Any]] = {}
    scale = 1.0

    @classmethod
    def in_place_of(cls, layer: nn.Module) -> UnscaledAttention:
        """With the weights of an attention, as they are. Raises RuntimeError: it is none, or one of another kind."""
        if type(layer) is not SelfAttention:
            raise RuntimeError(f"{type(layer).__name__} is no plain attention")
        result: Any = copy.deepcopy(layer)
        result.__class__ = cls
        return result  # type: ignore[no-any-return]
