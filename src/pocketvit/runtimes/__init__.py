"""Model file -> Session: NumPy in, NumPy out, one module per engine.

A new engine is one module with an ``open_file(path, target, manifest)`` function and one row in ``ENGINES``.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import DataError
from pocketvit.spec.manifest import Manifest
from pocketvit.spec.target import Target

ENGINES = {
    "onnxruntime": "pocketvit.runtimes.onnxruntime",
    "openvino": "pocketvit.runtimes.openvino",
    "torchscript": "pocketvit.runtimes.torchscript",
}
PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "torchscript": "torch"}
"""The Python package that each engine needs."""


@dataclass(frozen=True)
class SessionInfo:
    """What a session reports about itself; copied into benchmark rows."""

    engine: str
    version: str
    precision: str
    threads: int
    device: str
    coverage: dict[str, float]
    """Share of the graph's nodes each execution provider took."""


@dataclass(frozen=True)
class Port:
    """Shape and NumPy dtype of one input or output as the opened file declares it; -1 is a free dimension, no shape is unknown."""

    shape: tuple[int, ...] | None
    dtype: str


class Session(Protocol):
    """A loaded model file."""

    info: SessionInfo
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]

    def run(self, inputs: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
        """Run the model on (1, H, W, 3) uint8 pixels and return its outputs by name.

        Raises:
            DataError: an input is missing, unknown, or of another shape or dtype.
        """
        ...


def installed(runtime: str) -> bool:
    """Whether the package behind ``runtime`` can be imported (it is not imported here)."""
    return importlib.util.find_spec(PACKAGES[runtime]) is not None


def open_session(path: Path, target: Target, manifest: Manifest | None = None) -> Session:
    """Open ``path`` in the runtime, precision and thread count of ``target``.

    Args:
        path: the model file.
        target: engine, precision and threads.
        manifest: names and shapes for files that do not declare them themselves (TorchScript); the other engines read the file.

    Raises:
        MissingDependencyError: the engine is not installed.
        VerificationError: the file is damaged or not a model of this engine.
        UsageError: the engine cannot run this precision on this machine.
    """
    module = importlib.import_module(ENGINES[target.runtime])
    return module.open_file(path, target, manifest)  # type: ignore[no-any-return]


def check_inputs(ports: Mapping[str, Port], inputs: Mapping[str, NDArray[Any]]) -> None:
    """Raise ``DataError`` unless ``inputs`` are exactly what ``ports`` declare. Engines would cast or crash instead.

    Raises:
        DataError: names the input, what it is and what was expected.
    """
    todo = "Give " + ", ".join(f"{name}: {port.dtype} {port.shape}" for name, port in ports.items()) + "."
    if set(inputs) != set(ports):
        raise DataError(f"inputs {sorted(inputs)} given, {sorted(ports)} expected.", todo)
    for name, port in ports.items():
        array = inputs[name]
        if not isinstance(array, np.ndarray) or str(array.dtype) != port.dtype:
            raise DataError(
                f"input {name}: expected {port.dtype} {port.shape}, got {getattr(array, 'dtype', type(array).__name__)}.",
                todo,
            )
        wrong = port.shape is not None and (
            len(array.shape) != len(port.shape)
            or any(w not in (-1, h) for w, h in zip(port.shape, array.shape, strict=True))
        )
        if wrong:
            raise DataError(f"input {name}: expected shape {port.shape}, got {array.shape}.", todo)


def first_line(error: BaseException, limit: int = 160) -> str:
    """The most telling line of an engine's error, shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from")]
    return (lines[0] if lines else type(error).__name__)[:limit]
