"""An artifact that finds the reddest and the bluest places of a photo, for tests of the phone app."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pocketvit.spec.artifact import Artifact, file_entries, new_folder, read_artifact, write_manifest
from pocketvit.spec.golden import Golden, write_golden
from pocketvit.spec.hierarchy import LevelSpec
from pocketvit.spec.manifest import Manifest, TensorSpec, Variant
from pocketvit.spec.preprocess import Preprocess, prepare
from pocketvit.spec.tasks.detect import DETECT, DetectConfig, stacked
from tests.tiny import photo, run_onnx

SIZE, CELL = (64, 96), 8
LEVELS = (LevelSpec(name="label", labels=["red", "blue"]),)


def _save(path: Path) -> None:
    """``heat`` = mean red and blue of each cell, 0 to 1; ``sides`` = 0.1, and wider where it is redder."""
    rows, columns = SIZE[0] // CELL, SIZE[1] // CELL
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, [1, *SIZE, 3])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, count, rows, columns])
        for name, count in (("heat", 2), ("sides", 4))
    ]
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["nchw"], ["mean"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("Conv", ["mean", "pick"], ["heat"]),
        helper.make_node("Conv", ["mean", "widen", "least"], ["sides"]),
    ]
    pick, widen = np.zeros((2, 3, 1, 1), np.float32), np.zeros((4, 3, 1, 1), np.float32)
    pick[0, 0], pick[1, 2], widen[::2, 0] = 1 / 255, 1 / 255, 0.1 / 255
    weights = {"pick": pick, "widen": widen, "least": np.full(4, 0.1, np.float32)}
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny", [pixels], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def make_detect_artifact(folder: Path) -> Artifact:
    """With goldens whose truth are the model's own best boxes."""
    with new_folder(folder) as temporary:
        _save(temporary / "model.onnx")
        (temporary / "card.md").write_text("# tiny\n", encoding="utf-8")
        preprocess = Preprocess(size=SIZE, resize="stretch", interpolation="bilinear")
        sources = tuple(photo(90, 120, seed=i) for i in range(2))
        inputs = np.stack([prepare(one, preprocess) for one in sources])
        outputs = run_onnx(temporary / "model.onnx", inputs)
        found: list[Any] = [DETECT.finish({k: v[i : i + 1] for k, v in outputs.items()}, LEVELS) for i in range(2)]
        truth = stacked([np.concatenate([x.classes[:3, None], x.boxes[:3]], axis=1) for x in found])
        pixels = TensorSpec(name="pixels", shape=[1, *SIZE, 3], dtype="uint8", meaning="RGB")
        fields: dict[str, Any] = {
            **{"name": "tiny-boxes", "version": "1.0.0", "task": "detect", "preprocess": preprocess, "files": []},
            **{"inputs": [pixels], "outputs": DETECT.outputs(LEVELS, preprocess, DetectConfig()), "levels": LEVELS},
            **{"default": "onnxruntime:fp32", "main_metric": "ap"},
            "variants": [Variant(runtime="onnxruntime", precision="fp32", path="model.onnx")],
        }
        golden = Golden(inputs, outputs, sources, truth, preprocess)
        write_golden(temporary, replace(golden, contract=Manifest(**fields).contract()))
        write_manifest(temporary, Manifest(**{**fields, "files": file_entries(temporary)}))
    return read_artifact(folder)
