"""Second moments of what flows into layers on calibration images: how errors of weights add up in their outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from pocketvit.compress.layers import Layer, observed, session
from pocketvit.errors import DataError
from pocketvit.export.wrap import INPUT
from pocketvit.spec.preprocess import Pixels

Doubles = NDArray[np.float64]
LEAST_TOKENS = 4
"""Tokens for each channel from which moments of two channels are believed."""


def second_moments(
    graph: onnx.ModelProto, layers: Sequence[Layer], images: Sequence[Pixels], threads: int, damping: float
) -> dict[str, Doubles]:
    """Mean of x x^T over all tokens x of all images, by name of the tensor that flows into Gemm and MatMul layers.

    A layer that sees few tokens (a head, or a last block that computes the class token alone) gets the diagonal only:
    what channels have in common on some dozens of images is chance, and weights fitted to it fail on all others.

    Args:
        graph: a float graph.
        layers: its layers; convolutions are left out.
        images: (H, W, 3) uint8 model inputs.
        threads: of the engine.
        damping: share of the mean of the diagonal that is added to it, so that directions that no image shows count.

    Returns:
        (channels, channels) float64 by tensor.

    Raises:
        DataError: there are no images.
    """
    if not images:
        raise DataError("there are no calibration images.", "Give some training images.")
    names = sorted({layer.input for layer in layers if layer.kind != "Conv"})
    runner = session(observed(graph, names), threads)
    sums: dict[str, Doubles] = {}
    count = dict.fromkeys(names, 0)
    for image in images:
        for name, value in zip(names, runner.run(names, {INPUT: image[None]}), strict=True):
            rows = value.reshape(-1, value.shape[-1]).astype(np.float64)
            sums[name] = sums.get(name, 0.0) + rows.T @ rows
            count[name] += len(rows)
    return {name: _damped(total / count[name], damping, count[name]) for name, total in sums.items()}


def _damped(moments: Doubles, damping: float, tokens: int) -> Doubles:
    added = damping * np.mean(np.diag(moments)) + 1e-9
    believed = moments if tokens >= LEAST_TOKENS * len(moments) else np.diag(np.diag(moments))
    return believed + added * np.eye(len(moments))
