"""Model file -> Session: NumPy in, NumPy out, one module per engine.

A new engine is one module with an ``open_file(path, target)`` function and one row in ``ENGINES``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pocketvit.spec.budget import Target

ENGINES = {
    "onnxruntime": "pocketvit.runtimes.onnxruntime",
    "openvino": "pocketvit.runtimes.openvino",
    "torchscript": "pocketvit.runtimes.torchscript",
}


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


class Session(Protocol):
    """A loaded model file."""

    info: SessionInfo

    def run(self, inputs: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
        """Run the model on (1, H, W, 3) uint8 pixels and return its outputs by name."""
        ...


def open_session(path: Path, target: Target) -> Session:
    """Open ``path`` in the runtime, precision and thread count of ``target``.

    Raises:
        MissingDependencyError: the engine is not installed.
        VerificationError: the file is damaged or not a model of this engine.
        UsageError: the engine cannot run this precision on this machine.
    """
    module = importlib.import_module(ENGINES[target.runtime])
    return module.open_file(path, target)  # type: ignore[no-any-return]
