"""What every task stands on: one protocol, which all rows of ``VARIANTS`` and all ``timm:`` models keep."""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

State = dict[str, Tensor]
Size = tuple[int, int]
"""Height and width."""
FeatureKind = Literal["maps", "tokens"]


@runtime_checkable
class Backbone(Protocol):
    """An ``nn.Module`` on normalised images (B, 3, H, W) float32. A test holds every row to what it declares."""

    feature_kind: FeatureKind
    """Maps (B, C, h, w), or tokens (B, h * w, C) of the grid in row order, without class tokens."""
    strides: tuple[int, ...]
    """Of each feature, finest first: h and w are those of the image over the stride, rounded up."""
    any_size: bool
    """Takes any H and W; otherwise only those that it was built with."""

    @property
    def channels(self) -> tuple[int, ...]:
        """C of each feature."""

    @property
    def embed_dim(self) -> int:
        """Width of the pooled feature; of the last of :meth:`features` where :meth:`forward` gives an image."""

    def features(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one tensor for each stride."""

    def forward(self, image: Tensor) -> Any:
        """(B, 3, H, W) -> (B, embed_dim); where the architecture gives images, one (B, 3, H, W) in [0, 1]; where it
        gives depth, a score (B, 1, h, w), or with adaptive bins (attribute ``bins``) depth (B, 1, h, w) and the centres
        (B, bins), both in metres. Those that have a method ``give_classes`` give after ``give_classes(K)`` logits of K
        classes (B, K, h, w) in place of the score."""

    def resize_state(self, state: State, size: Size | None = None) -> State:
        """A state of this network, of any input size, for a network built at ``size`` (by default this one).

        Grids of positions are resampled; whatever does not depend on the size stays as it is.
        """


def backbone_of(model: nn.Module) -> nn.Module:
    """The backbone inside a task's model: its attribute ``backbone``, or the model itself where nothing is added."""
    inner = getattr(model, "backbone", model)
    assert isinstance(inner, nn.Module)
    return inner


class AnySize:
    """Part of :class:`Backbone` for networks in which nothing depends on the input size."""

    any_size = True
    multiple = 1
    """H and W are padded inside to multiples of this. Files of networks that give images and state it take any size."""

    def resize_state(self, state: State, size: Size | None = None) -> State:
        """As it is."""
        return state


class OneFeature:
    """Part of :class:`Backbone` for networks with one feature."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Its width."""
        return (self.embed_dim,)  # type: ignore[attr-defined]
