"""Trained models on disk: ``model.safetensors`` beside ``model.json`` (what to build, for which task, which pixels).

The description also holds the shape of every parameter and the layers that were put in the place of others, so that a
network that a step has changed is built again (:mod:`pocketvit.models.shapes`, :mod:`pocketvit.models.replaced`).
Building needs the task's head: see :mod:`pocketvit.tasks.load`.
"""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from pocketvit.errors import DataError, UsageError
from pocketvit.files import make_folder, need_space, replacing
from pocketvit.models.replaced import replaced_in
from pocketvit.models.shapes import shapes_of
from pocketvit.spec.artifact import shipped_names, shipped_root
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import ModelConfig
from pocketvit.spec.tasks import config_document, config_of
from pocketvit.spec.tasks.base import TaskConfig

WEIGHTS, META = "model.safetensors", "model.json"


@dataclass(frozen=True)
class Trained:
    """A model with all that is needed to build, run and export it; changed by ``replace(trained, model=...)``."""

    model: nn.Module
    """Maps normalised (B, 3, H, W) float to what the task's torch side takes: an image, a tuple of logits."""
    model_spec: ModelConfig
    task: TaskConfig
    """The task's own section of the recipe."""
    levels: tuple[LevelSpec, ...]
    preprocess: Preprocess
    info: dict[str, Any] = field(default_factory=dict)
    """How it was trained: images seen, minutes, metrics, data sets."""


def copy_of(trained: Trained) -> Trained:
    """One that shares no weights and no notes with the original: what a step changes."""
    return replace(trained, model=copy.deepcopy(trained.model), info=copy.deepcopy(trained.info))


def save_checkpoint(
    folder: Path, trained: Trained, state: dict[str, Tensor] | None = None, dtype: torch.dtype = torch.float32
) -> None:
    """Write weights and description, each file in one step; ``state`` replaces the model's own tensors (EMA).

    Floating point is written as ``dtype`` and read back as float32.

    Raises DataError: the folder cannot be written; a checkpoint that was there is intact.
    """
    tensors = {
        key: (value.to(dtype) if value.is_floating_point() else value).detach().contiguous().cpu()
        for key, value in (state or trained.model.state_dict()).items()
    }
    meta = {
        "model": TypeAdapter(ModelConfig).dump_python(trained.model_spec, mode="json"),
        "task": config_document(trained.task),
        "levels": [level.model_dump() for level in trained.levels],
        "preprocess": trained.preprocess.to_dict(),
        "info": trained.info,
        "shapes": shapes_of(tensors),
        "replaced": replaced_in(trained.model),
    }
    make_folder(folder)
    need_space(folder, bytes_of(tensors))
    with replacing(folder / WEIGHTS) as weights, replacing(folder / META) as description:
        try:
            save_file(tensors, weights)
        except SafetensorError as error:
            raise OSError(str(error)) from error  # how it reports a full disk
        weights.chmod(0o644)  # safetensors makes files that only their owner can read
        description.write_text(json.dumps(meta, indent=1), encoding="utf-8")


def bytes_of(tensors: Any) -> int:
    """Bytes of all tensors in a state: dicts and lists of dicts, lists and tensors."""
    if isinstance(tensors, Tensor):
        return tensors.nbytes
    inner = tensors.values() if isinstance(tensors, dict) else tensors if isinstance(tensors, (list, tuple)) else ()
    return sum(map(bytes_of, inner))


def find_checkpoint(source: str | Path) -> Path:
    """Folder of a checkpoint: itself, ``best`` or ``last`` of a run, or the one beside a shipped artifact.

    Of a fit it is that of its only trial, or of the trial whose file was chosen. Raises UsageError: there is none, or
    several and none was chosen.
    """
    path = Path(source)
    shipped = [shipped_root() / f"{source}-checkpoint"] if str(source) in shipped_names() else []
    for folder in (path, path / "best", path / "last", *shipped):
        if os.path.isfile(folder / META):
            return folder
    trials = sorted(folder.parent for folder in path.glob(f"trials/*/best/{META}"))
    chosen = [folder for folder in trials if len(trials) == 1 or folder.parent.name == _chosen_trial(path)]
    if chosen:
        return chosen[0]
    if trials:
        raise UsageError(f"{source}: holds {len(trials)} trained models.", f"Name one, e.g. {trials[0].parent}.")
    raise UsageError(f"{source}: no checkpoint there.", f"Give a run folder, or a folder with {WEIGHTS} and {META}.")


def _chosen_trial(run: Path) -> str:
    """Name of the trial whose file a finished fit handed over; empty where that is not known."""
    try:
        return str(json.loads((run / "finished.json").read_text(encoding="utf-8"))["trial"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def read_meta(folder: Path) -> dict[str, Any]:
    """The description beside the weights: validated objects keyed like :class:`Trained`, with two for ``model``.

    ``shapes`` holds the shape of every parameter, ``replaced`` the layers put in the place of others; they are empty in
    a checkpoint from before they were recorded. Raises DataError: it is missing or damaged.
    """
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        return {
            "model_spec": TypeAdapter(ModelConfig).validate_python(meta["model"]),
            "task": config_of(meta["task"]),
            "levels": tuple(LevelSpec.model_validate(level) for level in meta["levels"]),
            "preprocess": TypeAdapter(Preprocess).validate_python(meta["preprocess"]),
            "info": dict(meta.get("info", {})),
            "shapes": TypeAdapter(dict[str, list[int]]).validate_python(meta.get("shapes", {})),
            "replaced": TypeAdapter(dict[str, dict[str, Any]]).validate_python(meta.get("replaced", {})),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        what = f"{folder / META}: cannot be read ({' '.join(str(error).split())[:200]})."
        raise DataError(what, "Copy the checkpoint again.") from error
