"""What does not fit float16, whose largest number is 65504: found on calibration images, and left in float32.

A value above it becomes infinite where an engine computes in float16, and weights above it are cut to it in silence
when OpenVINO stores them so.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pocketvit.compress.layers import session
from pocketvit.export import openvino as openvino_format
from pocketvit.export.wrap import INPUT
from pocketvit.files import scratch
from pocketvit.spec.preprocess import Pixels

LARGEST = 65504.0


@dataclass(frozen=True)
class Overflow:
    """What a scan found."""

    images: int
    peak: float
    """Largest magnitude of an activation."""
    nodes: tuple[str, ...]
    """Operations whose output is too large, in the order of the graph."""
    weights: tuple[str, ...]
    """Constants that stay in float32: too large themselves, or weights of such an operation."""
    left: int
    """How many constants of some size float16 may hold."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for notes."""
        plain = {"images": self.images, "peak": self.peak, "float_nodes": list(self.nodes)}
        return plain | {"float_weights": list(self.weights), "half_weights": self.left}


def scan_onnx(
    graph: onnx.ModelProto, images: Sequence[Pixels], headroom: float, least: int, threads: int = 2
) -> Overflow:
    """Scan a float ONNX graph.

    Args:
        graph: with one input, the image.
        images: (H, W, 3) uint8 model inputs; without any, only weights are looked at.
        headroom: how many times a seen value must fit, since other images may be louder.
        least: values of a constant from which it would be stored in float16.
        threads: of the engine.
    """
    body = onnx.shape_inference.infer_shapes(graph).graph
    floats = {x.name for x in (*body.value_info, *body.output) if x.type.tensor_type.elem_type == TensorProto.FLOAT}
    watched = [name for node in body.node if node.op_type != "Constant" for name in node.output if name in floats]
    peaks = dict.fromkeys(watched, 0.0)
    if images:
        copy = onnx.ModelProto()
        copy.CopyFrom(graph)
        for name in watched:
            copy.graph.node.append(helper.make_node("Abs", [name], [f"{name}/size"]))
            copy.graph.node.append(helper.make_node("ReduceMax", [f"{name}/size"], [f"{name}/peak"], keepdims=0))
            copy.graph.output.append(helper.make_tensor_value_info(f"{name}/peak", TensorProto.FLOAT, []))
        runner, names = session(copy, threads), [f"{name}/peak" for name in watched]
        for image in images:
            for name, value in zip(watched, runner.run(names, {INPUT: image[None]}), strict=True):
                peaks[name] = max(peaks[name], float(value))
    nodes = [node for node in body.node if any(not fits(peaks.get(name, 0.0), headroom) for name in node.output)]
    taken = {name for node in nodes for name in node.input}
    sizes = {x.name: x for x in body.initializer if x.data_type == TensorProto.FLOAT and np.prod(x.dims) >= least}
    kept = tuple(
        name for name, x in sizes.items() if name in taken or not fits(_size(np.array(numpy_helper.to_array(x))))
    )
    names_of = tuple(node.name or node.output[0] for node in nodes)
    return Overflow(len(images), max(peaks.values(), default=0.0), names_of, kept, len(sizes) - len(kept))


def scan_openvino(graph: Any, images: Sequence[Pixels], headroom: float, least: int, threads: int = 2) -> Overflow:
    """Scan an OpenVINO graph, as :func:`scan_onnx` does; names are friendly names."""
    from openvino import Model, opset13

    copy = graph.clone()
    watched = [op for op in copy.get_ops() if _computes(op)]
    peaks = dict.fromkeys([op.get_friendly_name() for op in watched], 0.0)
    if images:
        axes = [list(range(op.output(0).get_partial_shape().rank.get_length())) for op in watched]
        ends = [opset13.reduce_max(opset13.absolute(op), axis) for op, axis in zip(watched, axes, strict=True)]
        model = Model([opset13.result(end) for end in ends], copy.get_parameters(), "peaks")
        config = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino_format.engine().Core().compile_model(model, "CPU", config)
        for image in images:
            found = compiled({INPUT: image[None]})
            for name, port in zip(peaks, compiled.outputs, strict=True):
                peaks[name] = max(peaks[name], float(np.max(found[port])))
    loud = {name for name, peak in peaks.items() if not fits(peak, headroom)}
    constants = [op for op in graph.get_ops() if op.get_type_name() == "Constant" and str(op.data.dtype) == "float32"]
    readers = {op.get_friendly_name(): op.output(0).get_target_inputs() for op in constants}
    kept = tuple(
        op.get_friendly_name()
        for op in constants
        if not fits(_size(op.data))
        or any(x.get_node().get_friendly_name() in loud for x in readers[op.get_friendly_name()])
    )
    nodes = tuple(name for name in peaks if name in loud)
    left = sum(op.data.size >= least and op.get_friendly_name() not in kept for op in constants)
    return Overflow(len(images), max(peaks.values(), default=0.0), nodes, kept, left)


def fits(size: float, headroom: float = 1.0) -> bool:
    """Whether a magnitude fits float16, so many times; a NaN does not."""
    return size * headroom <= LARGEST


def _size(values: Any) -> float:
    return float(np.abs(values).max()) if values.size else 0.0


def _computes(op: Any) -> bool:
    """Whether an operation gives floats that are computed from the image."""
    return (
        op.get_type_name() not in ("Constant", "Parameter", "Result")
        and op.get_output_size() == 1
        and str(op.output(0).get_element_type().get_type_name()) == "f32"
        and op.output(0).get_partial_shape().rank.is_static
    )


def save_half(graph: Any, found: Overflow, folder: Path, stem: str) -> Any:
    """Write an IR with float16 weights in which what a scan found stays in float32.

    What must stay is said by a mark on layers of the file (``precise``), which OpenVINO reads and does not write: of
    constants before the weights are stored, of operations in the finished file.
    """
    if not found.nodes and not found.weights:
        return openvino_format.save(graph, folder, stem, "fp16", half=True)
    with scratch() as temporary:
        plain = openvino_format.save(graph, temporary, "plain", "fp32")
        mark_precise(plain.path, (*found.nodes, *found.weights))
        marked = openvino_format.engine().Core().read_model(str(plain.path))
        made = openvino_format.save(marked, folder, stem, "fp16", half=True)
        del marked  # it reads its weights from the temporary file
    mark_precise(made.path, (*found.nodes, *found.weights))
    return made


def mark_precise(path: Path, names: Sequence[str]) -> None:
    """Have OpenVINO keep the layers ``names`` of an ``.xml`` in the precision in which they are written."""
    tree, wanted = ElementTree.parse(path), set(names)
    for layer in tree.iter("layer"):
        if layer.get("name") in wanted:
            place = layer.find("rt_info")
            place = ElementTree.SubElement(layer, "rt_info") if place is None else place
            ElementTree.SubElement(place, "attribute", {"name": "precise", "version": "0"})
    with path.open("wb") as file:
        tree.write(file, encoding="utf-8", xml_declaration=True)
