"""Linear layers as a product of two narrow ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class LowRank(nn.Module):
    """``up(down(x))``: a linear layer of rank ``rank`` at most, with in + out instead of in * out weights a rank."""

    def __init__(self, inputs: int, outputs: int, rank: int, bias: bool = True) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=bias)

    @property
    def settings(self) -> dict[str, Any]:
        """What :meth:`in_place_of` takes beside the layer."""
        return {"rank": self.down.out_features}

    @classmethod
    def in_place_of(cls, layer: nn.Module, rank: int) -> LowRank:
        """Of the same inputs and outputs as a linear layer, with random weights. Raises RuntimeError: it is none."""
        if not isinstance(layer, nn.Linear) or not 1 <= rank <= max(layer.in_features, layer.out_features):
            raise RuntimeError(f"rank {rank} of {type(layer).__name__}")
        return cls(layer.in_features, layer.out_features, rank, layer.bias is not None)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return self.up(self.down(x))
