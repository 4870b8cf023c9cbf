"""Cluster: the weights of each layer take 4 to 256 values; the file stores which, Huffman coded.

Han et al. 2016 ("Deep Compression"), without retraining: values and indices are fitted to the layer's outputs on
calibration images (:mod:`pocketvit.compress.codebook`). Biases, norms, positions and small tensors stay in float. The
engine is given float32 weights: the file is smaller, not faster (:mod:`pocketvit.runtimes.stored`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from pocketvit.compress.codebook import Clustered, Doubles, Floats, cluster_matrix
from pocketvit.compress.layers import Layer, find_layers
from pocketvit.compress.moments import second_moments
from pocketvit.compress.step import Context, LayerRank, StepReport
from pocketvit.compress.store import pack_onnx, stored_notes, told_of_opening
from pocketvit.errors import DataError, UsageError
from pocketvit.export.built import Built
from pocketvit.runtimes.stored import SUFFIX, Table

KINDS = ("Gemm", "MatMul", "Conv")


@dataclass(frozen=True)
class Cluster:
    """Settings of clustering."""

    bits: int = 4
    """Of the indices of linear layers, 2 to 8: a layer has at most ``2 ** bits`` values. Huffman shortens them."""
    most_bits: int = 8
    """Where the floor is missed, it is tried with one bit more, up to so many."""
    edge_bits: int = 8
    """Of convolutions (of a ViT the patch embedding) and of heads, which are small and matter; at least ``bits``."""
    scaled: bool = True
    """One scale for each output channel beside the layer's values."""
    weighted: bool = True
    """Weights count by the inputs they meet on calibration images, and make up for each other's errors (GPTQ)."""
    damping: float = 0.01
    """Share of the inputs' mean square that is added for directions that calibration images do not show."""
    rounds: int = 3
    """How often indices, scales and values are fitted in turn."""
    least_values: int = 4096
    """Tensors with fewer weights stay in float."""

    def __post_init__(self) -> None:
        bits = (self.bits, self.most_bits, self.edge_bits)
        if not all(2 <= x <= 8 for x in bits) or self.most_bits < self.bits:
            what = f"cluster: bits {self.bits}, most_bits {self.most_bits}, edge_bits {self.edge_bits} are not 2 to 8."
            raise UsageError(what, "Correct the step; most_bits must not be below bits.")
        if not 0 < self.damping < 1 or min(self.rounds, self.least_values) < 1:
            raise UsageError("cluster: damping must be in (0, 1), rounds, least_values 1 or more.", "Correct it.")


def cluster(step: Cluster, built: Built, context: Context) -> Iterator[StepReport]:
    """Write ``<stem>-cluster.pvw``; asked again, with one bit more.

    Args:
        step: settings.
        built: the float file (``onnxruntime:fp32``).
        context: calibration images, unless ``weighted`` is off.

    Yields:
        Reports; the ranking holds each layer's own error (share of its output), the notes bytes and bits a weight.

    Raises:
        UsageError: not a float ONNX file of ours, or no layer is large enough.
        DataError: calibration images are needed and missing.
    """
    if built.key != "onnxruntime:fp32":
        raise UsageError(f"cluster starts from onnxruntime:fp32, not {built.key}.", "Export to ONNX first.")
    if step.weighted and not context.calibration:
        raise DataError("there are no calibration images.", "Give some training images, or set weighted to false.")
    graph = onnx.load(built.path)
    layers = chosen_layers(graph, step.least_values)
    moments: dict[str, Doubles] = {}
    if step.weighted:
        moments = second_moments(graph, layers, context.calibration, context.threads, step.damping)
    for bits in range(step.bits, step.most_bits + 1):
        yield _attempt(step, bits, built, graph, layers, moments, context)


def chosen_layers(graph: onnx.ModelProto, least_values: int) -> list[Layer]:
    """Layers with at least so many weights, each weight once.

    Raises:
        UsageError: there are none.
    """
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.graph.initializer}
    found = {layer.weight: layer for layer in find_layers(graph, KINDS) if sizes[layer.weight] >= least_values}
    if not found:
        raise UsageError(f"cluster: no layer has {least_values} weights.", "Lower least_values, or leave it out.")
    return list(found.values())


def edges(graph: onnx.ModelProto) -> set[str]:
    """Weights of convolutions and of layers, large and small, whose outputs reach no other layer: heads."""
    layers = find_layers(graph, KINDS)
    nodes = {layer.node for layer in layers}
    reaching: set[str] = set()
    heads = {layer.node for layer in layers}
    for node in reversed(graph.graph.node):  # in topological order, as ONNX has them
        if node.name in nodes and reaching & set(node.output):
            heads.discard(node.name)
        if node.name in nodes or reaching & set(node.output):
            reaching |= set(node.input)
    return {layer.weight for layer in layers if layer.kind == "Conv" or layer.node in heads}


def _attempt(
    step: Cluster,
    bits: int,
    built: Built,
    graph: onnx.ModelProto,
    layers: Sequence[Layer],
    moments: dict[str, Doubles],
    context: Context,
) -> StepReport:
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    tensors = {tensor.name: tensor for tensor in changed.graph.initializer}
    tables, ranking, spared = {}, [], edges(graph)
    for layer in layers:
        own = max(bits, step.edge_bits) if layer.weight in spared else bits
        tensor = tensors[layer.weight]
        matrix = as_matrix(layer, np.array(numpy_helper.to_array(tensor)))
        found = cluster_matrix(matrix, own, moments.get(layer.input), scaled=step.scaled, rounds=step.rounds)
        tables[layer.weight] = as_table(layer, found, step.scaled)
        values = tables[layer.weight].decoded().reshape(tuple(tensor.dims))
        tensor.CopyFrom(numpy_helper.from_array(values, layer.weight))
        ranking.append(LayerRank(layer.label, found.error**0.5, layer.macs, False))
    path = context.folder / f"{built.path.stem}-cluster{SUFFIX}"
    pack_onnx(changed.SerializeToString(), path, tables)
    notes = {"bits": bits, **stored_notes(path, built.bytes)}
    told = f"{bits} bits before Huffman, stored {notes['times_smaller']:.2f} times smaller, {told_of_opening()}"
    ranking.sort(key=lambda row: -row.error)
    made = Built("onnxruntime", "cluster", path)
    return StepReport("cluster", asdict(step), made, tuple(ranking), notes=notes, told=told)


def as_matrix(layer: Layer, weight: Floats) -> Floats:
    """A weight as (in, out)."""
    if layer.kind == "Conv":
        return np.ascontiguousarray(weight.reshape(len(weight), -1).T)
    return np.ascontiguousarray(weight.T) if layer.transposed else weight


def as_table(layer: Layer, found: Clustered, scaled: bool) -> Table:
    """The matrix in the order in which the graph stores it."""
    across = layer.kind == "Conv" or layer.transposed  # stored (out, in)
    indices = np.ascontiguousarray(found.indices.T if across else found.indices).reshape(-1)
    return Table(found.table, indices, found.scales if scaled else None, len(found.indices) if across else 1)
