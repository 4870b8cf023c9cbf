"""Second moments of what flows into layers on calibration images: how errors of weights add up in their outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from pocketvit.compress.layers import Layer, session
from pocketvit.errors import DataError
from pocketvit.export.wrap import INPUT
from pocketvit.spec.preprocess import Pixels

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Of the inputs x of a layer in a changed graph, and of those y that it has in the float graph."""

    own: Doubles
    """(channels, channels): mean of x x^T, damped."""
    towards: Doubles
    """(channels, channels): mean of x y^T, damped alike."""

    def target(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """The matrix (in, out) that on x comes nearest to what ``matrix`` gives on y: least squares with a ridge."""
        if self.own is self.towards:
            return matrix
        return np.linalg.solve(self.own, self.towards @ matrix).astype(np.float32)


def second_moments(
    graph: onnx.ModelProto,
    layers: Sequence[Layer],
    images: Sequence[Pixels],
    threads: int,
    damping: float,
    reference: onnx.ModelProto | None = None,
) -> dict[str, Moments]:
    """Moments over all tokens of all images, by name of the tensor that flows into Gemm and MatMul layers.

    Args:
        graph: a float graph, some of whose weights may be other ones.
        layers: its layers; convolutions are left out.
        images: (H, W, 3) uint8 model inputs.
        threads: of the engine.
        damping: share of the mean of the diagonal that is added to it, so that directions that no image shows count.
        reference: the same graph with the weights that it had; by default ``graph``.

    Raises:
        DataError: there are no images.
    """
    if not images:
        raise DataError("there are no calibration images.", "Give some training images.")
    names = sorted({layer.input for layer in layers if layer.kind != "Conv"})
    runners = [session(_giving(each, names), threads) for each in (graph, reference) if each is not None]
    sums: dict[str, list[Doubles]] = {}
    count = dict.fromkeys(names, 0)
    for image in images:
        answers = [runner.run(names, {INPUT: image[None]}) for runner in runners]
        for name, *values in zip(names, *answers, strict=True):
            rows = [value.reshape(-1, value.shape[-1]).astype(np.float64) for value in values]
            products = [rows[0].T @ other for other in rows]
            sums[name] = [a + b for a, b in zip(sums[name], products)] if name in sums else products
            count[name] += len(rows[0])
    return {name: _moments([total / count[name] for total in totals], damping) for name, totals in sums.items()}


def _moments(means: Sequence[Doubles], damping: float) -> Moments:
    added = damping * np.mean(np.diag(means[0])) + 1e-9
    own, *others = [mean + added * np.eye(len(mean)) for mean in means]
    return Moments(own, others[0] if others else own)


def _giving(graph: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy that gives the tensors ``names`` too."""
    observed = onnx.ModelProto()
    observed.CopyFrom(graph)
    have = {port.name for port in observed.graph.output} | {INPUT}
    more = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in have]
    observed.graph.output.extend(more)
    return observed
