"""An artifact of masks, by hand: which of three colours a pixel is nearest to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pocketvit.spec.artifact import Artifact, file_entries, new_folder, read_artifact, write_manifest
from pocketvit.spec.golden import Golden, write_golden
from pocketvit.spec.manifest import LevelSpec, Manifest, TensorSpec, Variant
from pocketvit.spec.preprocess import Preprocess, prepare
from tests.tiny import photo, run_onnx

SIZE, LABELS = (48, 64), ("red", "green", "blue")


def segment_onnx(path: Path) -> Path:
    """``probs`` = softmax of how much more of its own colour a 2x2 block has than of the others."""
    height, width = SIZE
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["nchw"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["small", "mix"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probs"], axis=1),
    ]
    mix = (0.03 * (1.5 * np.eye(3) - 0.5)).astype(np.float32)[..., None, None]
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.UINT8, [1, height, width, 3])]
    outputs = [helper.make_tensor_value_info("probs", TensorProto.FLOAT, [1, 3, height // 2, width // 2])]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, [numpy_helper.from_array(mix, "mix")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def make_segment_artifact(folder: Path) -> Artifact:
    """A complete artifact, with half-right truths of which a strip is ignored."""
    preprocess = Preprocess(size=SIZE, resize="stretch", interpolation="bilinear")
    levels = [LevelSpec(name="label", labels=list(LABELS))]
    with new_folder(folder) as temporary:
        file = segment_onnx(temporary / "model.onnx")
        (temporary / "card.md").write_text("# tiny\n", encoding="utf-8")
        sources = tuple(photo(90, 120, seed=i) for i in range(3))
        inputs = np.stack([prepare(one, preprocess) for one in sources])
        truth = inputs.argmax(axis=3).astype(np.uint8)
        truth[:, :20], truth[:, 20:24] = 1, 255
        fields: dict[str, Any] = {
            **{"name": "tiny-masks", "version": "1.0.0", "task": "segment", "preprocess": preprocess, "files": []},
            **{"levels": levels, "default": "onnxruntime:fp32", "main_metric": "miou"},
            "inputs": [TensorSpec(name="pixels", shape=[1, *SIZE, 3], dtype="uint8", meaning="RGB")],
            "outputs": [TensorSpec(name="probs", shape=[1, 3, 24, 32], dtype="float32", meaning="probabilities")],
            "variants": [Variant(runtime="onnxruntime", precision="fp32", path="model.onnx")],
        }
        golden = Golden(inputs, run_onnx(file, inputs), sources[:1], truth, preprocess)
        write_golden(temporary, replace(golden, contract=Manifest(**fields).contract()))
        write_manifest(temporary, Manifest(**{**fields, "files": file_entries(temporary)}))
    return read_artifact(folder)
