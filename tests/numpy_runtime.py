"""A runtime that is added from outside the package: NumPy executes an ``.npz`` that holds a graph and its weights.

``monkeypatch.setitem(RUNTIMES, "numpy", RUNTIME)`` is all that takes it through export, verify, bench and load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from pocketvit.export import onnx as onnx_format
from pocketvit.export.built import Built
from pocketvit.runtimes.session import Port, Runtime, SessionInfo, cannot_open, check_inputs
from pocketvit.spec.manifest import Manifest
from pocketvit.spec.target import Target

GRAPH = "__graph__"


def write(pixel_model: Any, size: tuple[int, int], folder: Path, stem: str = "model") -> Built:
    """Weights as arrays by name, and the graph without them."""
    return from_onnx(onnx_format.tidy(onnx_format.capture(pixel_model, size)), folder / f"{stem}.npz")


def from_onnx(model: onnx.ModelProto, path: Path) -> Built:
    weights = {x.name: numpy_helper.to_array(x) for x in model.graph.initializer}
    del model.graph.initializer[:]
    np.savez(path, **{GRAPH: np.frombuffer(model.SerializeToString(), np.uint8)}, **weights)
    return Built("numpy", "fp32", path)


def read(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    with np.load(path, allow_pickle=False) as arrays:
        found = dict(arrays)
    return found.pop(GRAPH), found


class NumpySession:
    def __init__(self, model: onnx.ModelProto, info: SessionInfo) -> None:
        self.info = info
        self.inputs: Mapping[str, Port] = {x.name: _port(x) for x in model.graph.input}
        self.outputs: Mapping[str, Port] = {x.name: _port(x) for x in model.graph.output}
        self._engine = ReferenceEvaluator(model)
        self.running = 0

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        check_inputs(self.inputs, inputs)
        self.running += 1
        assert self.running == 1, "two threads at once"
        answers = self._engine.run(None, dict(inputs))
        self.running -= 1
        return dict(zip(self.outputs, answers, strict=True))


def _port(value: onnx.ValueInfoProto) -> Port:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return Port(tuple(d.dim_value for d in tensor.shape.dim), str(dtype))


def open_file(path: Path, target: Target, manifest: Manifest | None = None) -> NumpySession:
    try:
        graph, weights = read(path)
        model = onnx.ModelProto.FromString(graph.tobytes())
    except Exception as error:
        raise cannot_open(path, "NumPy", error) from error
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    return NumpySession(model, SessionInfo("numpy", np.__version__, target.precision, 1, "CPU", {"NumPy": 1.0}))


def damage(files: Sequence[Path]) -> None:
    graph, weights = read(files[0])
    for value in weights.values():
        if value.dtype == np.float32 and value.size >= 4:
            value.reshape(-1)[value.size // 4 : -(value.size // 4)] = 0
    np.savez(files[0], **{GRAPH: graph}, **weights)


RUNTIME = Runtime(
    name="numpy",
    package="numpy",
    extra="",
    format="npz",
    suffix=".npz",
    writer="tests.numpy_runtime:write",
    open=open_file,
    devices=lambda: ("cpu",),
    precisions=lambda device: ("fp32",),
    damage=damage,
    thread_safe=False,
)
