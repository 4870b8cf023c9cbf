"""The graph that is exported: pixels in, answers out. Normalisation, channel order, softmax, clamp and layout are inside.

Everything in it is static: shapes are Python integers when the graph is captured, so that no engine has to guess.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pocketvit.errors import UsageError
from pocketvit.models.pixels import normalise
from pocketvit.spec.preprocess import Preprocess

INPUT = "pixels"


class PixelModel(nn.Module):
    """(1, H, W, 3) uint8 RGB -> ``restored`` (1, H, W, 3) float32 in 0..255, not rounded, or ``probs_<level>`` (1, classes) float32 each.

    Args:
        model: maps normalised float (B, 3, H, W) to an image (B, 3, H, W) in [0, 1], or to logits (B, classes), one tensor or one per level.
        preprocess: its ``color``, ``mean`` and ``std`` are baked in.
        task: ``restore`` or ``classify``.
        level_names: names of the label levels, coarsest first (``classify``).

    Raises:
        UsageError: another task, or ``classify`` without levels.
    """

    def __init__(self, model: nn.Module, preprocess: Preprocess, task: str, level_names: Sequence[str] = ()) -> None:
        super().__init__()
        if task not in ("restore", "classify"):
            raise UsageError(f"task {task!r} cannot be exported.", "Take restore or classify.")
        if task == "classify" and not level_names:
            raise UsageError("a classifier needs at least one label level.", "Give the level names, coarsest first.")
        self.model, self.preprocess, self.task = model, preprocess, task
        self.output_names = ["restored"] if task == "restore" else [f"probs_{name}" for name in level_names]
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Answer for one image."""
        answer = self.model(normalise(pixels, self.preprocess))
        if self.task == "restore":
            if self.preprocess.color == "BGR":
                answer = answer.flip(1)
            return torch.clamp(answer * 255.0, 0.0, 255.0).permute(0, 2, 3, 1).contiguous()
        logits = (answer,) if isinstance(answer, Tensor) else tuple(answer)
        if len(logits) != len(self.output_names):
            raise UsageError(
                f"the model has {len(logits)} heads for {len(self.output_names)} levels.",
                "Build it with one head per level.",
            )
        return tuple(torch.softmax(x.float(), dim=-1) for x in logits)


def example(size: tuple[int, int]) -> Tensor:
    """A grey (1, H, W, 3) uint8 input to capture the graph with."""
    return torch.full((1, *size, 3), 128, dtype=torch.uint8)
