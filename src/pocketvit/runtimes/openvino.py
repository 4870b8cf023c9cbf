"""OpenVINO on the processor.

The arithmetic is chosen when the file is compiled: the target's precision becomes OpenVINO's inference precision hint.
An int8 file holds its quantisers itself; what is left in float runs in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import MissingDependencyError, UsageError, VerificationError
from pocketvit.runtimes import Port, SessionInfo, check_inputs, first_line
from pocketvit.spec.manifest import Manifest
from pocketvit.spec.target import Target

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
_TAIL_BYTES = 64


class OpenVinoSession:
    """An OpenVINO IR compiled for the CPU plugin."""

    def __init__(self, compiled: Any, info: SessionInfo) -> None:
        self.info = info
        self.inputs = {port.get_any_name(): _port(port) for port in compiled.inputs}
        self.outputs = {port.get_any_name(): _port(port) for port in compiled.outputs}
        self._ports = list(zip(self.outputs, compiled.outputs, strict=True))
        self._request = compiled.create_infer_request()

    def run(self, inputs: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
        """See :class:`pocketvit.runtimes.Session`."""
        check_inputs(self.inputs, inputs)
        results = self._request.infer(
            {name: np.ascontiguousarray(array) for name, array in inputs.items()}, share_inputs=True
        )
        return {name: np.array(results[port]) for name, port in self._ports}  # the request reuses its buffers


def _port(port: Any) -> Port:
    shape = tuple(d.get_length() if d.is_static else -1 for d in port.get_partial_shape())
    return Port(shape, str(np.dtype(port.get_element_type().to_dtype())))


@lru_cache(maxsize=1)
def _core() -> Any:
    import openvino

    return openvino.Core()


def capabilities() -> tuple[str, ...]:
    """What the processor has in OpenVINO's words, e.g. ``("BF16", "FP32", "INT8")``.

    Raises:
        MissingDependencyError: openvino is not installed.
    """
    try:
        return tuple(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    except ImportError as error:
        raise MissingDependencyError.of("openvino", "openvino") from error


def open_file(path: Path, target: Target, manifest: Manifest | None = None) -> OpenVinoSession:
    """Open an ``.xml`` IR (its ``.bin`` lies beside it) or an ``.onnx`` file with ``target.threads`` threads, tuned for the latency of one image.

    fp16 files run on every processor: where it lacks fp16 arithmetic their weights are widened to float32 when they are
    loaded, and ``info.device`` says so.

    Raises:
        MissingDependencyError: openvino is not installed.
        UsageError: bf16 on a processor without bf16 instructions.
        VerificationError: a file is missing, damaged or no IR.
    """
    have = capabilities()
    if target.precision == "bf16" and "BF16" not in have:
        raise UsageError("this processor has no bf16 instructions.", "Take openvino:fp32 or openvino:int8.")
    import openvino

    todo = "Export the artifact again, or copy it again."
    _check_complete(path, todo)
    widened = target.precision == "fp16" and "FP16" not in have
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": target.threads,
        "INFERENCE_PRECISION_HINT": "f32" if widened else _HINTS[target.precision],
    }
    try:
        compiled = _core().compile_model(_core().read_model(str(path)), "CPU", config)
    except Exception as error:  # the engine raises plain RuntimeErrors and pybind's own
        raise VerificationError(f"{path}: OpenVINO cannot open it ({first_line(error)}).", todo) from error
    device = "CPU (fp16 weights, float32 arithmetic)" if widened else "CPU"
    info = SessionInfo(
        "openvino", openvino.__version__.split("-")[0], target.precision, target.threads, device, {"CPU": 1.0}
    )
    return OpenVinoSession(compiled, info)


def _check_complete(path: Path, todo: str) -> None:
    """Refuse missing and cut-off files ourselves: the engine would try every other format it knows on them."""
    is_onnx = path.suffix == ".onnx"
    for part in (path,) if is_onnx else (path, path.with_suffix(".bin")):
        if not part.is_file():
            raise VerificationError(f"{part}: the file is missing.", todo)
    if is_onnx:
        return
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        if b"</net>" not in file.read():
            raise VerificationError(f"{path}: OpenVINO cannot open it (no complete IR document).", todo)
