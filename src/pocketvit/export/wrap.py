"""The graph that is exported: pixels in, answers out, with normalisation, channel order and layout inside.

Everything in it is static: shapes are Python integers when the graph is captured, so that no engine has to guess.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from pocketvit.errors import UsageError
from pocketvit.models.pixels import normalise
from pocketvit.spec.preprocess import PIXELS, Preprocess
from pocketvit.spec.split import FEATURES

INPUT = PIXELS
GraphOutput = Callable[[Any, Preprocess], Tensor | tuple[Tensor, ...]]


class PixelModel(nn.Module):
    """(1, H, W, 3) uint8 RGB to the outputs that the task's record names, float32 with a batch dimension of 1.

    Args:
        model: maps normalised float (B, 3, H, W) to what the task's head gives.
        preprocess: its ``color``, ``mean`` and ``std`` are baked in.
        graph_output: from what the head gives to the outputs (``TorchTask.graph_output``), baked in too.
        output_names: names of the outputs, in order.
    """

    def __init__(
        self, model: nn.Module, preprocess: Preprocess, graph_output: GraphOutput, output_names: Sequence[str]
    ) -> None:
        super().__init__()
        self.model, self.preprocess, self.graph_output = model, preprocess, graph_output
        self.output_names = list(output_names)
        self.eval()

    input_name = INPUT

    @property
    def input_shape(self) -> list[int]:
        """Of the one input; -1 is a free size."""
        return self.preprocess.input_shape

    def example(self, size: tuple[int, int]) -> Tensor:
        """An input for images of ``size`` (height, width) to capture the graph with."""
        return example(size)

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Answer for one image.

        Raises:
            UsageError: the model gives another number of outputs than there are names.
        """
        answer = self.graph_output(self.model(normalise(pixels, self.preprocess)), self.preprocess)
        count = 1 if isinstance(answer, Tensor) else len(answer)
        if count != len(self.output_names):
            what = f"the model has {count} outputs, not the {len(self.output_names)} of its task."
            raise UsageError(what, "Build it with one head per output (label level).")
        return answer


class FeatureModel(PixelModel):
    """The tail of a split network: (1, tokens, width) float32 features to the outputs of the whole."""

    input_name = FEATURES

    def __init__(self, shape: Sequence[int], *args: Any, **options: Any) -> None:
        """``shape``: (1, tokens, width); the rest is :class:`PixelModel`'s."""
        super().__init__(*args, **options)
        self._shape = list(shape)

    @property
    def input_shape(self) -> list[int]:
        """(1, tokens, width)."""
        return self._shape

    def example(self, size: tuple[int, int]) -> Tensor:
        """Features of no image; ``size`` does not matter."""
        return torch.randn(self._shape, generator=torch.Generator().manual_seed(0))

    def forward(self, features: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Answer for the features of one image."""
        return self.graph_output(self.model(features), self.preprocess)


def example(size: tuple[int, int]) -> Tensor:
    """A grey (1, H, W, 3) uint8 input to capture the graph with."""
    return torch.full((1, *size, 3), 128, dtype=torch.uint8)


def macs_of(model: PixelModel) -> int:
    """Multiply-accumulates of matrix products and convolutions for one input, on the CPU."""
    # The processor's fused attention is not among the operators that the counter knows.
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={fused: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)})
    with torch.no_grad(), counter:
        model(model.example(model.preprocess.size))
    return int(counter.get_total_flops() // 2)
