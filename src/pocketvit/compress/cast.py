"""Lower float precisions: bf16 arithmetic where the engine offers it, fp16 storage."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import onnx

from pocketvit.compress.step import Context, StepReport
from pocketvit.errors import UsageError
from pocketvit.export import openvino as openvino_format
from pocketvit.export.built import Built
from pocketvit.export.onnx import save, to_half_storage


@dataclass(frozen=True)
class Bf16:
    """bf16 arithmetic through OpenVINO's precision hint; the files are those of fp32."""


@dataclass(frozen=True)
class Fp16:
    """Weights stored as float16: half the file.

    ONNX Runtime computes in float32; OpenVINO in float16 where the processor can, else float32.
    """


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

    Raises:
        UsageError: another engine, or not a float32 file.
    """
    stem = f"{built.path.stem}-fp16"
    if built.precision != "fp32" or built.runtime not in ("onnxruntime", "openvino"):
        what = f"fp16 starts from onnxruntime:fp32 or openvino:fp32, not {built.key}."
        raise UsageError(what, "Export to ONNX or OpenVINO first.")
    if built.runtime == "openvino":
        graph = openvino_format.engine().Core().read_model(str(built.path))
        result = openvino_format.save(graph, context.folder, stem, "fp16", half=True)
    else:
        result = Built("onnxruntime", "fp16", context.folder / f"{stem}.onnx")
        save(to_half_storage(onnx.load(built.path)), result.path)
    return StepReport("fp16", asdict(step), result)
