"""Lower float precisions: bf16 arithmetic where the engine offers it, fp16 storage."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import onnx

from pocketvit.compress.half import Overflow, save_half, scan_onnx, scan_openvino
from pocketvit.compress.step import Context, StepReport
from pocketvit.errors import UsageError
from pocketvit.export import openvino as openvino_format
from pocketvit.export.built import Built
from pocketvit.export.onnx import save, to_half_storage

LEAST = 1024
"""Values of a tensor from which it counts; an ONNX file stores smaller ones in float32."""


@dataclass(frozen=True)
class Bf16:
    """bf16 arithmetic through OpenVINO's precision hint; the files are those of fp32."""


@dataclass(frozen=True)
class Fp16:
    """Weights stored as float16: half the file. What float16 cannot hold is found first and stays in float32.

    ONNX Runtime computes in float32; OpenVINO in float16 where the processor can, else float32.
    """

    scan: bool = True
    """Look at activations on calibration images, if there are any; weights are always looked at."""
    headroom: float = 2.0
    """How many times the largest seen activation must fit, since other images may be louder."""

    def __post_init__(self) -> None:
        if not self.headroom >= 1:
            raise UsageError(f"fp16: headroom must be 1 or more, not {self.headroom}.", "Correct the step.")


def bf16(step: Bf16, built: Built, context: Context) -> StepReport:
    """The same OpenVINO files under the name of another precision.

    Raises:
        UsageError: another engine; ONNX Runtime has no bf16 kernels for processors.
    """
    if built.runtime != "openvino" or built.precision != "fp32":
        todo = "Export to OpenVINO; the other engines have no bf16 on processors."
        raise UsageError(f"bf16 starts from openvino:fp32, not {built.key}.", todo)
    return StepReport("bf16", asdict(step), Built("openvino", "bf16", built.path, built.companions))


def fp16(step: Fp16, built: Built, context: Context) -> StepReport:
    """Write ``<stem>-fp16`` with half-size weights.

    Operations whose output would pass 65504 on a calibration image, ``headroom`` counted, and their weights stay in
    float32, and so do weights that are too large themselves.

    Returns:
        Its notes hold ``images``, ``peak`` (the largest activation), ``float_nodes`` and ``float_weights`` by name, and
        ``half_weights``, the number of tensors that float16 may hold.

    Raises:
        UsageError: another engine, not a float32 file, or nothing is left for float16.
    """
    stem = f"{built.path.stem}-fp16"
    if built.precision != "fp32" or built.runtime not in ("onnxruntime", "openvino"):
        what = f"fp16 starts from onnxruntime:fp32 or openvino:fp32, not {built.key}."
        raise UsageError(what, "Export to ONNX or OpenVINO first.")
    images = context.calibration if step.scan else ()
    if built.runtime == "openvino":
        graph = openvino_format.engine().Core().read_model(str(built.path))
        found = scan_openvino(graph, images, step.headroom, LEAST, context.threads)
        _check_left(found)
        result = save_half(graph, found, context.folder, stem)
    else:
        model = onnx.load(built.path)
        found = scan_onnx(model, images, step.headroom, LEAST, context.threads)
        _check_left(found)
        result = Built("onnxruntime", "fp16", context.folder / f"{stem}.onnx")
        save(to_half_storage(model, min_values=LEAST, keep=found.weights), result.path)
    told = f"{len(found.nodes)} operations and {len(found.weights)} weights stay in float32: float16 ends at 65504"
    told = told if found.nodes or found.weights else ""
    return StepReport("fp16", asdict(step), result, notes=found.to_dict(), told=told)


def _check_left(found: Overflow) -> None:
    if not found.left and (found.weights or found.nodes):  # small networks have none that would pay
        what = (
            f"fp16: no weight is left for float16: {len(found.weights)} are too large for it, or belong to operations"
        )
        what += f" whose outputs are (up to {found.peak:.3g}; float16 ends at 65504)."
        raise UsageError(what, "Leave fp16 out for this model, or take bf16.")
