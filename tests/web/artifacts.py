"""Artifacts for tests of the phone app beside the tiny ones: depth, and a file that needs more memory than there is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pocketvit.spec.artifact import Artifact, file_entries, new_folder, read_artifact, write_manifest
from pocketvit.spec.golden import Golden, read_golden, write_golden
from pocketvit.spec.manifest import Manifest, TensorSpec, Variant
from pocketvit.spec.preprocess import Preprocess, prepare
from tests.tiny import TILE, make_tiny_artifact, photo, run_onnx

DEPTH_SIZE = (48, 64)


def _save(path: Path, nodes: list[Any], ports: tuple[Any, Any], weights: dict[str, np.ndarray]) -> None:
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny", [ports[0]], [ports[1]], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def make_depth_artifact(folder: Path) -> Artifact:
    """``depth`` = 0.5 m to about 3 m, the brighter the nearer."""
    height, width = DEPTH_SIZE
    ports = (
        helper.make_tensor_value_info("pixels", TensorProto.UINT8, [1, height, width, 3]),
        helper.make_tensor_value_info("depth", TensorProto.FLOAT, [1, height, width]),
    )
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["grey"], keepdims=0),
        helper.make_node("Mul", ["grey", "slope"], ["scaled"]),
        helper.make_node("Add", ["scaled", "far"], ["depth"]),
    ]
    weights = {"axes": np.array([3], np.int64), "slope": np.float32(-0.01), "far": np.float32(3.1)}
    with new_folder(folder) as temporary:
        _save(temporary / "model.onnx", nodes, ports, weights)
        (temporary / "card.md").write_text("# tiny\n", encoding="utf-8")
        preprocess = Preprocess(size=DEPTH_SIZE, resize="stretch", interpolation="bilinear")
        sources = tuple(photo(90, 120, seed=i) for i in range(2))
        inputs = np.stack([prepare(one, preprocess) for one in sources])
        outputs = run_onnx(temporary / "model.onnx", inputs)
        golden = Golden(inputs, outputs, sources, outputs["depth"].astype(np.float16), preprocess)
        pixels = TensorSpec(name="pixels", shape=[1, height, width, 3], dtype="uint8", meaning="RGB")
        fields: dict[str, Any] = {
            **{"name": "tiny-depth", "version": "1.0.0", "task": "depth", "preprocess": preprocess, "files": []},
            **{"inputs": [pixels], "default": "onnxruntime:fp32", "main_metric": "abs_rel"},
            "outputs": [TensorSpec(name="depth", shape=[1, height, width], dtype="float32", meaning="metres")],
            "variants": [Variant(runtime="onnxruntime", precision="fp32", path="model.onnx")],
        }
        write_golden(temporary, replace(golden, contract=Manifest(**fields).contract()))
        write_manifest(temporary, Manifest(**{**fields, "files": file_entries(temporary)}))
    return read_artifact(folder)


_PORTS = (
    helper.make_tensor_value_info("pixels", TensorProto.UINT8, [1, *TILE, 3]),
    helper.make_tensor_value_info("restored", TensorProto.FLOAT, [1, *TILE, 3]),
)


def make_huge_artifact(folder: Path) -> Artifact:
    """A restorer that copies its input 200,000 times before it answers: 7 GB, more than WebAssembly can address."""
    artifact = make_tiny_artifact(folder)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Expand", ["float", "shape"], ["many"]),
        helper.make_node("ReduceMean", ["many", "axes"], ["restored"], keepdims=1),
    ]
    weights = {"shape": np.array([200_000, *TILE, 3], np.int64), "axes": np.array([0], np.int64)}
    _save(folder / "model.onnx", nodes, _PORTS, weights)
    write_manifest(folder, artifact.manifest.model_copy(update={"files": file_entries(folder)}))
    return read_artifact(folder)


def make_wild_artifact(folder: Path) -> Artifact:
    """A restorer with sines of thousands of radians, which graphics processors compute in another way."""
    artifact = make_tiny_artifact(folder)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "fast"], ["angle"]),
        helper.make_node("Sin", ["angle"], ["sine"]),
        helper.make_node("Mul", ["sine", "high"], ["wave"]),
        helper.make_node("Add", ["wave", "middle"], ["restored"]),
    ]
    weights = {"fast": np.float32(997.0), "high": np.float32(120), "middle": np.float32(128)}
    _save(folder / "model.onnx", nodes, _PORTS, weights)
    golden = read_golden(artifact)
    outputs = run_onnx(folder / "model.onnx", np.asarray(golden.inputs))
    write_golden(folder, replace(golden, outputs=outputs))
    write_manifest(folder, artifact.manifest.model_copy(update={"files": file_entries(folder)}))
    return read_artifact(folder)


def break_on_white(artifact: Artifact) -> Artifact:
    """Let a tiny restorer answer white pictures with NaN, and all others as before."""
    model = onnx.load(artifact.path / "model.onnx")
    nodes = [
        helper.make_node("ReduceMin", ["float"], ["darkest"], keepdims=1),
        helper.make_node("Sub", ["white", "darkest"], ["left"]),
        helper.make_node("Div", ["left", "left"], ["one"]),
        helper.make_node("Mul", ["answer", "one"], ["restored"]),
    ]
    model.graph.node[-1].output[0] = "answer"
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(255), "white"))
    onnx.checker.check_model(model)
    onnx.save(model, artifact.path / "model.onnx")
    write_manifest(artifact.path, artifact.manifest.model_copy(update={"files": file_entries(artifact.path)}))
    return read_artifact(artifact.path)
