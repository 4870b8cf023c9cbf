"""ONNX Runtime on the processor.

Precision is a property of the file (float or QDQ int8), not of the engine: the target's precision is reported, and a
precision for which the engine has no kernels at all is refused instead of silently run in float.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import MissingDependencyError, UsageError, VerificationError
from pocketvit.runtimes import Port, SessionInfo, check_inputs, first_line
from pocketvit.spec.manifest import Manifest
from pocketvit.spec.target import Target

_DTYPES = {
    "tensor(uint8)": "uint8",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
}
_PRECISIONS = ("fp32", "fp16", "int8")


class OnnxRuntimeSession:
    """An ONNX file in ONNX Runtime's CPU provider."""

    def __init__(self, session: Any, info: SessionInfo) -> None:
        self.info = info
        self.inputs = {node.name: _port(node) for node in session.get_inputs()}
        self.outputs = {node.name: _port(node) for node in session.get_outputs()}
        self._names = list(self.outputs)
        self._session = session

    def run(self, inputs: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
        """See :class:`pocketvit.runtimes.Session`."""
        check_inputs(self.inputs, inputs)
        return dict(zip(self._names, self._session.run(self._names, dict(inputs)), strict=True))


def _port(node: Any) -> Port:
    shape = tuple(x if isinstance(x, int) else -1 for x in node.shape) if node.shape is not None else None
    return Port(shape, _DTYPES.get(node.type, node.type))


def open_file(path: Path, target: Target, manifest: Manifest | None = None) -> OnnxRuntimeSession:
    """Open an ``.onnx`` file with ``target.threads`` threads.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        UsageError: bf16, for which the engine has no processor kernels.
        VerificationError: the file is missing or no valid ONNX model.
    """
    if target.precision not in _PRECISIONS:
        raise UsageError(
            f"ONNX Runtime has no {target.precision} kernels for processors.",
            f"Take one of {', '.join(_PRECISIONS)}, or openvino:{target.precision}.",
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("onnxruntime is not installed.", "Run: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = target.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors arrive as exceptions; the engine would print them a second time
    # Threads that go on spinning after an answer would slow whatever runs next: another model, pre- and postprocessing.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the engine's error classes share no base but Exception
        raise VerificationError(
            f"{path}: ONNX Runtime cannot open it ({first_line(error)}).",
            "Export the artifact again, or copy it again.",
        ) from error
    info = SessionInfo(
        "onnxruntime", onnxruntime.__version__, target.precision, target.threads, "CPU", _coverage(session)
    )
    return OnnxRuntimeSession(session, info)


def _coverage(session: Any) -> dict[str, float]:
    """Share of the nodes each provider took, as the engine records it."""
    taken: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        taken[part.ep_name] = taken.get(part.ep_name, 0) + len(part.get_nodes())
    total = sum(taken.values())
    return {name: count / total for name, count in taken.items()} if total else {"CPUExecutionProvider": 1.0}
