"""ONNX Runtime on the processor, and on an NVIDIA GPU where the installed package offers it.

Precision is a property of the file (float or QDQ int8), not of the engine: the target's precision is reported, and a
precision for which the engine has no kernels at all is refused instead of silently run in float. On CUDA the two differ
in speed and answers, so there fp16 is refused for files whose arithmetic is float32, and float32 is not cut to TF32.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import UsageError
from pocketvit.runtimes.onnxfile import computes_in_half, damage, external_files, places_of
from pocketvit.runtimes.session import Port, Runtime, SessionInfo, cannot_open, cannot_run, check_inputs
from pocketvit.runtimes.stored import is_stored, unpack
from pocketvit.spec.environment import processor
from pocketvit.spec.manifest import Manifest
from pocketvit.spec.target import CPU, Target

_DTYPES = {"float": "float32", "double": "float64"}
"""Element types that NumPy calls otherwise."""
_PROVIDERS: dict[str, tuple[str, dict[str, str]]] = {
    CPU: ("CPUExecutionProvider", {}),
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
}
_VNNI = {"avx_vnni", "avx512_vnni"}
_KEPT_PIXELS = 1_000_000
"""Of images of any size up to which the memory of a run is kept for the next of the same size."""


class OnnxRuntimeSession:
    """An ONNX file in ONNX Runtime; the engine is thread-safe by itself."""

    def __init__(self, session: Any, info: SessionInfo, shrink: Any = None) -> None:
        self.info = info
        self.inputs: Mapping[str, Port] = {node.name: _port(node) for node in session.get_inputs()}
        self.outputs: Mapping[str, Port] = {node.name: _port(node) for node in session.get_outputs()}
        self._session, self._shrink = session, shrink
        self._shape: tuple[int, ...] | None = None

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """See :class:`pocketvit.runtimes.Session`."""
        check_inputs(self.inputs, inputs)
        try:
            answers = self._session.run(list(self.outputs), dict(inputs), self._options(inputs))
        except Exception as error:  # the engine's error classes share no base but Exception
            raise cannot_run("ONNX Runtime", error) from error
        return dict(zip(self.outputs, answers, strict=True))

    def _options(self, inputs: Mapping[str, NDArray[Any]]) -> Any:
        """The engine keeps the memory of a run for the next. Where sizes change it would keep that of the largest one
        and more: a run of a large size, or of another than the last one's, gives it back at its end."""
        shape = next(iter(inputs.values())).shape
        changed, self._shape = shape != self._shape, shape
        kept = not changed and math.prod(shape) <= _KEPT_PIXELS * 3
        return self._shrink if _is_free(self.inputs) and not kept else None


def _is_free(ports: Mapping[str, Port]) -> bool:
    return any(-1 in (port.shape or ()) for port in ports.values())


def _port(node: Any) -> Port:
    shape = tuple(x if isinstance(x, int) else -1 for x in node.shape) if node.shape is not None else None
    element = node.type.removeprefix("tensor(").removesuffix(")")
    return Port(shape, _DTYPES.get(element, element))


def devices() -> tuple[str, ...]:
    """See :class:`pocketvit.runtimes.Runtime`."""
    import onnxruntime

    offered = onnxruntime.get_available_providers()
    return tuple(device for device, (provider, _) in _PROVIDERS.items() if provider in offered)


@cache
def saturates() -> bool:
    """Whether the engine's products of unsigned with signed bytes saturate on this processor: AVX2 without VNNI."""
    flags = set(processor()["flags"])
    return "avx2" in flags and not _VNNI & flags


def open_file(path: Path, target: Target, manifest: Manifest | None = None) -> OnnxRuntimeSession:
    """Open an ``.onnx`` file, or what a stored file (``.pvw``) rebuilds, with ``target.threads`` threads.

    Raises:
        UsageError: fp16 on CUDA of a file that computes in float32, or CUDA is offered and does not start.
        VerificationError: the file is missing, damaged or no valid ONNX model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = target.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors arrive as exceptions; the engine would print them a second time
    # Threads that go on spinning after an answer would slow whatever runs next: another model, pre- and postprocessing.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.load_model_format", "ONNX")  # whatever the file is called
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")  # older versions ignore it
    if saturates():  # asked so, the engine takes exact products
        options.add_session_config_entry("session.x64quantprecision", "1")
    providers = dict([_PROVIDERS[target.device], _PROVIDERS[CPU]])  # what CUDA lacks runs on the processor
    wanted, settings = list(providers), list(providers.values())
    source = _rebuilt(path) if is_stored(path) else str(path)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=wanted, provider_options=settings)
        shrink = onnxruntime.RunOptions()
        shrink.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        info = SessionInfo.of(target, onnxruntime.__version__, _coverage(session))
        opened = OnnxRuntimeSession(session, info, shrink)
    except Exception as error:  # the engine's error classes share no base but Exception
        raise cannot_open(path, "ONNX Runtime", error) from error
    if session.get_providers()[0] != wanted[0]:  # the engine falls back to the processor without an error
        todo = "Install the CUDA and cuDNN versions that it names, or take cpu."
        raise UsageError(f"ONNX Runtime could not start {wanted[0]}.", todo)
    if target.device != CPU and target.precision == "fp16" and not computes_in_half(path):
        raise UsageError(f"{path}: computes in float32, not fp16.", f"Take onnxruntime:fp32@{target.device}.")
    return opened


def _rebuilt(path: Path) -> bytes:
    """The model of a stored file; what it says to read beside it would be read from wherever the program stands."""
    content = unpack(path)
    try:
        places = places_of(content)
    except (ValueError, IndexError, KeyError) as error:
        raise cannot_open(path, "ONNX Runtime", "what is stored is no model") from error
    if places:
        raise cannot_open(path, "ONNX Runtime", f"what is stored reads {places[0]!r}")
    return content


def _reads(path: Path) -> tuple[str, ...]:
    """Of a stored file nothing: :func:`open_file` refuses one that asks for more, and rebuilds it only once."""
    return () if is_stored(path) else external_files(path)


def _coverage(session: Any) -> dict[str, float]:
    """Share of the nodes each provider took, as the engine records it; versions before 1.24 do not tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    taken: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        taken[part.ep_name] += len(part.get_nodes())
    total = taken.total()
    return {name: count / total for name, count in taken.items()} if total else {session.get_providers()[0]: 1.0}


RUNTIME = Runtime(
    name="onnxruntime",
    package="onnxruntime",
    extra="",
    format="onnx",
    suffix=".onnx",
    writer="pocketvit.export.onnx:write",
    open=open_file,
    devices=devices,
    precisions=lambda device: ("fp32", "fp16", "int8", "int8-dynamic", "weights", "cluster"),
    damage=damage,
    reads=_reads,
)
