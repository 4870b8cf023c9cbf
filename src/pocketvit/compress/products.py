"""ONNX graphs whose layers with a weight matrix are all MatMuls: what weight-only and dynamic quantisers look for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from pocketvit.compress.layers import Layer, find_layers
from pocketvit.compress.onnx_edit import Editor, attributes
from pocketvit.errors import UsageError
from pocketvit.export.wrap import INPUT


def as_products(path: Path) -> tuple[onnx.ModelProto, list[Layer]]:
    """The float graph of a file with its Gemms written as MatMul and Add, and its layers in graph order.

    A Gemm keeps its name, and so does its output; a weight that is stored (out, in) is turned once, however many layers
    share it. Only what :func:`pocketvit.compress.layers.find_layers` calls a layer is touched: both inputs in float32,
    a constant two-dimensional weight, no ``transA``, ``alpha`` and ``beta`` 1.

    Raises:
        UsageError: not a file of ours, or it has no such layer.
    """
    source = onnx.load(path)
    if [x.name for x in source.graph.input] != [INPUT]:
        raise UsageError(f"{path}: is not a file that pocketvit exported.", f"Its only input must be {INPUT}.")
    found = {layer.node: layer for layer in find_layers(source, ("Gemm", "MatMul"))}
    graph, turned = Editor(source), dict[str, str]()
    for node in graph.of("Gemm"):
        if node.name in found:
            _split(graph, node, turned)
    model = onnx.shape_inference.infer_shapes(graph.finish())
    layers = [layer for layer in find_layers(model, ("MatMul",)) if layer.node in found]
    assert len(layers) == len(found)
    return model, layers


def _split(graph: Editor, node: onnx.NodeProto, turned: dict[str, str]) -> None:
    """One Gemm as MatMul and Add."""
    data, weight, output = node.input[0], node.input[1], node.output[0]
    if attributes(node).get("transB", 0):
        if weight not in turned:
            values = graph.value(weight)
            assert values is not None
            turned[weight] = graph.constant(f"{weight}_t", np.ascontiguousarray(values.T))
        weight = turned[weight]
    bias = node.input[2] if len(node.input) > 2 else ""
    middle = graph.fresh(f"{output}_product") if bias else output
    product = graph.node("MatMul", [data, weight], middle, graph.shapes.get(output))
    product.name = node.name
    sums = [graph.node("Add", [middle, bias], output, graph.shapes.get(output))] if bias else []
    graph.swap([node], [product, *sums])
