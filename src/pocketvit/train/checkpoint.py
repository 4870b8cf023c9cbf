"""Trained models on disk: ``model.safetensors`` beside ``model.json`` (what to build, for which task, with which pixels)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import nn

from pocketvit.errors import DataError, UsageError
from pocketvit.models import build
from pocketvit.models.build import read_safetensors
from pocketvit.spec.artifact import shipped_names, shipped_root
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import ModelConfig, TaskConfig
from pocketvit.spec.tasks import config_document, config_of
from pocketvit.tasks import TASKS

WEIGHTS, META = "model.safetensors", "model.json"


@dataclass(frozen=True)
class Trained:
    """A model with all that is needed to build, run and export it."""

    model: nn.Module
    """Maps normalised (B, 3, H, W) float to an image in [0, 1] (restore) or a tuple of logits (classify)."""
    model_spec: ModelConfig
    task: TaskConfig
    levels: tuple[LevelSpec, ...]
    preprocess: Preprocess
    info: dict[str, Any] = field(default_factory=dict)
    """How it was trained: images seen, minutes, metrics, data sets."""


def build_task_model(
    model_spec: ModelConfig, task: TaskConfig, levels: tuple[LevelSpec, ...], preprocess: Preprocess
) -> nn.Module:
    """Architecture and heads with random weights."""
    backbone = build(model_spec.name, preprocess.size, model_spec.options)
    return TASKS[task.name].build_head(backbone, levels)


def save_checkpoint(folder: Path, trained: Trained, state: dict[str, torch.Tensor] | None = None) -> None:
    """Write weights and description, each file in one step; ``state`` replaces the model's own tensors (EMA)."""
    folder.mkdir(parents=True, exist_ok=True)
    source = state or trained.model.state_dict()
    tensors = {
        key: (value.float() if value.is_floating_point() else value).detach().contiguous().cpu()
        for key, value in source.items()
    }
    meta = {
        "model": TypeAdapter(ModelConfig).dump_python(trained.model_spec, mode="json"),
        "task": config_document(trained.task),
        "levels": [level.model_dump() for level in trained.levels],
        "preprocess": trained.preprocess.to_dict(),
        "info": trained.info,
    }
    try:
        save_file(tensors, folder / f".{WEIGHTS}.partial")
        (folder / f".{META}.partial").write_text(json.dumps(meta, indent=1), encoding="utf-8")
        (folder / f".{WEIGHTS}.partial").chmod(0o644)  # safetensors makes files that only their owner can read
        os.replace(folder / f".{WEIGHTS}.partial", folder / WEIGHTS)
        os.replace(folder / f".{META}.partial", folder / META)
    except OSError as error:
        raise DataError(
            f"{folder}: checkpoint cannot be written ({error.strerror or error}).",
            "Free some space and start again; the run resumes.",
        ) from error


def find_checkpoint(source: str | Path) -> Path:
    """Folder of a checkpoint: itself, ``best`` or ``last`` of a run, or the one beside a shipped artifact.

    Raises:
        UsageError: there is none.
    """
    path = Path(source)
    if not path.exists() and str(source) in shipped_names():
        path = shipped_root() / f"{source}-checkpoint"
    for folder in (path, path / "best", path / "last"):
        if (folder / META).is_file():
            return folder
    raise UsageError(f"{source}: no checkpoint there.", f"Give a run folder, or a folder with {WEIGHTS} and {META}.")


def read_meta(folder: Path) -> dict[str, Any]:
    """The description beside the weights, as validated objects keyed like :class:`Trained`."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        return {
            "model_spec": TypeAdapter(ModelConfig).validate_python(meta["model"]),
            "task": config_of(meta["task"]),
            "levels": tuple(LevelSpec.model_validate(level) for level in meta["levels"]),
            "preprocess": TypeAdapter(Preprocess).validate_python(meta["preprocess"]),
            "info": dict(meta.get("info", {})),
        }
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise DataError(
            f"{folder / META}: cannot be read ({' '.join(str(error).split())[:200]}).", "Copy the checkpoint again."
        ) from error


def load_checkpoint(source: str | Path) -> Trained:
    """Rebuild a trained model, in evaluation mode on the CPU.

    Raises:
        UsageError: no checkpoint there.
        DataError: damaged files, or weights that do not belong to the description.
    """
    folder = find_checkpoint(source)
    meta = read_meta(folder)
    model = build_task_model(meta["model_spec"], meta["task"], meta["levels"], meta["preprocess"])
    try:
        model.load_state_dict(read_safetensors(folder / WEIGHTS))
    except RuntimeError as error:
        raise DataError(
            f"{folder / WEIGHTS}: does not fit {META} ({' '.join(str(error).split())[:200]}).",
            "Copy the checkpoint again.",
        ) from error
    return Trained(model=model.eval(), **meta)
