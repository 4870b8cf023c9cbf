"""Weight-only quantisation: weight matrices in 8 or 4 bits with a scale for each block, activations in float.

No calibration image is needed, for nothing is said of activations. In ONNX Runtime the layers become ``MatMulNBits``
(its own quantiser, round to nearest), in OpenVINO constants that the engine widens (``nncf.compress_weights``). A file
is smaller for it; whether it is faster is the engine's affair: ONNX Runtime rounds activations to 8 bits block by block
where the node asks for it, OpenVINO's processor plugin does so by itself where it has the instructions. Where an engine
has no kernel for such weights it computes them in float, which :func:`kernels` of OpenVINO tells.
"""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import onnx

from pocketvit.compress.layers import Layer, session
from pocketvit.compress.products import as_products
from pocketvit.compress.step import Context, StepReport
from pocketvit.errors import MissingDependencyError, UsageError
from pocketvit.export import openvino as openvino_format
from pocketvit.export.built import Built
from pocketvit.export.onnx import save

PRECISION = "weights"
BLOCKS = (16, 32, 64, 128, 256)
_EIGHT, _FOUR = ("u8", "i8"), ("u4", "i4")


@dataclass(frozen=True)
class WeightOnly:
    """Settings of weight-only quantisation."""

    bits: int = 8
    """8 or 4."""
    block: int = 32
    """Weights of one output channel that share a scale: 16, 32, 64, 128 or 256. OpenVINO has one scale for a whole
    channel at 8 bits, and blocks at 4."""
    symmetric: bool = True
    """Off, each block has a zero point beside its scale."""
    activations: Literal["int8", "float"] = "int8"
    """What ONNX Runtime multiplies weights with: activations rounded to 8 bits block by block, or as they are. OpenVINO
    chooses by itself."""

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise UsageError(f"weights: bits must be 4 or 8, not {self.bits}.", "Correct the step.")
        if self.block not in BLOCKS:
            raise UsageError(f"weights: block must be one of {', '.join(map(str, BLOCKS))}.", "Correct the step.")
        if self.activations not in ("int8", "float"):
            raise UsageError(f"weights: unknown activations {self.activations!r}.", "Take int8 or float.")


def weights_onnxruntime(step: WeightOnly, built: Built, context: Context) -> StepReport:
    """Write ``<stem>-weights<bits>.onnx``.

    Args:
        step: settings.
        built: the float file (``onnxruntime:fp32``).
        context: only its folder is used.

    Returns:
        Its notes hold the number of layers with weight matrices (``layers``) and of those changed (``changed``).

    Raises:
        UsageError: not a float ONNX file of ours, no layer to change, or no kernel for it in the installed engine.
    """
    if built.key != "onnxruntime:fp32":
        raise UsageError(f"weights starts from onnxruntime:fp32, not {built.key}.", "Export to ONNX or OpenVINO first.")
    graph, layers = as_products(built.path)
    packed = _packed(step, graph, layers)
    changed = sum(node.op_type == "MatMulNBits" for node in packed.graph.node)
    if not changed:
        raise UsageError("weights: the library changed no layer.", "Leave the step out for this model.")
    try:
        session(packed, context.threads)
    except Exception as error:  # the engine's error classes share no base but Exception
        reason = " ".join(str(error).split())[:200]
        what = f"weights: this ONNX Runtime has no kernel for {step.bits} bits in blocks of {step.block} ({reason})."
        raise UsageError(what, "Take other bits or another block.") from error
    path = context.folder / f"{built.path.stem}-weights{step.bits}.onnx"
    save(packed, path)
    made = Built("onnxruntime", PRECISION, path)
    return StepReport("weights", asdict(step), made, notes=_notes(step, len(layers), changed), told=_told(step, made))


def _packed(step: WeightOnly, graph: onnx.ModelProto, layers: Sequence[Layer]) -> onnx.ModelProto:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    others = [node.name for node in graph.graph.node if node.name not in {layer.node for layer in layers}]
    level = 4 if step.activations == "int8" else 1  # of the operator: least accuracy of the sums, 1 is float32
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it tells of every node
    try:
        quantiser = MatMulNBitsQuantizer(
            graph,
            bits=step.bits,
            block_size=step.block,
            is_symmetric=step.symmetric,
            accuracy_level=level,
            nodes_to_exclude=others,
        )
        quantiser.process()
    finally:
        logging.disable(disabled)
    model: onnx.ModelProto = quantiser.model.model
    return model


def weights_openvino(step: WeightOnly, built: Built, context: Context) -> StepReport:
    """Write ``<stem>-weights<bits>`` through ``nncf.compress_weights``.

    Args:
        step: settings; at 8 bits ``block`` is the whole channel, and ``activations`` is the engine's choice.
        built: the float file (``openvino:fp32``).
        context: its folder and threads are used.

    Returns:
        Its notes hold ``layers`` and ``changed``, and in ``kernels`` how many layers the engine computes from which
        type of weights on this machine. At 4 bits a layer whose inputs the block does not divide has smaller blocks, or
        where there are none 8 bits; ``stored`` counts them.

    Raises:
        UsageError: not a float IR, or no layer to change.
        MissingDependencyError: NNCF or OpenVINO is missing.
    """
    if built.key != "openvino:fp32":
        raise UsageError(f"weights starts from openvino:fp32, not {built.key}.", "Export to ONNX or OpenVINO first.")
    core = openvino_format.engine().Core()
    graph = core.read_model(str(built.path))
    layers = len(_matrices(graph))
    if not layers:
        raise UsageError("weights: the graph has no layer with constant weights.", "Leave the step out.")
    graph = _compressed(step, graph)
    stored = _matrices(graph)
    changed = sum(kind in (*_EIGHT, *_FOUR) for kind in stored)
    made = openvino_format.save(graph, context.folder, f"{built.path.stem}-weights{step.bits}", PRECISION)
    found = kernels(made, context.threads)
    notes = _notes(step, layers, changed) | {"stored": dict(Counter(stored)), "kernels": found}
    told = _told(step, made)
    if floats := sum(count for kind, count in found.items() if kind not in (*_EIGHT, *_FOUR)):
        told += f"; {floats} of {sum(found.values())} are computed from widened weights here"
    return StepReport("weights", asdict(step), made, notes=notes, told=told)


def _compressed(step: WeightOnly, graph: Any) -> Any:
    try:
        import nncf
    except ImportError as error:
        raise MissingDependencyError.of("NNCF", "train") from error
    logging.getLogger("nncf").setLevel(logging.ERROR)
    name = f"INT{step.bits}_{'SYM' if step.symmetric else 'ASYM'}"
    options: dict[str, Any] = {"mode": nncf.CompressWeightsMode[name]}
    if step.bits == 4:
        # Layers whose inputs no block divides take a smaller one, or 8 bits, instead of ending the step.
        unfit = nncf.GroupSizeFallbackMode.ADJUST
        advanced = nncf.AdvancedCompressionParameters(group_size_fallback_mode=unfit)
        options |= {"group_size": step.block, "all_layers": True, "advanced_parameters": advanced}
    with redirect_stdout(io.StringIO()):  # it draws a bar of its own
        return nncf.compress_weights(graph, **options)


def _matrices(graph: Any) -> list[str]:
    """Of each matrix product with constant weights the type in which they are stored: f32, u8, i4, ..."""
    found = []
    for op in graph.get_ops():
        if op.get_type_name() == "MatMul" and (kind := _constant_type(op.input_value(1).get_node())):
            found.append(kind)
    return found


def _constant_type(op: Any) -> str:
    """Type of the constant that a chain of conversions and scales starts from; empty where there is none."""
    if op.get_type_name() == "Constant":
        return str(op.get_element_type().get_type_name())
    if op.get_type_name() in ("Convert", "Multiply", "Subtract", "Reshape", "Transpose"):
        return _constant_type(op.input_value(0).get_node())
    return ""


def kernels(built: Built, threads: int) -> dict[str, int]:
    """How many fully connected layers OpenVINO computes on this processor from which type of weights.

    Args:
        built: an IR whose matrix products have constant weights.
        threads: of the engine.

    Returns:
        Numbers by type: ``u8``, ``i4``, ... where the kernel reads what the file stores, ``f32`` where it was widened.
    """
    core = openvino_format.engine().Core()
    compiled = core.compile_model(str(built.path), "CPU", {"INFERENCE_NUM_THREADS": threads})
    found: Counter[str] = Counter()
    for op in compiled.get_runtime_model().get_ops():
        if op.get_rt_info()["layerType"].astype(str) == "FullyConnected":
            found[str(op.input(1).get_element_type().get_type_name())] += 1
    return dict(found)


def _notes(step: WeightOnly, layers: int, changed: int) -> dict[str, Any]:
    return {"bits": step.bits, "layers": layers, "changed": changed}


def _told(step: WeightOnly, built: Built) -> str:
    return f"weights in {step.bits} bits, {np.round(built.bytes / 1e6, 2)} MB"
