"""A task that the package does not know, from test code alone: the mean colour of a photo, judged by its mean error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from pocketvit.errors import UsageError
from pocketvit.spec.artifact import Artifact, file_entries, new_folder, read_artifact, write_manifest
from pocketvit.spec.golden import Golden, write_golden
from pocketvit.spec.hierarchy import LevelSpec
from pocketvit.spec.manifest import Manifest, MetricRow, TensorSpec, Variant
from pocketvit.spec.preprocess import Pixels, Preprocess, prepare
from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.base import (
    Case,
    Evaluator,
    GoldenPolicy,
    Measure,
    MetricSpec,
    Panel,
    Raw,
    Result,
    Task,
    TaskConfig,
    mean_measure,
)
from pocketvit.tasks import TORCH_TASKS
from pocketvit.tasks.base import TorchTask
from tests.tiny import coloured, run_onnx

NAME = "mean_colour"
ERROR = MetricSpec("error", "steps", default_drop=3.0, tie=0.1, higher_is_better=False)
SIZE = (32, 32)


@dataclass(frozen=True)
class MeanColourConfig(TaskConfig):
    name: str = NAME
    scale: float = 1.0


@dataclass(frozen=True)
class MeanColour:
    """(3,) float32, RGB, 0 to 255."""

    colour: np.ndarray

    def to_dict(self, top: int = 5) -> dict[str, Any]:
        return {"task": NAME, "colour": [float(x) for x in self.colour]}

    def cells(self, top: int = 5) -> dict[str, str]:
        return {name: f"{value:.2f}" for name, value in zip(("red", "green", "blue"), self.colour, strict=True)}

    @property
    def line(self) -> str:
        return "rgb " + " ".join(f"{value:.0f}" for value in self.colour)

    def draw(self, source: Pixels) -> Pixels:
        return np.broadcast_to(np.clip(self.colour, 0, 255).astype(np.uint8), source.shape).copy()


class MeanColourEvaluator:
    def __init__(self) -> None:
        self.main = ERROR.name
        self._errors: list[float] = []

    def update(self, result: MeanColour, truth: Any, condition: str = "") -> None:
        self._errors.append(float(np.abs(result.colour - truth).mean()))

    def metrics(self) -> Iterator[Measure]:
        if self._errors:
            yield mean_measure(ERROR.name, self._errors, ERROR.unit)


def _truth(image: Pixels, clean: Pixels | None, labels: tuple[int, ...]) -> np.ndarray:
    return image.reshape(-1, 3).mean(axis=0).astype(np.float32)


def _baseline(cases: Iterable[Case], evaluator: Evaluator) -> Measure:
    truths = [case.truth for case in cases]
    for truth in truths:
        evaluator.update(MeanColour(np.mean(truths, axis=0)), truth)
    return next(evaluator.metrics())


def _panels(image: Pixels, result: Result, truth: np.ndarray, levels: Sequence[LevelSpec]) -> list[Panel]:
    return [("input", image), ("mean colour", result.draw(image))]


def _check(preprocess: Preprocess) -> None:
    if preprocess.resize == "tile":
        raise UsageError("mean_colour needs one input.", "Set preprocess.resize: stretch.")


def _outputs(levels: Sequence[LevelSpec], preprocess: Preprocess, config: TaskConfig) -> list[TensorSpec]:
    return [TensorSpec(name="colour", shape=[1, 3], dtype="float32", meaning="RGB, 0 to 255")]


def _change(outputs: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> float:
    return float(np.mean([np.abs(a - b).mean() for a, b in zip(outputs, reference, strict=True)]))


def _finish(raw: Raw, levels: Sequence[LevelSpec]) -> MeanColour:
    return MeanColour(raw["colour"][0])


_LIMITS = {"max_abs": 0.5, "mean_abs": 0.1, "min_cosine": 0.9999, "metric_drop": 0.1}
_LOOSE = {"mean_abs": 8.0, "metric_drop": 3.0}
RECORD = Task(
    name=NAME,
    purpose="says the mean colour of photographs",
    config=MeanColourConfig,
    layouts=("clean",),
    geometry="image",
    degrades=False,
    labelled=False,
    metrics=(ERROR,),
    tolerances={"fp32": _LIMITS, "fp16": _LOOSE, "bf16": _LOOSE, "int8": _LOOSE},
    golden=GoldenPolicy(count=6, max_bytes=4_000_000, bytes_per_pixel=3.0),
    protocol="one view",
    check_preprocess=_check,
    outputs=_outputs,
    finish=_finish,
    evaluator=lambda levels, condition: MeanColourEvaluator(),
    truth=_truth,
    baseline=_baseline,
    change=_change,
    change_limits=(4.0, 2.0),
    panels=_panels,
    writes="table",
    example="model(image).colour  # RGB",
)


class Head(nn.Module):
    """Backbone and one linear layer: (B, 3, H, W) to the mean colour (B, 3) in [0, 1]."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(int(backbone.embed_dim), 3)  # type: ignore[arg-type]
        nn.init.constant_(self.head.bias, 0.5)

    def forward(self, image: Tensor) -> Tensor:
        colour: Tensor = self.head(self.backbone(image))
        return colour


TORCH_RECORD = TorchTask(
    build=lambda backbone, config, levels, preprocess: Head(backbone),
    loss=lambda output, target, config, state: config.scale * (output.float() - target).abs().mean(),
    distil=lambda output, teacher, temperature: (output.float() - teacher.float()).abs().mean(),
    graph_output=lambda answer, preprocess: answer.float() * 255.0,
    targets=lambda raw: raw.to(torch.float32) / 255.0,
)


def add(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put one record in each table for the time of a test."""
    monkeypatch.setitem(TASKS, NAME, RECORD)
    monkeypatch.setitem(TORCH_TASKS, NAME, TORCH_RECORD)


def colour_onnx(path: Path, size: tuple[int, int] = SIZE) -> Path:
    """``colour`` = mean over the pixels, times a matrix that is nearly the identity."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "mix"], ["colour"]),
    ]
    mix = np.eye(3, dtype=np.float32) * 0.98 + 0.01
    weights = [numpy_helper.from_array(np.array([1, 2], np.int64), "axes"), numpy_helper.from_array(mix, "mix")]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, [1, *size, 3])
    colour = helper.make_tensor_value_info("colour", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph(nodes, "colour", [pixels], [colour], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def make_artifact(folder: Path) -> Artifact:
    """A complete artifact of the task around :func:`colour_onnx`; the record must be in the table."""
    spec = Preprocess(size=SIZE, resize="stretch")
    with new_folder(folder) as temporary:
        file = colour_onnx(temporary / "model.onnx")
        pictures = [coloured(i % 4, seed=i) for i in range(6)]
        inputs = np.stack([prepare(picture, spec) for picture in pictures])
        truth = np.stack([_truth(image, None, ()) for image in inputs])
        write_golden(temporary, Golden(inputs, run_onnx(file, inputs), tuple(pictures[:2]), truth, spec))
        (temporary / "card.md").write_text("# colour\n", encoding="utf-8")
        metric = MetricRow(
            variant="onnxruntime:fp32", name="error", value=1.2, unit="steps", dataset="d", split="val", count=6,
            low=1.0, high=1.4,
        )  # fmt: skip
        manifest = Manifest(
            name="colour",
            task=NAME,
            preprocess=spec,
            inputs=[TensorSpec(name="pixels", shape=[1, *SIZE, 3], dtype="uint8", meaning="RGB, 0 to 255")],
            outputs=_outputs((), spec, MeanColourConfig()),
            files=file_entries(temporary),
            variants=[Variant(runtime="onnxruntime", precision="fp32", path="model.onnx")],
            default="onnxruntime:fp32",
            main_metric="error",
            metrics=[metric],
        )
        write_manifest(temporary, manifest)
    return read_artifact(folder)
