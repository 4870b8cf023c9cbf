"""A model step and file steps that live in test code alone, and a fit with them that can be killed on the way."""

from __future__ import annotations

import copy
import os
import signal
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx
import torch

import pocketvit
from pocketvit.compress.step import Context, StepKind, StepReport
from pocketvit.compress.table import STEPS
from pocketvit.export.built import Built
from pocketvit.export.onnx import to_half_storage
from pocketvit.models.trained import Trained
from pocketvit.spec.recipe import Recipe, load_recipe

from ..train.helpers import classify_recipe

DIE = "POCKETVIT_TEST_DIE"


@dataclass(frozen=True)
class DropBlocks:
    """Remove the last blocks of the network."""

    count: int = 1


@dataclass(frozen=True)
class Narrow:
    """Keep a share of the neurons of every MLP."""

    share: float = 0.5


@dataclass(frozen=True)
class Half:
    """Store large weights as float16."""

    least: int = 64


@dataclass(frozen=True)
class Wreck:
    """Zero every weight: smaller, faster, useless."""


def drop_blocks(step: DropBlocks, trained: Trained, context: Context) -> StepReport:
    model = copy.deepcopy(trained.model)
    model.backbone.blocks = model.backbone.blocks[: -step.count]
    return StepReport("drop_blocks", asdict(step), replace(trained, model=model))


def narrow(step: Narrow, trained: Trained, context: Context) -> StepReport:
    model = copy.deepcopy(trained.model)
    for block in model.backbone.blocks:
        keep = int(block.mlp.fc1.out_features * step.share)
        fc1, fc2 = torch.nn.Linear(block.mlp.fc1.in_features, keep), torch.nn.Linear(keep, block.mlp.fc2.out_features)
        with torch.no_grad():
            fc1.weight.copy_(block.mlp.fc1.weight[:keep])
            fc1.bias.copy_(block.mlp.fc1.bias[:keep])
            fc2.weight.copy_(block.mlp.fc2.weight[:, :keep])
            fc2.bias.copy_(block.mlp.fc2.bias)
        block.mlp.fc1, block.mlp.fc2 = fc1, fc2
    return StepReport("narrow", asdict(step), replace(trained, model=model.eval()))


def half(step: Half, built: Built, context: Context) -> StepReport:
    marker = os.environ.get(DIE)
    if marker and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    path = context.folder / f"{built.path.stem}-half.onnx"
    onnx.save(to_half_storage(onnx.load(built.path), min_values=step.least), path)
    return StepReport("half", asdict(step), Built("onnxruntime", built.precision, path))


def wreck(step: Wreck, built: Built, context: Context) -> StepReport:
    graph = onnx.load(built.path)
    for tensor in graph.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1:
            zeros = onnx.numpy_helper.to_array(tensor) * 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(zeros, tensor.name))
    path = context.folder / f"{built.path.stem}-wrecked.onnx"
    onnx.save(graph, path)
    return StepReport("wreck", asdict(step), Built("onnxruntime", built.precision, path))


KINDS = [
    StepKind("drop_blocks", DropBlocks, drop_blocks, "model"),
    StepKind("narrow", Narrow, narrow, "model"),
    StepKind("half", Half, half, "file", "onnxruntime"),
    StepKind("wreck", Wreck, wreck, "file", "onnxruntime"),
]


def chain_recipe(data: Path, steps: list[object], weights: str, max_drop: float = 40) -> Recipe:
    """Compress a trained micro ViT with ``steps``; any gain in size is enough."""
    fields = {
        "model.weights": weights,
        "compress.steps": steps,
        "compress.min_shrink": 1.05,
        "compress.calibration_images": 4,
        "search.runtimes": ["onnxruntime"],
        "search.timing_seconds": 0.1,
        "search.prefer": "size",
        "floor": {"max_drop": max_drop},
    }
    return load_recipe(classify_recipe(data, **{"train.epochs": 0}), fields)


def main(recipe: str, runs: str) -> None:
    STEPS.extend(KINDS)
    pocketvit.fit(recipe, name="k", runs=runs, quiet=True)
