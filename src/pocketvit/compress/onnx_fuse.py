"""Rewrites of a transformer's ONNX graph to fewer nodes; each counts how often it found its pattern.

Shapes are static: B = 1 image, N tokens, K and D widths, h heads. A linear layer becomes one product of (1, N, K) and a
sum: the sum then goes into the GELU, the attention or the norm behind it, which take a bias at no cost, and the
reshapes that Gemm needs go. Of an int8 layer the product is ``MatMulIntegerToFloat`` (uint8 tokens, int8 weights per
channel, float answers), the kernel itself, where quantisers around a Gemm leave it to the engine to find it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from pocketvit.compress.onnx_edit import CONTRIB, Editor, Shape, attributes

PRODUCTS = ("MatMul", "MatMulIntegerToFloat")
GELUS = {"exact": "BiasGelu", "tanh": "FastGelu", "sigmoid": "QuickGelu"}
"""By the error function; by tanh and as x * sigmoid(1.702 x), the approximations of Hendrycks and Gimpel 2016."""


def linear_layers(graph: Editor) -> int:
    """Gemm between reshapes, and products of quantised tokens, to one product of tokens and a sum."""
    found = 0
    for node in graph.of("Gemm", "MatMul"):
        quantised = _quantised(graph, node)
        if quantised is None and not _is_plain(graph, node):
            continue
        rows = node.input[0] if quantised is None else quantised[0]
        shape = graph.shapes.get(rows)
        flags, weight = attributes(node), graph.value(node.input[1]) if quantised is None else quantised[1]
        if shape is None or weight is None or weight.ndim != 2:
            continue
        weight = weight.T if flags.get("transB", 0) else weight
        tokens, new = _as_tokens(graph, rows, shape)
        lead = graph.shapes[tokens][:-1]
        name = graph.fresh(f"{node.output[0]}.product")
        width = (*lead, weight.shape[1])
        if quantised is None:
            weights = graph.constant(f"{node.input[1]}.kn", weight) if flags.get("transB", 0) else node.input[1]
            new.append(graph.node("MatMul", [tokens, weights], name, width))
        else:
            new += _integer_product(graph, node, tokens, weight, quantised[2], quantised[3], name)
        bias = _bias(graph, node, quantised)
        target = node.output[0] if lead == shape[:-1] else graph.fresh(f"{node.output[0]}.tokens")
        if bias is None:
            new[-1].output[0], graph.shapes[target] = target, width
        else:
            new.append(graph.node("Add", [name, graph.constant(f"{node.output[0]}.bias", bias)], target, width))
        if target != node.output[0]:
            back = graph.constant(f"{node.output[0]}.rows", np.array([*shape[:-1], weight.shape[1]], np.int64))
            new.append(graph.node("Reshape", [target, back], node.output[0]))
        graph.swap([node], new)
        found += 1
    return found


def _is_plain(graph: Editor, node: onnx.NodeProto) -> bool:
    """A float Gemm of reshaped tokens; one of plain rows, as in a head, is left as it is."""
    flags = attributes(node)
    if node.op_type != "Gemm" or flags.get("transA", 0) or flags.get("alpha", 1) != 1 or flags.get("beta", 1) != 1:
        return False
    return graph.maker(node.input[0], "Reshape") is not None and graph.value(node.input[1]) is not None


def _as_tokens(graph: Editor, rows: str, shape: Shape) -> tuple[str, list[onnx.NodeProto]]:
    """(1, N, K) of what was reshaped to (N, K), maybe with a factor for each channel behind it, and the nodes that make
    it; anything else as it is."""
    reshape, tokens = graph.maker(rows, "Reshape"), (1, *shape)
    factor = graph.maker(rows, "Mul")
    if factor is not None and len(shape) == 2:
        inner, more = _as_tokens(graph, factor.input[0], shape)
        name = f"{rows}.tokens"
        if inner == factor.input[0] or graph.shapes.get(factor.input[1]) != shape[1:]:
            return rows, []
        known = graph.maker(name) is not None  # by another layer that takes the same
        return name, [] if known else [*more, graph.node("Mul", [inner, factor.input[1]], name, tokens)]
    if reshape is None or len(shape) != 2:
        return rows, []
    if graph.shapes.get(reshape.input[0]) == tokens:
        return reshape.input[0], []
    name = graph.fresh(f"{rows}.tokens")
    sizes = graph.constant(f"{rows}.sizes", np.array(tokens, np.int64))
    return name, [graph.node("Reshape", [rows, sizes], name, tokens)]


def _quantised(graph: Editor, node: onnx.NodeProto) -> tuple[str, NDArray[np.int8], str, str] | None:
    """Of a product of dequantised tensors: the float tensor in front, int8 weights as stored, and the names of the
    scale of the weights and of the quantiser's output; None where it is no such product."""
    flags = attributes(node)
    if flags.get("transA", 0) or flags.get("alpha", 1.0) != 1.0 or flags.get("beta", 1.0) != 1.0:
        return None
    inner, weights = (graph.maker(name, "DequantizeLinear") for name in node.input[:2])
    quantiser = None if inner is None else graph.maker(inner.input[0], "QuantizeLinear")
    values = None if weights is None else graph.value(weights.input[0])
    if inner is None or weights is None or quantiser is None or values is None or values.dtype != np.int8:
        return None
    zero = graph.value(weights.input[2]) if len(weights.input) > 2 else np.zeros(1)
    same = list(quantiser.input[1:]) == list(inner.input[1:]) and len(inner.input) == 3
    across = attributes(weights).get("axis", 1) == (0 if flags.get("transB", 0) else 1)
    scale, step = graph.value(weights.input[1]), graph.value(inner.input[1])
    if not same or zero is None or zero.any() or scale is None or step is None or step.size != 1:
        return None
    return (quantiser.input[0], values, weights.input[1], inner.input[0]) if across or scale.size == 1 else None


def _integer_product(
    graph: Editor, node: onnx.NodeProto, tokens: str, weight: NDArray[Any], scale: str, eight: str, name: str
) -> list[onnx.NodeProto]:
    """Quantise the tokens (once for all who take them) and multiply."""
    quantiser = graph.maker(eight, "QuantizeLinear")
    assert quantiser is not None
    new, taken = [], eight
    if quantiser.input[0] != tokens:
        taken = f"{eight}.tokens"
        if graph.maker(taken) is None:
            new.append(graph.node("QuantizeLinear", [tokens, *quantiser.input[1:]], taken, graph.shapes[tokens]))
    weights = graph.constant(f"{node.name}.kn", weight)
    inputs = [taken, weights, quantiser.input[1], scale, quantiser.input[2]]
    shape = (*graph.shapes[tokens][:-1], weight.shape[1])
    return [*new, graph.node("MatMulIntegerToFloat", inputs, name, shape, domain=CONTRIB)]


def _bias(graph: Editor, node: onnx.NodeProto, quantised: Any) -> NDArray[Any] | None:
    """Float bias (D,) of a Gemm; of an int8 one from its int32 values."""
    if len(node.input) < 3 or not node.input[2]:
        return None
    if quantised is None:
        values = graph.value(node.input[2])
        assert values is not None
        return values.reshape(-1)
    whole = graph.maker(node.input[2], "DequantizeLinear")
    if whole is None:
        return graph.value(node.input[2])
    values, scale = graph.value(whole.input[0]), graph.value(whole.input[1])
    assert values is not None
    assert scale is not None
    return (values.astype(np.float64) * scale).astype(np.float32).reshape(-1)


def reshapes(graph: Editor) -> int:
    """Reshapes of reshapes to one, and those that change nothing away."""
    found = 0
    for node in graph.of("Reshape"):
        inner = graph.maker(node.input[0], "Reshape")
        shape = graph.shapes.get(node.output[0])
        if inner is not None and shape is not None:  # numbers in place of 0 and -1, which mean the tensor in front
            sizes = graph.constant(f"{node.output[0]}.sizes", np.array(shape, np.int64))
            graph.swap([node], [graph.node("Reshape", [inner.input[0], sizes], node.output[0], shape)])
            found += 1
    for node in graph.of("Reshape", "Identity"):
        same = node.op_type == "Identity" or (
            graph.shapes.get(node.input[0]) is not None
            and graph.shapes.get(node.input[0]) == graph.shapes.get(node.output[0])
        )
        if same and node.output[0] not in graph.outputs:
            graph.rename(node.output[0], node.input[0])
            graph.swap([node], [])
            found += 1
    return found


def gelus(graph: Editor, kind: str) -> int:
    """GELU with the bias in front of it to one node."""
    found = 0
    for node in graph.of("Gelu"):
        if attributes(node).get("approximate", b"none") != b"none":
            continue
        source, bias = _without_bias(graph, node.input[0])
        shape, output = graph.shapes.get(node.output[0]), node.output[0]
        if bias is None and kind == "exact":
            continue
        old = [node] if bias is None else [node, *_made(graph, node.input[0])]
        if kind == "sigmoid":
            new = graph.node("QuickGelu", [node.input[0]], output, shape, domain=CONTRIB, alpha=1.702)
            old = [node]
        else:
            inputs = [node.input[0]] if bias is None else [source, bias]
            new = graph.node(GELUS[kind], inputs, output, shape, domain=CONTRIB)
        graph.swap(old, [new])
        found += 1
    return found


def _made(graph: Editor, name: str) -> list[onnx.NodeProto]:
    node = graph.maker(name)
    return [] if node is None else [node]


def _without_bias(graph: Editor, name: str) -> tuple[str, str | None]:
    """(x, b) of a tensor x + b that only one node takes, b a constant (D,); (the tensor, None) of any other."""
    node = graph.maker(name, "Add")
    if node is None or graph.only_taker(name) is None:
        return name, None
    source, bias = _sum(graph, node)
    return (name, None) if bias is None else (source, bias)


def _sum(graph: Editor, add: onnx.NodeProto) -> tuple[str, str | None]:
    """(x, b) of x + b, b a constant (D,); (the sum, None) of any other."""
    for x, b in (tuple(add.input), tuple(reversed(add.input))):
        values, shape = graph.value(b), graph.shapes.get(x)
        if values is not None and shape is not None and graph.value(x) is None and values.shape == shape[-1:]:
            return x, b
    return add.output[0], None


def biases(graph: Editor) -> int:
    """What is left of sums behind int8 products goes into them."""
    found = 0
    for node in graph.of("MatMulIntegerToFloat"):
        add = graph.only_taker(node.output[0], "Add")
        source, bias = (node.output[0], None) if add is None else _sum(graph, add)
        if add is None or bias is None or source != node.output[0] or len(node.input) > 5:
            continue
        inputs, shape = [*node.input, "", bias], graph.shapes[node.output[0]]
        graph.swap([node, add], [graph.node(node.op_type, inputs, add.output[0], shape, domain=CONTRIB)])
        found += 1
    return found


def layer_scales(graph: Editor) -> int:
    """A factor for each channel behind a linear layer into its weights (or their scales) and bias."""
    found = 0
    for node in graph.of("Mul"):
        for name, factor in (tuple(node.input), tuple(reversed(node.input))):
            values, shape = graph.value(factor), graph.shapes.get(name, ())
            add = graph.maker(name, "Add")
            source, bias = (name, None) if add is None else _sum(graph, add)
            product = graph.maker(source, *PRODUCTS)
            if values is None or product is None or len(shape) < 2 or values.shape != shape[-1:]:
                continue
            if graph.only_taker(name) is None or graph.only_taker(source) is None or (add is not None) != bool(bias):
                continue
            scale_product(graph, product, values)
            if add is not None and bias is not None:
                offset = graph.value(bias)
                assert offset is not None
                add.input[:] = [source, graph.constant(f"{bias}.scaled", offset * values)]
            graph.rename(node.output[0], name)
            graph.swap([node], [])
            found += 1
            break
    return found


def scale_product(graph: Editor, product: onnx.NodeProto, factor: NDArray[Any]) -> None:
    """Multiply what a product gives by a factor for each channel."""
    place = 1 if product.op_type == "MatMul" else 3
    values = graph.value(product.input[place])
    assert values is not None
    product.input[place] = graph.constant(f"{product.input[place]}.scaled", (values * factor).astype(np.float32))
