"""Pixels to the network's input, in torch: the one place that applies colour order, scaling, mean and deviation."""

from __future__ import annotations

import torch
from torch import Tensor

from pocketvit.spec.preprocess import Preprocess


def normalise(pixels_bhwc: Tensor, preprocess: Preprocess) -> Tensor:
    """(B, H, W, 3) uint8 RGB -> (B, 3, H, W) float32: (x / 255 - mean) / std in the model's colour order.

    The result keeps the channels-last memory layout that the pixels came in.
    """
    if preprocess.color == "BGR":
        pixels_bhwc = pixels_bhwc.flip(-1)
    x = pixels_bhwc.permute(0, 3, 1, 2).to(torch.float32)
    mean = torch.tensor(preprocess.mean, dtype=torch.float32, device=x.device).view(1, 3, 1, 1)
    std = torch.tensor(preprocess.std, dtype=torch.float32, device=x.device).view(1, 3, 1, 1)
    # One multiply and one add; folded into constants by every exporter.
    return x * (1.0 / (255.0 * std)) + (-mean / std)
