"""OpenVINO on the processor, and on the other devices that its plugins find.

The arithmetic is chosen when the file is compiled: the target's precision becomes OpenVINO's inference precision hint.
An int8 file holds its quantisers itself; what it leaves in float runs in float32, as ``int8-bf16`` in bf16.
"""

from __future__ import annotations

import logging
import math
import queue
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
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

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32", "int8-bf16": "bf16", "weights": "f32"}
_TAIL_BYTES = 64
_REQUESTS = 4
"""At most so many infer requests at once: each holds the memory of one run, and the engine computes them in turns."""
_SIZES, _KEPT_PIXELS = 4, 1_000_000
"""How many sizes a model of any size stays compiled for, and their pixels together; one of any size is always kept."""
_LONG_S, _LOUD, _QUIET = 1.0, logging.WARNING, logging.INFO
"""Seconds of compiling that are said aloud."""
log = logging.getLogger("pocketvit")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
"""OpenVINO and NNCF tell Intel and Google of each import and conversion unless this package is missing. Here nothing is
sent that nobody asked for; besides, it forks processes from threads for that, which can hang the whole process."""
_CONSTANT = re.compile(rb'<data element_type="(?:f32|f16|bf16|i8|u8|i4|u4)"[^>]*? offset="(\d+)" size="(\d+)"')


class _Pool:
    """A compiled model with its infer requests; each serves one thread at a time."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()  # last in, first out: one thread uses one request only
        for _ in range(_REQUESTS):
            self._idle.put(None)  # made when it is first needed

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        request = self._idle.get()
        try:
            request = request or self._compiled.create_infer_request()
            results = request.infer(feed, share_inputs=True)
            return [np.array(results[port]) for port in self._compiled.outputs]  # the request reuses its buffers
        finally:
            self._idle.put(request)


class OpenVinoSession:
    """An OpenVINO model. One of any size is compiled for each size that comes: such files are a fifth faster than one
    that is compiled for all sizes, and give their memory back. A few that were used last are kept."""

    def __init__(self, graph: Any, compile_for: Callable[[Any], Any], info: SessionInfo) -> None:
        self.info = info
        self.inputs: Mapping[str, Port] = {port.get_any_name(): _port(port) for port in graph.inputs}
        self.outputs: Mapping[str, Port] = {port.get_any_name(): _port(port) for port in graph.outputs}
        self.compiled: list[float] = []
        """Seconds that each compilation for a size took."""
        self._graph, self._compile = graph, compile_for
        self._pools: OrderedDict[tuple[tuple[int, ...], ...], _Pool] = OrderedDict()
        self._lock = threading.Lock()
        self._fixed = None if graph.is_dynamic() else _Pool(compile_for(graph))

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """See :class:`pocketvit.runtimes.Session`."""
        check_inputs(self.inputs, inputs)
        feed = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        try:
            pool = self._fixed or self._pool_for(tuple(feed[name].shape for name in self.inputs))
            return dict(zip(self.outputs, pool.infer(feed), strict=True))
        except Exception as error:  # the engine raises plain RuntimeErrors and pybind's own
            raise cannot_run("OpenVINO", error) from error

    def _pool_for(self, shapes: tuple[tuple[int, ...], ...]) -> _Pool:
        with self._lock:
            if shapes not in self._pools:
                began = time.perf_counter()
                _shrink(self._pools, sum(map(math.prod, shapes)))
                graph = self._graph.clone()
                graph.reshape(dict(zip(self.inputs, map(list, shapes), strict=True)))
                self._pools[shapes] = _Pool(self._compile(graph))
                self.compiled.append(seconds := time.perf_counter() - began)
                size = "x".join(map(str, shapes[0][1:3]))
                log.log(_LOUD if seconds > _LONG_S else _QUIET, "OpenVINO: compiled for %s in %.1f s", size, seconds)
            self._pools.move_to_end(shapes)
            return self._pools[shapes]


def _shrink(pools: OrderedDict[tuple[tuple[int, ...], ...], Any], values: int) -> None:
    """Leave only so many of those used last that they and a new one of ``values`` inputs are few and small."""
    while pools and (
        len(pools) >= _SIZES or values + sum(math.prod(x) for key in pools for x in key) > _KEPT_PIXELS * 3
    ):
        pools.popitem(last=False)


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
    return ("fp32", "fp16", "int8", "weights", *(("bf16", "int8-bf16") if "BF16" in capabilities(device) else ()))


def hint_of(precision: str) -> str:
    """What the engine is told to compute in where a file does not say otherwise."""
    return _HINTS[precision]


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
        note = " (fp16 weights, float32 arithmetic)" if widened else ""
        info = SessionInfo.of(target, openvino.__version__.split("-")[0], note=note)
        device = target.device.upper()
        return OpenVinoSession(
            _core().read_model(str(path)), lambda graph: _core().compile_model(graph, device, config), info
        )
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
