"""What processors with AVX2 and without VNNI make of an int8 ONNX file: products that leave 16 bits.

Without VNNI the engine multiplies unsigned activations with signed weights by ``VPMADDUBSW``: two neighbours along the
inner axis at once, ``a[2k] * b[2k] + a[2k + 1] * b[2k + 1]`` in 16 bits, which saturate. Each can be 255 * 127, and
the sum twice what fits. Held against ONNX Runtime itself on an emulated processor of that kind (a test does so
where ``qemu-x86_64`` is installed), the sums below are the engine's bit by bit.

With weights of 7 bits (``reduce_range``: 63 + 63 times 255 is 32130) no sum can saturate. The other way out is the
engine's: with ``session.x64quantprecision`` it multiplies unsigned with unsigned there, slower and exactly. Our own
runtime asks for it (:mod:`pocketvit.runtimes.onnxruntime`); the count here is for those who open the file without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pocketvit.compress.layers import observed, session
from pocketvit.compress.onnx_edit import attributes
from pocketvit.export.wrap import INPUT
from pocketvit.spec.preprocess import Pixels

LOW, HIGH = -32768, 32767
ROWS = 64
"""Tokens of each image and layer whose sums are counted."""
WORSE = 1.25
"""Answers that are so many times as far off there as here are put down to saturating."""
_PRODUCTS = ("Gemm", "MatMul", "MatMulInteger", "MatMulIntegerToFloat")


@dataclass(frozen=True)
class Product:
    """A matrix product of unsigned activations with constant signed weights."""

    node: str
    output: str
    activations: str
    """Name of the uint8 tensor."""
    weights: NDArray[np.int8]
    """(K, N)."""
    scales: tuple[str, ...]
    """Names of the scales of activations and weights; none where the product stays an integer."""


@dataclass(frozen=True)
class Saturation:
    """What was counted of one product."""

    node: str
    pairs: int
    """Sums of two products that were looked at."""
    saturated: int
    """Those that left 16 bits."""

    @property
    def share(self) -> float:
        """Of the sums."""
        return self.saturated / max(self.pairs, 1)


def products(graph: onnx.ModelProto) -> list[Product]:
    """Products of uint8 activations with constant int8 weights, written with quantisers around or as integer nodes.

    Convolutions are left out: how the engine lays out their inner axis depends on the processor.
    """
    constants = {x.name: x for x in graph.graph.initializer}
    makers = {name: node for node in graph.graph.node for name in node.output}
    found = []
    for node in graph.graph.node:
        if node.op_type not in _PRODUCTS or len(node.input) < 2:
            continue
        sides = [makers.get(name) for name in node.input[:2]]
        left, right = (
            name if made is None or made.op_type != "DequantizeLinear" else made.input[0]
            for name, made in zip(node.input[:2], sides, strict=True)
        )
        weights, quantiser = constants.get(right), makers.get(left)
        if weights is None or weights.data_type != TensorProto.INT8 or not _is_unsigned(quantiser, constants):
            continue
        values = np.array(numpy_helper.to_array(weights))
        turned = values.T if attributes(node).get("transB", 0) else values
        scales = tuple(made.input[1] for made in sides if made is not None and made.op_type == "DequantizeLinear")
        scales = tuple(node.input[2:4]) if node.op_type == "MatMulIntegerToFloat" else scales
        found.append(Product(node.name, node.output[0], left, turned, scales))
    return found


def _is_unsigned(quantiser: onnx.NodeProto | None, constants: dict[str, TensorProto]) -> bool:
    if quantiser is None or quantiser.op_type not in ("QuantizeLinear", "DynamicQuantizeLinear"):
        return False
    zero = constants.get(quantiser.input[2]) if len(quantiser.input) > 2 else None
    return zero is None or zero.data_type == TensorProto.UINT8  # both nodes give uint8 where nothing else is said


def saturation(graph: onnx.ModelProto, images: Sequence[Pixels], threads: int = 2, seed: int = 0) -> list[Saturation]:
    """Count the sums that saturate on images, product by product; weights of 7 bits are known to hold without one.

    Args:
        graph: an int8 graph of ours.
        images: (H, W, 3) uint8 model inputs.
        threads: of the engine.
        seed: of the tokens that are drawn.
    """
    found = products(graph)
    risky = {each.node for each in found if _can_saturate(each.weights)}
    names = sorted({each.activations for each in found if each.node in risky})
    counted = {each.node: [0, 0] for each in found}
    for values in _observed(graph, names, images, threads) if names else ():
        rng = np.random.default_rng(seed)
        for each in found:
            if each.node in risky:
                rows = values[each.activations].reshape(-1, len(each.weights))
                rows = rows[rng.permutation(len(rows))[:ROWS]]
                counted[each.node][0] += len(rows) * -(-len(each.weights) // 2) * each.weights.shape[1]
                counted[each.node][1] += count_saturated(rows, each.weights)
    return [Saturation(each.node, *counted[each.node]) for each in found]


@dataclass(frozen=True)
class OnAvx2:
    """What becomes of a file on a processor with AVX2 and without VNNI, as emulated."""

    products: int
    saturating: int
    """Products of which some sum saturated."""
    share: float
    """Of all sums."""
    error: float
    """Change of the outputs against the float file, here."""
    error_there: float
    limit: float
    """The change that is accepted."""

    @property
    def harmed(self) -> bool:
        """Whether answers there are worse than is accepted, and that by saturating; a NaN is."""
        return not self.error_there <= max(self.limit, WORSE * self.error)

    @property
    def told(self) -> str:
        """For people; empty where nothing saturates."""
        if not self.saturating:
            return ""
        what = f"{self.saturating} of {self.products} products saturate"
        return f"on AVX2 without VNNI (emulated) {what}, error {self.error:.2g} becomes {self.error_there:.2g}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"how": "emulated", **asdict(self), "harmed": self.harmed}


def on_avx2(
    graph: onnx.ModelProto,
    images: Sequence[Pixels],
    error_of: Callable[[onnx.ModelProto], float],
    error: float,
    limit: float,
    threads: int = 2,
) -> OnAvx2:
    """Count what saturates on ``images``, and have ``error_of`` say how wrong the emulated graph is.

    Args:
        graph: an int8 graph of ours.
        images: model inputs.
        error_of: change of the outputs of a graph against the float file's.
        error: that of ``graph`` itself.
        limit: the change that is accepted.
        threads: of the engine.
    """
    found = saturation(graph, images, threads)
    pairs, lost = sum(x.pairs for x in found), sum(x.saturated for x in found)
    there = error_of(emulated(graph)) if lost else error
    return OnAvx2(len(found), sum(x.saturated > 0 for x in found), lost / max(pairs, 1), error, there, limit)


def _can_saturate(weights: NDArray[np.int8]) -> bool:
    """Whether any activations could bring a sum out of 16 bits."""
    return bool(_risky(*_pairs(weights), np.int32(255), np.int32(255)).any())


def _risky(first: Any, second: Any, one: Any, two: Any) -> NDArray[np.bool_]:
    """Which sums could leave 16 bits where no activation is above ``one`` and ``two``."""
    most = one * np.maximum(first, 0) + two * np.maximum(second, 0)
    least = one * np.minimum(first, 0) + two * np.minimum(second, 0)
    risky: NDArray[np.bool_] = (most > HIGH) | (least < LOW)
    return risky


def _pairs(weights: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(K / 2, N) first and second weights of all sums; the engine fills an odd inner axis with zeros."""
    even = np.pad(weights, ((0, len(weights) % 2), (0, 0))).astype(np.int32)
    return even[0::2], even[1::2]


def count_saturated(rows: NDArray[np.uint8], weights: NDArray[np.int8]) -> int:
    """How many sums of neighbouring products leave 16 bits.

    Args:
        rows: (R, K) activations.
        weights: (K, N).
    """
    first, second = _pairs(weights)
    one, two = (x.T for x in _pairs(rows.T))  # (R, K / 2)
    places, columns = np.nonzero(_risky(first, second, one.max(axis=0)[:, None], two.max(axis=0)[:, None]))
    total = 0
    for begin in range(0, len(places), 4096):
        k, n = places[begin : begin + 4096], columns[begin : begin + 4096]
        sums = one[:, k] * first[k, n] + two[:, k] * second[k, n]
        total += int(((sums > HIGH) | (sums < LOW)).sum())
    return total


def saturated_product(rows: NDArray[np.uint8], weights: NDArray[np.int8]) -> NDArray[np.int32]:
    """(R, N) the product as such a processor computes it: each sum of two cut to 16 bits, then added in 32."""
    first, second = _pairs(weights)
    one, two = (x.T for x in _pairs(rows.T))
    total = np.zeros((len(rows), weights.shape[1]), np.int32)
    for k in range(len(first)):
        total += np.clip(np.outer(one[:, k], first[k]) + np.outer(two[:, k], second[k]), LOW, HIGH)
    return total


def emulated(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A graph that answers on any processor with VNNI as ``graph`` does on one with AVX2 alone, products only.

    Behind each product comes what saturating takes from it: of the sums that could leave 16 bits (few, known by their
    weights) what is cut off, added up by output channel.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    behind = {each.output: each for each in products(graph) if _can_saturate(each.weights)}
    nodes = []
    for node in copy.graph.node:
        each = behind.get(node.output[0])
        if each is None:
            nodes.append(node)
            continue
        node.output[0] = f"{each.output}/exact"
        nodes += [node, *_correction(copy.graph, each)]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del copy.graph.node[:], copy.graph.value_info[:]
    copy.graph.node.extend(kept)
    return copy


def _correction(graph: onnx.GraphProto, each: Product) -> list[onnx.NodeProto]:
    """Nodes from a product's exact result to the saturated one."""
    first, second = _pairs(each.weights)
    places, columns = np.nonzero(_risky(first, second, 255, 255))
    last = len(each.weights) - 1  # of an odd inner axis, whose missing weight is 0
    constants = {
        "left": 2 * places,
        "right": np.minimum(2 * places + 1, last),
        "first": first[places, columns].astype(np.float32),
        "second": second[places, columns].astype(np.float32),
        "columns": columns,
        "low": np.float32(LOW),
        "high": np.float32(HIGH),
        "none": np.float32(0),
    }
    own = f"{each.output}/avx2_"
    graph.initializer.extend(numpy_helper.from_array(np.asarray(x), own + name) for name, x in constants.items())

    def node(kind: str, inputs: Sequence[str], output: str, **more: Any) -> onnx.NodeProto:
        names = [name[1:] if name.startswith("=") else own + name for name in inputs]
        return helper.make_node(kind, names, [output[1:] if output.startswith("=") else own + output], **more)

    exact, integer = f"={each.output}/exact", not each.scales
    nodes = [
        node("Cast", [f"={each.activations}"], "float", to=TensorProto.FLOAT),
        node("Gather", ["float", "left"], "one", axis=-1),
        node("Gather", ["float", "right"], "two", axis=-1),
        node("Mul", ["one", "first"], "product_one"),
        node("Mul", ["two", "second"], "product_two"),
        node("Add", ["product_one", "product_two"], "sum"),
        node("Clip", ["sum", "low", "high"], "cut"),
        node("Sub", ["cut", "sum"], "lost"),
        node("Shape", ["lost"], "shape"),
        node("Expand", ["columns", "shape"], "places"),
        node("Cast", [exact], "result", to=TensorProto.FLOAT),
        node("Mul", ["result", "none"], "zeros"),
        node("ScatterElements", ["zeros", "places", "lost"], "all", axis=-1, reduction="add"),
    ]
    if integer:
        return [*nodes, node("Cast", ["all"], "whole", to=TensorProto.INT32), _sum(node, exact, "whole", each)]
    nodes += [
        node("Mul", ["all", f"={each.scales[0]}"], "scaled"),
        node("Mul", ["scaled", f"={each.scales[1]}"], "off"),
    ]
    return [*nodes, _sum(node, exact, "off", each)]


def _sum(node: Any, exact: str, other: str, each: Product) -> onnx.NodeProto:
    made: onnx.NodeProto = node("Add", [exact, other], f"={each.output}")
    return made


def _observed(
    graph: onnx.ModelProto, names: Sequence[str], images: Sequence[Pixels], threads: int
) -> Iterator[dict[str, NDArray[np.uint8]]]:
    """For each image the uint8 tensors ``names``."""
    runner = session(observed(graph, names, TensorProto.UINT8), threads)
    for image in images:
        yield dict(zip(names, runner.run(list(names), {INPUT: image[None]}), strict=True))
