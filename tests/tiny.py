"""Tiny models built by hand with onnx.helper, and artifacts around them, for tests that need a file but no training.

The restorer is an identity 3x3 convolution with a slight blur; the classifier looks at mean colours on a 4x4 grid.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pocketvit.spec.artifact import Artifact, file_entries, new_folder, read_artifact, write_manifest
from pocketvit.spec.golden import Golden, write_golden
from pocketvit.spec.manifest import LevelSpec, Manifest, MetricRow, TensorSpec, Variant
from pocketvit.spec.preprocess import Preprocess, prepare

TILE = (48, 64)
SIZE = (32, 32)
LEVELS = (
    LevelSpec(name="coarse", labels=["warm", "cold"]),
    LevelSpec(name="fine", labels=["red", "yellow", "green", "blue"], parents=[0, 0, 1, 1]),
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth colourful (height, width, 3) uint8 picture: cheap to make, and no two channels alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [np.sin(2 * np.pi * (a * x + b * y) + c) for a, b, c in rng.uniform(0.5, 4, (3, 3))]
    return np.clip(
        np.stack(waves, axis=2) * 70 + rng.uniform(80, 170, 3) + rng.normal(0, 4, (height, width, 3)), 0, 255
    ).astype(np.uint8)


def noisy(clean: np.ndarray, sigma: float = 25, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(np.round(clean + rng.normal(0, sigma, clean.shape)), 0, 255).astype(np.uint8)


def _graph(nodes: list[Any], inputs: Any, outputs: list[Any], weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "tiny", inputs, outputs, [numpy_helper.from_array(value, name) for name, value in weights.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def restore_onnx(path: Path, size: tuple[int, int] = TILE, blur: float = 0.4) -> Path:
    """``restored`` = a 3x3 blur of each channel, mixed ``blur`` to ``1 - blur`` with the pixel; each its own."""
    height, width = size
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    for c, strength in enumerate((blur, blur / 2, blur / 4)):
        kernel[c, c] = strength / 9
        kernel[c, c, 1, 1] += 1 - strength
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "kernel"], ["blurred"], pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["blurred", "low", "high"], ["clamped"]),
        helper.make_node("Transpose", ["clamped"], ["restored"], perm=[0, 2, 3, 1]),
    ]
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.UINT8, [1, height, width, 3])]
    outputs = [helper.make_tensor_value_info("restored", TensorProto.FLOAT, [1, height, width, 3])]
    onnx.save(_graph(nodes, inputs, outputs, {"kernel": kernel, "low": np.float32(0), "high": np.float32(255)}), path)
    return path


def classify_onnx(path: Path, size: tuple[int, int] = SIZE, weight_scale: float = 1.0) -> Path:
    """``probs_coarse`` and ``probs_fine``: softmax of linear maps of the normalised mean colour."""
    height, width = size
    colours = np.array([[1, -1, -1], [1, 1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32).T * 2 * weight_scale
    coarse = np.array([[1.0, -1.0], [0.3, -0.3], [-1.0, 1.0]], np.float32) * 2 * weight_scale
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "shift"], ["normal"]),
        helper.make_node("ReduceMean", ["normal", "axes"], ["features"], keepdims=0),
        helper.make_node("MatMul", ["features", "w_coarse"], ["logits_coarse"]),
        helper.make_node("MatMul", ["features", "w_fine"], ["logits_fine"]),
        helper.make_node("Softmax", ["logits_coarse"], ["probs_coarse"], axis=-1),
        helper.make_node("Softmax", ["logits_fine"], ["probs_fine"], axis=-1),
    ]
    weights = {
        "scale": np.array([1 / (255 * s) for s in STD], np.float32),
        "shift": np.array([m / s for m, s in zip(MEAN, STD, strict=True)], np.float32),
        "axes": np.array([1, 2], np.int64),
        "w_coarse": coarse,
        "w_fine": colours,
    }
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.UINT8, [1, height, width, 3])]
    outputs = [helper.make_tensor_value_info(f"probs_{x.name}", TensorProto.FLOAT, [1, len(x.labels)]) for x in LEVELS]
    onnx.save(_graph(nodes, inputs, outputs, weights), path)
    return path


def coloured(label: int, height: int = 40, width: int = 56, seed: int = 0) -> np.ndarray:
    """A picture whose class the tiny classifier gets right: 0 red, 1 yellow, 2 green, 3 blue."""
    rng = np.random.default_rng(seed)
    base = np.array([(210, 50, 40), (210, 200, 50), (50, 190, 60), (40, 60, 200)][label])
    return np.clip(base + rng.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8)


def run_onnx(path: Path, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """The float model's answers to (N, H, W, 3), one image at a time."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_outputs()]
    rows = [session.run(names, {"pixels": image[None]}) for image in inputs]
    return {name: np.concatenate([row[i] for row in rows]) for i, name in enumerate(names)}


def _restore_parts(file: Path) -> tuple[Golden, dict[str, Any]]:
    clean = np.stack([photo(*TILE, seed=i) for i in range(3)])
    inputs = np.stack([noisy(c, seed=i) for i, c in enumerate(clean)])
    preprocess = Preprocess(size=TILE, resize="tile", overlap=16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    golden = Golden(inputs, run_onnx(file, inputs), (), clean, preprocess)
    outputs = [TensorSpec(name="restored", shape=[1, *TILE, 3], dtype="float32", meaning="RGB, 0 to 255")]
    return golden, {"preprocess": preprocess, "outputs": outputs, "main_metric": "psnr@sigma25"}


def _classify_parts(file: Path) -> tuple[Golden, dict[str, Any]]:
    preprocess = Preprocess(size=SIZE, mean=MEAN, std=STD)
    pictures = [coloured(i % 4, seed=i) for i in range(8)]
    inputs = np.stack([prepare(p, preprocess) for p in pictures])
    truth = np.array([[i % 4 // 2, i % 4] for i in range(8)], np.int64)
    golden = Golden(inputs, run_onnx(file, inputs), tuple(pictures[:2]), truth, preprocess)
    outputs = [
        TensorSpec(name=f"probs_{x.name}", shape=[1, len(x.labels)], dtype="float32", meaning="probabilities")
        for x in LEVELS
    ]
    return golden, {"preprocess": preprocess, "outputs": outputs, "main_metric": "fine.top1", "levels": list(LEVELS)}


def make_tiny_artifact(folder: Path, task: str = "restore", *, openvino: bool = False, **changes: Any) -> Artifact:
    """Write a complete artifact of ``task`` to ``folder`` and read it back.

    Args:
        folder: destination; must not exist.
        task: ``restore`` or ``classify``.
        openvino: add the variants ``openvino:fp32`` and ``openvino:bf16`` (one IR serves both).
        changes: fields of the manifest to set instead.
    """
    with new_folder(folder) as temporary:
        file = temporary / "model.onnx"
        writer, parts = {"restore": (restore_onnx, _restore_parts), "classify": (classify_onnx, _classify_parts)}[task]
        writer(file)
        golden, fields = parts(file)
        (temporary / "card.md").write_text("# tiny\n", encoding="utf-8")
        variants = [Variant(runtime="onnxruntime", precision="fp32", path="model.onnx")]
        if openvino:
            import openvino as ov

            ov.save_model(ov.convert_model(str(file)), str(temporary / "model.xml"), compress_to_fp16=False)
            variants += [
                Variant(runtime="openvino", precision=p, path="model.xml", companions=["model.bin"])
                for p in ("fp32", "bf16")
            ]
        size = fields["preprocess"].size
        fields = {
            "name": f"tiny-{task}",
            "task": task,
            "inputs": [TensorSpec(name="pixels", shape=[1, *size, 3], dtype="uint8", meaning="RGB, 0 to 255")],
            "files": [],
            "variants": variants,
            "default": "onnxruntime:fp32",
            "metrics": [
                MetricRow(
                    variant="onnxruntime:fp32",
                    name=fields["main_metric"],
                    value=20.0,
                    unit="",
                    dataset="tiny",
                    split="val",
                    count=3,
                )
            ],
            **fields,
            **changes,
        }
        draft = Manifest(**fields)
        write_golden(temporary, replace(golden, contract=draft.contract()))
        write_manifest(temporary, Manifest(**{**fields, "files": file_entries(temporary), **changes}))
    return read_artifact(folder)
