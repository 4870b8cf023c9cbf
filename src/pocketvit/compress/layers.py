"""The weight-carrying layers of an ONNX graph, and what flows into them on calibration images."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pocketvit.errors import DataError, UsageError
from pocketvit.export.wrap import INPUT
from pocketvit.files import scratch
from pocketvit.runtimes.onnxruntime import saturates

Floats = NDArray[np.float32]
ROWS = 2048
"""Rows (tokens) of each layer's input that are kept to try quantisers on."""

NOMINAL = (256, 256)
"""Height and width at which the work of layers is counted where files take any."""


@dataclass(frozen=True)
class Layer:
    """A Gemm, a MatMul with constant right side, or a Conv, found in a graph by the name of its node."""

    node: str
    kind: str
    input: str
    weight: str
    bias: str | None
    transposed: bool
    """Weight is (out, in) instead of (in, out) (Gemm only)."""
    output: str
    relu: str | None
    """Output of the ReLU that alone consumes a Conv; it becomes part of the quantised layer."""
    macs: int

    @property
    def label(self) -> str:
        """Name for people: the module path without what the optimiser added."""
        return self.node.split("/")[0] if "/" in self.node else self.node


@dataclass
class Stats:
    """What was seen of a tensor. Channels are the last axis of tokens; images are one channel."""

    low: Floats
    high: Floats
    rows: Floats | None = None


def prepare(source: Path) -> onnx.ModelProto:
    """The float graph with shapes inferred, after the engine's own hardware-independent fusions (to Gemm)."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with scratch() as temporary:
        target = temporary / "prepared.onnx"
        quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
        graph = onnx.load(target)
    if [x.name for x in graph.graph.input] != [INPUT]:
        raise UsageError(f"{source}: is not a file that pocketvit exported.", f"Its only input must be {INPUT}.")
    return graph


def find_layers(graph: onnx.ModelProto, kinds: Sequence[str] = ()) -> list[Layer]:
    """Layers of ``kinds`` in graph order; without kinds Gemm and MatMul, and Conv where it does most of the work."""
    constants = {x.name: x for x in graph.graph.initializer}
    shapes = {
        x.name: [d.dim_value for d in x.type.tensor_type.shape.dim]
        for x in (*graph.graph.value_info, *graph.graph.output, *graph.graph.input)
    }
    if any(0 in shapes[port.name] for port in graph.graph.input):  # any size
        shapes |= _shapes_at(graph, NOMINAL)
    consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.graph.node:
        for name in node.input:
            consumers[name].append(node)
    found = []
    for node in graph.graph.node:
        if (
            node.op_type not in ("Gemm", "MatMul", "Conv")
            or node.input[1] not in constants
            or constants[node.input[1]].data_type != TensorProto.FLOAT
        ):
            continue
        flags = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Gemm" and (
            flags.get("transA", 0) or flags.get("alpha", 1.0) != 1.0 or flags.get("beta", 1.0) != 1.0
        ):
            continue
        if node.op_type == "MatMul" and len(constants[node.input[1]].dims) != 2:
            continue
        dims = list(constants[node.input[1]].dims)
        positions = math.prod(shapes.get(node.output[0], [1])) // (
            dims[0] if node.op_type == "Conv" or flags.get("transB", 0) else dims[-1]
        )
        after = consumers[node.output[0]]
        relu = after[0].output[0] if node.op_type == "Conv" and len(after) == 1 and after[0].op_type == "Relu" else None
        bias = node.input[2] if len(node.input) > 2 and node.input[2] in constants else None
        if len(node.input) > 2 and bias is None:
            continue
        found.append(
            Layer(
                node.name,
                node.op_type,
                node.input[0],
                node.input[1],
                bias,
                bool(flags.get("transB", 0)),
                node.output[0],
                relu,
                positions * math.prod(dims),
            )
        )
    if not kinds:
        convolution = sum(x.macs for x in found if x.kind == "Conv")
        kinds = ("Gemm", "MatMul", "Conv") if 2 * convolution > sum(x.macs for x in found) else ("Gemm", "MatMul")
    chosen = [x for x in found if x.kind in kinds]
    if not chosen:
        raise UsageError(
            f"the graph has no {', '.join(kinds)} layers with constant weights.", "There is nothing to quantise."
        )
    return chosen


def _shapes_at(graph: onnx.ModelProto, size: tuple[int, int]) -> dict[str, list[int]]:
    """Shapes of what layers with weights give for an input of ``size``: inference knows no numbers for free sizes."""
    names = [node.output[0] for node in graph.graph.node if node.op_type in ("Gemm", "MatMul", "Conv")]
    values = session(observed(graph, names)).run(names, {INPUT: np.zeros((1, *size, 3), np.uint8)})
    return {name: list(value.shape) for name, value in zip(names, values, strict=True)}


def observed(graph: onnx.ModelProto, names: Sequence[str], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """A copy that gives the tensors ``names``, of the element type ``kind``, too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    have = {x.name for x in copy.graph.output} | {INPUT}
    copy.graph.output.extend(helper.make_tensor_value_info(name, kind, None) for name in names if name not in have)
    return copy


def session(graph: onnx.ModelProto, threads: int = 2) -> Any:
    """An ONNX Runtime session of a graph in memory."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    if saturates():
        options.add_session_config_entry("session.x64quantprecision", "1")  # as pocketvit.runtimes.onnxruntime has it
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def collect(
    graph: onnx.ModelProto,
    layers: Sequence[Layer],
    images: Iterable[NDArray[np.uint8]],
    threads: int = 2,
    seed: int = 0,
) -> dict[str, Stats]:
    """Run the float model on calibration images: ranges (per channel for tokens) and sample rows of each layer's input.

    Raises:
        DataError: there are no images.
    """
    tokens = {x.input for x in layers if x.kind != "Conv"}
    wanted = sorted(tokens | {x.input for x in layers} | {x.relu or x.output for x in layers if x.kind == "Conv"})
    runner, rng = session(observed(graph, wanted), threads), np.random.default_rng(seed)
    images = list(images)
    if not images:
        raise DataError("there are no calibration images.", "Give some training images.")
    share = -(-ROWS // len(images))
    stats: dict[str, Stats] = {}
    rows: dict[str, list[Floats]] = defaultdict(list)
    for image in images:
        for name, value in zip(wanted, runner.run(wanted, {INPUT: image[None]}), strict=True):
            flat = value.reshape(-1, value.shape[-1]) if name in tokens else value.reshape(-1, 1)
            low, high = flat.min(axis=0), flat.max(axis=0)
            seen = stats.setdefault(name, Stats(low, high))
            seen.low, seen.high = np.minimum(seen.low, low), np.maximum(seen.high, high)
            if name in tokens:
                rows[name].append(flat[rng.permutation(len(flat))[:share]])
    for name, parts in rows.items():
        stats[name].rows = np.concatenate(parts)
    return stats


def array(graph: onnx.ModelProto, name: str) -> Floats:
    """Values of an initialiser."""
    return np.array(numpy_helper.to_array(next(x for x in graph.graph.initializer if x.name == name)))
