"""ONNX for ONNX Runtime: one file, of one size or of any, every node named after the module it came from."""

from __future__ import annotations

import copy
import logging
import warnings
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.export import Dim

from pocketvit.errors import VerificationError
from pocketvit.export.branches import has_choices, nest
from pocketvit.export.built import Built
from pocketvit.export.kept import captured_once
from pocketvit.export.torchlib import kept_table
from pocketvit.export.wrap import INPUT, PixelModel
from pocketvit.files import replacing

OPSET = 20
"""Newest operator set in which GELU and LayerNormalization are single nodes and that all our engines read."""


def write(pixel_model: PixelModel, size: tuple[int, int], folder: Path, stem: str = "model") -> Built:
    """Write ``<stem>.onnx``: input and outputs are those of :class:`~pocketvit.export.wrap.PixelModel`.

    What stands behind an early exit is in a branch that runs only where that exit has not answered.

    Raises:
        VerificationError: the graph is not valid ONNX or has another shape than asked for.
    """
    path, multiple = folder / f"{stem}.onnx", pixel_model.preprocess.multiple
    graph = tidy(capture(pixel_model, size))
    if multiple:
        graph = any_size(graph, multiple)
    varies = has_choices(graph)
    if varies:
        graph = nest(graph)
    onnx.checker.check_model(graph, full_check=True)
    ports = (*graph.graph.input, *graph.graph.output)
    shapes = {port.name: [d.dim_value or -1 for d in port.type.tensor_type.shape.dim] for port in ports}
    names, wanted = [pixel_model.input_name, *pixel_model.output_names], list(pixel_model.input_shape)
    if pixel_model.input_name == INPUT and not multiple:
        wanted = [1, *size, 3]
    fixed = multiple or not any(-1 in shape for shape in shapes.values())
    if shapes.get(names[0]) != wanted or list(shapes) != names or not fixed:
        what = f"the exported graph has {shapes}, not {names} with the input {wanted}."
        raise VerificationError(what, "Remove data-dependent shapes from the model.")
    save(graph, path)
    return Built("onnxruntime", "fp32", path, varies=varies)


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
    """The graph as torch.export sees it, in fp32 on the CPU; of any size in multiples where the model states one."""
    multiple = pixel_model.preprocess.multiple
    if multiple:  # unlike each other and above 1, so that no equality is taken for a rule
        size = (5 * multiple * -(-64 // multiple), 7 * multiple * -(-64 // multiple))
    return captured_once(_capture, pixel_model.float().cpu().eval(), size)


def _capture(pixel_model: PixelModel, size: tuple[int, int]) -> onnx.ModelProto:
    logger, multiple = logging.getLogger("torch.onnx"), pixel_model.preprocess.multiple
    free = ({axis: _multiples(multiple, name) for axis, name in ((1, "h"), (2, "w"))},) if multiple else None
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad(), kept_table(OPSET):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                pixel_model,
                (pixel_model.example(size),),
                dynamo=True,
                verbose=False,
                external_data=False,
                input_names=[pixel_model.input_name],
                output_names=pixel_model.output_names,
                opset_version=OPSET,
                dynamic_shapes=free,
            )
    finally:
        logger.setLevel(level)
    return program.model_proto  # type: ignore[union-attr]


def _multiples(multiple: int, name: str) -> Any:
    return Dim(name, min=2, max=65536) if multiple == 1 else multiple * Dim(name, min=2, max=65536)


def any_size(graph: onnx.ModelProto, multiple: int) -> onnx.ModelProto:
    """A graph for multiples as one for any size: bytes are padded by their edge in front, answers are cut behind."""
    body, constants = graph.graph, {"last": np.array([0, 1, 1, 0]), "none": np.zeros(4), "spatial": np.array([1, 2])}
    constants |= {"multiple": np.array([multiple]), "zero": np.zeros(1), "start": np.zeros(2)}
    body.initializer.extend(numpy_helper.from_array(x.astype(np.int64), f"any_size.{k}") for k, x in constants.items())
    steps = [
        ("Shape", [INPUT], "shape"),
        ("Sub", ["any_size.zero", "any_size.shape"], "negative"),
        ("Mod", ["any_size.negative", "any_size.multiple"], "missing"),
        ("Mul", ["any_size.missing", "any_size.last"], "after"),
        ("Concat", ["any_size.none", "any_size.after"], "pads"),
        ("Pad", [INPUT, "any_size.pads"], "padded"),
        ("Gather", ["any_size.shape", "any_size.spatial"], "size"),
    ]
    extra: dict[str, dict[str, Any]] = {"Concat": {"axis": 0}, "Pad": {"mode": "edge"}}
    before = [
        helper.make_node(kind, names, [f"any_size.{out}"], name=f"any_size/{kind}", **extra.get(kind, {}))
        for kind, names, out in steps
    ]
    outputs, inner, after = {port.name for port in body.output}, list(body.node), []
    for node in inner:
        node.input[:] = ["any_size.padded" if name == INPUT else name for name in node.input]
        for index, name in enumerate(node.output):
            if name in outputs:
                node.output[index] = f"{name}.padded"
                cut = [f"{name}.padded", "any_size.start", "any_size.size", "any_size.spatial"]
                after.append(helper.make_node("Slice", cut, [name], name=f"any_size/Slice_{name}"))
    for port in (*body.input, *body.output):
        for axis, name in ((1, "height"), (2, "width")):
            port.type.tensor_type.shape.dim[axis].dim_param = name
    del body.node[:], body.value_info[:]
    body.node.extend([*before, *inner, *after])
    return onnx.shape_inference.infer_shapes(graph)


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


def to_half_storage(graph: onnx.ModelProto, *, min_values: int = 1024, keep: Collection[str] = ()) -> onnx.ModelProto:
    """Store large float32 weights as float16, each cast back to float32 when the model is loaded.

    The file halves; arithmetic stays float32, since a CPU has no faster half-precision units in ONNX Runtime, and half
    precision activations overflow in LayerNorm and attention of some models. ONNX Runtime folds the casts once at load.
    Weights named in ``keep`` stay as they are, and so do those that float16 cannot hold.
    """
    result = copy.deepcopy(graph)
    casts, nodes = [], list(result.graph.node)
    for tensor in result.graph.initializer:
        values, name, half = numpy_helper.to_array(tensor), tensor.name, f"{tensor.name}.half"
        if name in keep or tensor.data_type != TensorProto.FLOAT or values.size < min_values:
            continue
        if abs(values).max() > 65504:
            continue
        tensor.CopyFrom(numpy_helper.from_array(values.astype("float16"), half))
        casts.append(helper.make_node("Cast", [half], [name], name=f"{name}/to_float", to=TensorProto.FLOAT))
    del result.graph.node[:]
    result.graph.node.extend([*casts, *nodes])
    return result
