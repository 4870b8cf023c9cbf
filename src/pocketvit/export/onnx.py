"""ONNX for ONNX Runtime: one file, static shapes, every node named after the module it came from."""

from __future__ import annotations

import copy
import logging
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from pocketvit.errors import VerificationError
from pocketvit.export.built import Built
from pocketvit.export.wrap import INPUT, PixelModel, example
from pocketvit.files import replacing

OPSET = 20
"""Newest operator set in which GELU and LayerNormalization are single nodes and that all our engines read."""


def write(pixel_model: PixelModel, size: tuple[int, int], folder: Path, stem: str = "model") -> Built:
    """Write ``<stem>.onnx``: input ``pixels`` uint8 (1, H, W, 3); outputs: :class:`~pocketvit.export.wrap.PixelModel`.

    Raises:
        VerificationError: the graph is not valid ONNX or has another shape than asked for.
    """
    path = folder / f"{stem}.onnx"
    graph = tidy(capture(pixel_model, size))
    onnx.checker.check_model(graph, full_check=True)
    ports = (*graph.graph.input, *graph.graph.output)
    shapes = {port.name: [d.dim_value for d in port.type.tensor_type.shape.dim] for port in ports}
    names = [INPUT, *pixel_model.output_names]
    if shapes.get(INPUT) != [1, *size, 3] or list(shapes) != names or any(0 in shape for shape in shapes.values()):
        what = f"the exported graph has {shapes}, not {names} with one static {size[0]}x{size[1]} input."
        raise VerificationError(what, "Remove data-dependent shapes from the model.")
    save(graph, path)
    return Built("onnxruntime", "fp32", path)


def add_metadata(path: Path, properties: Mapping[str, str]) -> None:
    """Add ``metadata_props`` to a file, in place; of two with one key the later counts.

    A protobuf message and its continuation may stand one behind the other, so the graph is neither read nor changed.
    """
    more = onnx.ModelProto()
    helper.set_model_props(more, dict(properties))
    with path.open("ab") as file:
        file.write(more.SerializeToString(deterministic=True))


def save(graph: onnx.ModelProto, path: Path) -> None:
    """Replace ``path`` by the graph in one step. Raises DataError: the folder cannot be written."""
    with replacing(path) as partial:
        onnx.save(graph, partial)


def capture(pixel_model: PixelModel, size: tuple[int, int]) -> onnx.ModelProto:
    """The graph as torch.export sees it, in fp32 on the CPU."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                pixel_model.float().cpu().eval(),
                (example(size),),
                dynamo=True,
                verbose=False,
                external_data=False,
                input_names=[INPUT],
                output_names=pixel_model.output_names,
                opset_version=OPSET,
            )
    finally:
        logger.setLevel(level)
    return program.model_proto  # type: ignore[union-attr]


def tidy(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Name nodes and weights after their modules; drop the exporter's own metadata (source lines of this machine)."""
    taken: Counter[str] = Counter()
    weights = {x.name for x in graph.graph.initializer}
    renamed: dict[str, str] = {}
    for node in graph.graph.node:
        scope = module_path(node)
        name = f"{scope}/{node.op_type}" if scope else node.op_type
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name]}"
        if node.op_type == "MatMul" and scope and node.input[1] in weights and not node.input[1].startswith("model."):
            renamed.setdefault(node.input[1], f"{scope}.weight_t")  # linear weights come out transposed and nameless
    for tensor in graph.graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in graph.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    for part in (*graph.graph.initializer, *graph.graph.node, graph.graph, graph):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.graph.ClearField("value_info")
    graph.producer_name, graph.producer_version = "pocketvit", ""
    return onnx.shape_inference.infer_shapes(graph)


def module_path(node: onnx.NodeProto) -> str:
    """Path of the module a node came from, e.g. ``blocks.3.mlp.fc2``; empty for the wrapper's own nodes."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = [part.strip("' \"") for part in entry.value.strip("[]").split(",")]
            modules = [s for s in scopes if s == "model" or s.startswith("model.")]
            return modules[-1].removeprefix("model").removeprefix(".") if modules else ""
    return ""


def to_half_storage(graph: onnx.ModelProto, *, min_values: int = 1024) -> onnx.ModelProto:
    """Store large float32 weights as float16, each cast back to float32 when the model is loaded.

    The file halves; arithmetic stays float32, since a CPU has no faster half-precision units in ONNX Runtime, and half
    precision activations overflow in LayerNorm and attention of some models. ONNX Runtime folds the casts once at load.
    """
    result = copy.deepcopy(graph)
    casts, nodes = [], list(result.graph.node)
    for tensor in result.graph.initializer:
        values, name, half = numpy_helper.to_array(tensor), tensor.name, f"{tensor.name}.half"
        if tensor.data_type != TensorProto.FLOAT or values.size < min_values or abs(values).max() > 65504:
            continue
        tensor.CopyFrom(numpy_helper.from_array(values.astype("float16"), half))
        casts.append(helper.make_node("Cast", [half], [name], name=f"{name}/to_float", to=TensorProto.FLOAT))
    del result.graph.node[:]
    result.graph.node.extend([*casts, *nodes])
    return result
