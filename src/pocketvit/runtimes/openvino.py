"""OpenVINO on the processor, and on the other devices that its plugins find.

The arithmetic is chosen when the file is compiled: the target's precision becomes OpenVINO's inference precision hint.
An int8 file holds its quantisers itself; what is left in float runs in float32.
"""

from __future__ import annotations

import queue
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import VerificationError
from pocketvit.runtimes.onnxfile import external_files
from pocketvit.runtimes.session import Port, Runtime, SessionInfo, cannot_open, cannot_run, check_inputs, zero_in_file
from pocketvit.spec.manifest import Manifest
from pocketvit.spec.target import CPU, Target

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
_TAIL_BYTES = 64
_REQUESTS = 4
"""At most so many infer requests at once: each holds the memory of one run, and the engine computes them in turns."""
_CONSTANT = re.compile(rb'<data element_type="(?:f32|f16|bf16|i8|u8|i4|u4)"[^>]*? offset="(\d+)" size="(\d+)"')


class OpenVinoSession:
    """An OpenVINO model compiled for a device, with a pool of infer requests; each serves one thread at a time."""

    def __init__(self, compiled: Any, info: SessionInfo) -> None:
        self.info = info
        self.inputs: Mapping[str, Port] = {port.get_any_name(): _port(port) for port in compiled.inputs}
        self.outputs: Mapping[str, Port] = {port.get_any_name(): _port(port) for port in compiled.outputs}
        self._ports = list(zip(self.outputs, compiled.outputs, strict=True))
        self._compiled = compiled
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()  # last in, first out: one thread uses one request only
        for _ in range(_REQUESTS):
            self._idle.put(None)  # made when it is first needed

    def run(self, inputs: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
        """See :class:`pocketvit.runtimes.Session`."""
        check_inputs(self.inputs, inputs)
        feed = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        request = self._idle.get()
        try:
            request = request or self._compiled.create_infer_request()
            results = request.infer(feed, share_inputs=True)
            return {name: np.array(results[port]) for name, port in self._ports}  # the request reuses its buffers
        except Exception as error:  # the engine raises plain RuntimeErrors and pybind's own
            raise cannot_run("OpenVINO", error) from error
        finally:
            self._idle.put(request)


def _port(port: Any) -> Port:
    shape = tuple(d.get_length() if d.is_static else -1 for d in port.get_partial_shape())
    return Port(shape, str(np.dtype(port.get_element_type().to_dtype())))


@lru_cache(maxsize=1)
def _core() -> Any:
    import openvino

    return openvino.Core()


def devices() -> tuple[str, ...]:
    """See :class:`pocketvit.runtimes.Runtime`: ``cpu``, ``gpu``, ``npu``; of several of a kind the first."""
    return tuple(dict.fromkeys(name.partition(".")[0].lower() for name in _core().available_devices))


def capabilities(device: str = CPU) -> tuple[str, ...]:
    """What a device has in OpenVINO's words, e.g. ``("BF16", "FP32", "INT8")``."""
    return tuple(_core().get_property(device.upper(), "OPTIMIZATION_CAPABILITIES"))


def precisions(device: str) -> tuple[str, ...]:
    """See :class:`pocketvit.runtimes.Runtime`: bf16 needs instructions, fp16 does not (:func:`open_file`)."""
    return ("fp32", "fp16", "int8", *(("bf16",) if "BF16" in capabilities(device) else ()))


def open_file(path: Path, target: Target, manifest: Manifest | None = None) -> OpenVinoSession:
    """Open an ``.xml`` IR (its ``.bin`` beside it) or an ``.onnx`` file, tuned for the latency of one image.

    fp16 files run on every processor: where it lacks fp16 arithmetic their weights are widened to float32 when they are
    loaded, and ``info.device`` says so.

    Raises:
        VerificationError: a file is missing, damaged or no IR.
    """
    import openvino

    _check_complete(path)
    widened = target.precision == "fp16" and "FP16" not in capabilities(target.device)
    hint = "f32" if widened else _HINTS[target.precision]
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    if target.device == CPU:
        config["INFERENCE_NUM_THREADS"] = target.threads
    try:
        compiled = _core().compile_model(_core().read_model(str(path)), target.device.upper(), config)
        note = " (fp16 weights, float32 arithmetic)" if widened else ""
        return OpenVinoSession(compiled, SessionInfo.of(target, openvino.__version__.split("-")[0], note=note))
    except Exception as error:  # the engine raises plain RuntimeErrors and pybind's own
        raise cannot_open(path, "OpenVINO", error) from error


def _check_complete(path: Path) -> None:
    """Refuse missing and cut-off files ourselves: the engine would try every other format it knows on them."""
    if path.suffix not in (".onnx", ".xml"):
        raise cannot_open(path, "OpenVINO", "neither .xml nor .onnx")
    parts = (path,) if path.suffix == ".onnx" else (path, path.with_suffix(".bin"))
    for part in parts:
        if not part.is_file():
            raise VerificationError(f"{part}: the file is missing.", "Export the artifact again, or copy it again.")
    if len(parts) > 1 and b"</net>" not in path.read_bytes()[-_TAIL_BYTES:]:
        raise cannot_open(path, "OpenVINO", "no complete IR document")


def reads(path: Path) -> tuple[str, ...]:
    """See :class:`pocketvit.runtimes.Runtime`."""
    beside = (path.with_suffix(".bin").name,) if path.suffix == ".xml" else ()
    return external_files(path) if path.suffix == ".onnx" else beside


def damage(files: Sequence[Path]) -> None:
    """See :class:`pocketvit.runtimes.Runtime`: the IR says where in the ``.bin`` each weight lies."""
    regions = [(int(offset), int(offset) + int(size)) for offset, size in _CONSTANT.findall(files[0].read_bytes())]
    for companion in files[1:]:
        zero_in_file(companion, regions)


RUNTIME = Runtime(
    name="openvino",
    package="openvino",
    extra="openvino",
    format="openvino",
    suffix=".xml",
    writer="pocketvit.export.openvino:write",
    open=open_file,
    devices=devices,
    precisions=precisions,
    damage=damage,
    reads=reads,
    engine_precisions=("bf16",),
    risky=True,
)
