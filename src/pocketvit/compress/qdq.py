"""Writing quantisers into an ONNX graph (QDQ form) and finding good ones for each layer.

Weights are symmetric int8 per output channel, activations asymmetric uint8 per tensor. Linear layers get a quantised
input and keep a float output, so residual sums, LayerNorm, softmax and attention products stay in float; convolutions,
which follow each other directly, get a quantised output too and swallow their ReLU.

A tensor with a few loud channels wastes its 8 bits. Where it lowers the layer's error on calibration rows, the input is
divided by a factor per channel that the weights take over (SmoothQuant, Xiao et al. 2023, eq. 4); behind a LayerNorm
the division costs nothing, elsewhere it is one multiplication.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from pocketvit.compress.layers import Floats, Layer, Stats, array

Range = tuple[float, float]


@dataclass(frozen=True)
class Plan:
    """How one layer is quantised."""

    low: float
    high: float
    factor: Floats | None
    """Per input channel, what the input is divided by and the weights are multiplied with."""
    values: NDArray[np.int8]
    """Quantised weight, in the shape in which the graph stores it."""
    scale: Floats
    """Scale of each output channel."""
    error: float
    """Mean over calibration rows of the output's squared error over the row's mean square; NaN for convolutions."""
    shift: Floats | None = None
    """Per output channel, what the quantised layer gives too little on average: the bias makes up for it."""


def activation_parameters(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of an asymmetric uint8 range that holds zero exactly."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    scale = max((high - low) / 255.0, 1e-8)
    return np.float32(scale), np.uint8(np.clip(round(-low / scale), 0, 255))


def fake(values: Floats, low: float, high: float) -> Floats:
    """Values after going through 8 bits."""
    scale, zero = activation_parameters(low, high)
    return ((np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale).astype(np.float32)


def weight_parameters(weight: Floats, axis: int, reduce_range: bool) -> tuple[NDArray[np.int8], Floats]:
    """Symmetric int8 values and scale per channel of ``axis``; 7 bits with ``reduce_range`` (AVX2 saturates on 8)."""
    top = 63.0 if reduce_range else 127.0
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = np.maximum(np.abs(weight).max(axis=others) / top, 1e-9).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    return np.clip(np.rint(weight / scale.reshape(shape)), -top, top).astype(np.int8), scale


def plan_layer(
    layer: Layer,
    weight: Floats,
    stats: Mapping[str, Stats],
    *,
    smooth: Sequence[float],
    clip: Sequence[float],
    foldable: bool,
    reduce_range: bool = False,
    compensate: bool = True,
) -> Plan:
    """The range and per-channel factor with the least error on calibration rows.

    Args:
        layer: the layer.
        weight: its weight as stored.
        stats: from :func:`pocketvit.compress.layers.collect`.
        smooth: strengths to try beside none (0.5 shares the range evenly between input and weights).
        clip: shares of the seen range to try.
        foldable: the division costs nothing; else it must lower the error by a third to be taken.
        reduce_range: 7-bit weights.
        compensate: round weights so that they make up for each other's errors, see :func:`fit_weight`.
    """
    seen = stats[layer.input]
    if layer.kind == "Conv" or seen.rows is None:
        return Plan(
            float(seen.low.min()),
            float(seen.high.max()),
            None,
            *weight_parameters(weight, 0 if layer.kind == "Conv" else 1, reduce_range),
            float("nan"),
        )
    matrix = weight.T if layer.transposed else weight  # (in, out)
    rows, wanted = seen.rows, seen.rows @ matrix
    share = evenly(wanted)
    peak = np.maximum(np.maximum(np.abs(seen.low), np.abs(seen.high)), 1e-5)
    best: tuple[float, Floats | None, float, float] | None = None
    for strength in (None, *smooth):
        factor = None if strength is None else _factor(peak, matrix, strength)
        one = np.float32(1) if factor is None else factor
        values, scale = weight_parameters(matrix * np.reshape(one, (-1, 1)), 1, reduce_range)
        low, high = float((seen.low / one).min()), float((seen.high / one).max())
        for part in clip:
            got = fake(rows / one, low * part, high * part) @ (values * scale)
            error = float(np.mean(((got - wanted) * share) ** 2))
            handicap = 1.5 if factor is not None and not foldable and (best is None or best[1] is None) else 1.0
            if best is None or error * handicap < best[0]:
                best = (error, factor, low * part, high * part)
    assert best is not None
    error, factor, low, high = best
    one = np.float32(1) if factor is None else factor
    seen_rows = fake(rows / one, low, high)
    even = matrix * np.reshape(one, (-1, 1))
    values, scale = (
        _generalising(seen_rows * share, wanted * share, even, reduce_range)
        if compensate
        else weight_parameters(even, 1, reduce_range)
    )
    missing = wanted - seen_rows @ (values * scale)
    shift = missing.mean(axis=0) if compensate and layer.bias is not None else np.zeros(len(scale), np.float32)
    error = float(np.mean(((missing - shift) * share) ** 2))
    return Plan(low, high, factor, np.ascontiguousarray(values.T) if layer.transposed else values, scale, error, shift)


def evenly(wanted: Floats) -> Floats:
    """(R, 1) factors under which every row of a layer's output counts alike.

    A few tokens of a trained transformer are a hundred times louder than the rest, and the norm that reads the sum
    takes each token by its own size: a plain mean would give the quantiser to them alone.
    """
    power = np.mean(wanted.astype(np.float64) ** 2, axis=1, keepdims=True)
    least = 0.05 * np.median(power) + 1e-6 * power.mean() + 1e-12  # rows of nothing must not count for most
    return (1.0 / np.sqrt(power + least)).astype(np.float32)


def _generalising(rows: Floats, wanted: Floats, matrix: Floats, reduce_range: bool) -> tuple[NDArray[np.int8], Floats]:
    """Fitted weights where they also lower the error on rows they were not fitted to; wide layers have too few rows."""
    plain = weight_parameters(matrix, 1, reduce_range)
    cut = 3 * len(rows) // 4
    trial = fit_weight(rows[:cut], wanted[:cut], matrix, reduce_range)
    errors = [np.mean((rows[cut:] @ (values * scale) - wanted[cut:]) ** 2) for values, scale in (plain, trial)]
    return fit_weight(rows, wanted, matrix, reduce_range) if errors[1] < 0.95 * errors[0] else plain


def fit_weight(
    rows: Floats, wanted: Floats, matrix: Floats, reduce_range: bool, damping: float = 0.01
) -> tuple[NDArray[np.int8], Floats]:
    """Int8 weights that make up for rounding: of the input by least squares, of the weights by GPTQ.

    Frantar et al. 2023, algorithm 1.

    Args:
        rows: (R, in) inputs as the quantised layer sees them.
        wanted: (R, out) what the float layer gives.
        matrix: (in, out) float weights to stay close to.
        reduce_range: 7-bit weights.
        damping: share of the mean squared input added to every channel's; it keeps unseen directions as they are.

    Returns:
        (in, out) int8 values and (out,) scales.
    """
    x = rows.astype(np.float64)
    hessian = x.T @ x
    hessian[np.diag_indices_from(hessian)] += damping * np.mean(np.diag(hessian)) + 1e-9
    weight = matrix + np.linalg.solve(hessian, x.T @ (wanted - rows @ matrix))
    values, scale = weight_parameters(weight.astype(np.float32), 1, reduce_range)
    top = 63 if reduce_range else 127
    inverse = np.linalg.cholesky(np.linalg.inv(hessian)).T
    for i in range(len(weight)):
        values[i] = np.clip(np.rint(weight[i] / scale), -top, top)
        miss = (weight[i] - values[i] * scale) / inverse[i, i]
        weight[i + 1 :] -= np.outer(inverse[i, i + 1 :], miss)
    return values, scale


def _factor(peak: Floats, matrix: Floats, strength: float) -> Floats:
    loud = np.maximum(np.abs(matrix).max(axis=1), 1e-5)
    factor = peak**strength / loud ** (1 - strength)
    return (factor / np.exp(np.log(factor).mean())).astype(np.float32)


def norm_before(graph: onnx.ModelProto, layer: Layer) -> onnx.NodeProto | None:
    """The LayerNormalization whose output feeds this layer alone (reshapes may lie between)."""
    producers = {name: node for node in graph.graph.node for name in node.output}
    constants = {x.name for x in graph.graph.initializer}
    uses: dict[str, int] = defaultdict(int)
    for node in graph.graph.node:
        for name in node.input:
            uses[name] += 1
    for name in (x.name for x in graph.graph.output):
        uses[name] += 1
    tensor = layer.input
    while tensor in producers and uses[tensor] == 1:
        node = producers[tensor]
        if node.op_type == "LayerNormalization":
            # Without a bias it is one that the step fuse has bared: its ones are a constant that all such norms share.
            bare = len(node.input) == 2 and node.input[1] in constants
            shared = any(uses[name] > 1 for name in node.input[1:])
            return node if bare or (len(node.input) == 3 and not shared) else None
        if node.op_type != "Reshape":
            return None
        tensor = node.input[0]
    return None


class Writer:
    """Collects changes to a copy of a float graph; :meth:`finish` gives the quantised model."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(graph)
        self.constants = {x.name: x for x in self.model.graph.initializer}
        self.nodes = {x.name: x for x in self.model.graph.node}
        self.before: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self.after: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self.removed: set[str] = set()
        self.quantised: dict[str, str] = {}
        self.steps: dict[str, np.float32] = {}

    def constant(self, name: str, values: NDArray[np.generic]) -> str:
        """Add or replace an initialiser."""
        # Not ascontiguousarray, which makes one-element vectors of scalars: QLinearAdd refuses those as scales.
        tensor = numpy_helper.from_array(np.array(values, order="C"), name)
        if name in self.constants:
            self.constants[name].CopyFrom(tensor)
        else:
            self.constants[name] = self.model.graph.initializer.add()
            self.constants[name].CopyFrom(tensor)
        return name

    def pair(self, tensor: str, low: float, high: float) -> tuple[list[onnx.NodeProto], str]:
        """Quantise and dequantise ``tensor``; returns the nodes and the name of the result."""
        scale, zero = activation_parameters(low, high)
        parameters = [
            self.constant(f"{tensor}_scale", np.array(scale)),
            self.constant(f"{tensor}_zero", np.array(zero)),
        ]
        nodes = [
            helper.make_node("QuantizeLinear", [tensor, *parameters], [f"{tensor}_q"], name=f"{tensor}/quantize"),
            helper.make_node(
                "DequantizeLinear", [f"{tensor}_q", *parameters], [f"{tensor}_dq"], name=f"{tensor}/dequantize"
            ),
        ]
        return nodes, f"{tensor}_dq"

    def layer(self, layer: Layer, plan: Plan, norm: onnx.NodeProto | None, output: Range | None) -> None:
        """Quantise one layer; ``output`` is the range of a convolution's result."""
        node = self.nodes[layer.node]
        tensor = layer.input if plan.factor is None else self._divide(layer, plan.factor, norm)
        if tensor not in self.quantised:
            nodes, self.quantised[tensor] = self.pair(tensor, plan.low, plan.high)
            self.steps[tensor] = activation_parameters(plan.low, plan.high)[0]
            self.before[layer.node] += nodes
        axis = 0 if layer.kind == "Conv" or layer.transposed else 1
        scale = plan.scale
        node.input[0] = self.quantised[tensor]
        node.input[1] = self._stored(layer, f"{layer.node}/weight", plan.values, scale, axis)
        if layer.bias is not None:
            steps = scale * self.steps[tensor]  # of the tensor as it was quantised, maybe for another layer
            bias = array(self.model, layer.bias).reshape(-1).astype(np.float64)
            bias = bias if plan.shift is None else bias + plan.shift
            whole = np.clip(np.rint(bias / steps), -(2**31), 2**31 - 1).astype(np.int32)
            node.input[2] = self._stored(layer, f"{layer.node}/bias", whole, steps.astype(np.float32), 0)
        if layer.kind == "Conv" and output is not None:
            self._quantise_output(layer, node, output)

    def _divide(self, layer: Layer, factor: Floats, norm: onnx.NodeProto | None) -> str:
        if norm is not None:
            inputs = self.nodes[norm.name].input
            for index, name in enumerate(inputs[1:], 1):  # as constants of its own: others may share what it has
                values = (array(self.model, name) / factor).astype(np.float32)
                inputs[index] = self.constant(f"{norm.name}/{'weight' if index == 1 else 'bias'}", values)
            return layer.input
        name = f"{layer.node}/even"
        inverse = self.constant(f"{name}_factor", (1.0 / factor).astype(np.float32))
        self.before[layer.node].append(helper.make_node("Mul", [layer.input, inverse], [name], name=name))
        return name

    def _stored(self, layer: Layer, name: str, values: NDArray[np.generic], scale: Floats, axis: int) -> str:
        parameters = [self.constant(name, values), self.constant(f"{name}_scale", scale)]
        if values.dtype == np.int8:
            parameters.append(self.constant(f"{name}_zero", np.zeros(scale.shape, np.int8)))
        self.before[layer.node].append(
            helper.make_node("DequantizeLinear", parameters, [f"{name}_dq"], name=f"{name}/dequantize", axis=axis)
        )
        return f"{name}_dq"

    def _quantise_output(self, layer: Layer, node: onnx.NodeProto, output: Range) -> None:
        """The consumers keep reading the old name, now dequantised; a ReLU is what the range [0, high] does anyway."""
        target = layer.relu or layer.output
        node.output[0] = f"{target}_raw"
        low = 0.0 if layer.relu else output[0]
        nodes, _ = self.pair(f"{target}_raw", low, output[1])
        nodes[-1].output[0] = target
        self.after[layer.node] += nodes
        self.quantised[target], self.steps[target] = target, activation_parameters(low, output[1])[0]
        if layer.relu:
            self.removed.add(layer.relu)

    def finish(self) -> onnx.ModelProto:
        """The model with all changes, in topological order and without unused weights."""
        ordered = []
        for node in self.model.graph.node:
            if node.op_type == "Relu" and node.output[0] in self.removed:
                continue
            ordered += [*self.before.get(node.name, ()), node, *self.after.get(node.name, ())]
        kept: list[onnx.NodeProto] = []
        for node in ordered:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            kept.append(copy)
        del self.model.graph.node[:]
        self.model.graph.node.extend(kept)
        used = {name for node in kept for name in node.input}
        tensors = [x for x in self.model.graph.initializer if x.name in used]
        slim = [onnx.TensorProto.FromString(x.SerializeToString()) for x in tensors]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(slim)
        del self.model.graph.value_info[:]
        return self.model


def quantise(
    graph: onnx.ModelProto,
    layers: Sequence[Layer],
    plans: Mapping[str, Plan],
    stats: Mapping[str, Stats],
    norms: Mapping[str, onnx.NodeProto | None],
) -> onnx.ModelProto:
    """The graph with ``layers`` quantised by their plans and all else in float."""
    writer = Writer(graph)
    for layer in layers:
        seen = stats.get(layer.relu or layer.output)
        writer.layer(
            layer,
            plans[layer.node],
            norms.get(layer.node),
            None if seen is None else (float(seen.low.min()), float(seen.high.max())),
        )
    return writer.finish()
