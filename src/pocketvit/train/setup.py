"""From a recipe to a model that is ready to train: architecture, heads, and weights from where the recipe says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit.errors import UsageError
from pocketvit.models.build import load_weights, read_safetensors, variant_task
from pocketvit.models.pixels import normalise
from pocketvit.models.variants import VARIANTS
from pocketvit.spec.artifact import shipped_names
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.recipe import Recipe
from pocketvit.tasks import TORCH_TASKS
from pocketvit.tasks.classify import Classifier
from pocketvit.train.checkpoint import WEIGHTS, Trained, build_task_model, find_checkpoint, load_checkpoint, read_meta
from pocketvit.train.validate import freeze


def new_model(recipe: Recipe, levels: Sequence[LevelSpec]) -> Trained:
    """Build the recipe's model and load its start weights.

    Raises:
        UsageError: the architecture does not serve the task, the weights do not fit it, or the teacher has another task or labels.
    """
    if variant_task(recipe.model.name) != recipe.task.name:
        raise UsageError(
            f"model.name {recipe.model.name} does not do task.name {recipe.task.name}.",
            "Choose a variant of that task.",
        )
    TORCH_TASKS[recipe.task.name].check(recipe)
    if (
        recipe.task.name == "restore"
        and VARIANTS[recipe.model.name].sized
        and recipe.preprocess.size != (recipe.data.patch,) * 2
    ):
        raise UsageError(
            f"{recipe.model.name} works at one size; data.patch {recipe.data.patch} is not preprocess.size.",
            f"Set data.patch to a square preprocess.size ({recipe.preprocess.size}).",
        )
    _check_teacher(recipe, levels)  # here, because no run folder has been made yet
    torch.manual_seed(recipe.train.seed)
    model = build_task_model(recipe.model, recipe.task, tuple(levels), recipe.preprocess)
    note = _start(model, recipe) if recipe.model.weights else "random weights"
    # The weights are in the model now: a checkpoint of it must not look for the file again.
    return Trained(
        model, replace(recipe.model, weights=None), recipe.task, tuple(levels), recipe.preprocess, {"start": note}
    )


def _start(model: nn.Module, recipe: Recipe) -> str:
    """Load backbone weights, and heads where their shapes agree; return what was done."""
    weights = str(recipe.model.weights)
    past: dict[str, object] = {}
    file = weights
    if weights != "timm" and (Path(weights).is_dir() or weights in shipped_names()):
        folder = find_checkpoint(weights)
        past = read_meta(folder)["info"]
        file = str(folder / WEIGHTS)
    backbone = model.backbone if isinstance(model, Classifier) else model
    unused = load_weights(backbone, file, recipe.model.name)  # type: ignore[arg-type]
    kept = []
    if isinstance(model, Classifier) and weights != "timm":
        state = read_safetensors(Path(file))
        for index, head in enumerate(model.heads):
            for prefix in (f"heads.{index}", *(["head"] if index + 1 == len(model.heads) else [])):
                weight, bias = state.get(f"{prefix}.weight"), state.get(f"{prefix}.bias")
                if weight is not None and bias is not None and weight.shape == head.weight.shape:
                    head.load_state_dict({"weight": weight, "bias": bias})
                    kept.append(prefix)
    name = Path(weights).name
    ago = f", which had seen {past['images_seen']} images" if "images_seen" in past else ""
    heads = f"; heads kept: {', '.join(kept)}" if kept else ("; new heads" if isinstance(model, Classifier) else "")
    return (
        f"weights of {name}{ago}{heads}{'' if kept or not unused else f' ({len(unused)} tensors of the file not used)'}"
    )


def load_teacher(recipe: Recipe, levels: Sequence[LevelSpec]) -> Trained | None:
    """The recipe's teacher with its own preprocessing, frozen, on the CPU; None where the recipe has none.

    Raises:
        UsageError: no checkpoint there, or one of another task, other labels, or a fixed size that the patches do not have.
        DataError: the checkpoint is damaged.
    """
    if not recipe.train.teacher:
        return None
    _check_teacher(recipe, levels)
    teacher = load_checkpoint(recipe.train.teacher)
    freeze(teacher.model)
    return teacher


def _check_teacher(recipe: Recipe, levels: Sequence[LevelSpec]) -> None:
    """Hold the teacher's description against the recipe, without reading its weights."""
    source = recipe.train.teacher
    if not source:
        return
    meta = read_meta(find_checkpoint(source))
    task, variant, size = meta["task"].name, meta["model_spec"].name, meta["preprocess"].size
    if task != recipe.task.name:
        raise UsageError(
            f"train.teacher {source} does {task}, not task.name {recipe.task.name}.", "Give a teacher of the same task."
        )
    if task == "classify" and meta["levels"] != tuple(levels):
        theirs, ours = (
            ", ".join(f"{level.name} ({len(level.labels)} labels)" for level in each)
            for each in (meta["levels"], levels)
        )
        raise UsageError(
            f"train.teacher {source} has other levels or labels than the data: {theirs}; the data: {ours}.",
            "Give a teacher trained on the same levels, with the same labels in the same order.",
        )
    if task == "restore" and VARIANTS[variant].sized and size != (recipe.data.patch,) * 2:
        raise UsageError(
            f"train.teacher {source} works at size {size}, not at data.patch {recipe.data.patch}.",
            "Set data.patch to the teacher's size, or take another teacher.",
        )


@torch.no_grad()
def ask_teacher(teacher: Trained, pixels: Tensor) -> Any:
    """The teacher's raw output (as :attr:`Trained.model` gives it) for the student's (B, H, W, 3) uint8 inputs, with the teacher's colour order, mean and deviation.

    A classifier of another input size gets the pixels resized bilinearly (antialiased); a restorer sees them as they are.
    """
    x = normalise(pixels, teacher.preprocess)
    if teacher.task.name == "classify" and tuple(x.shape[2:]) != tuple(teacher.preprocess.size):
        x = F.interpolate(x, size=teacher.preprocess.size, mode="bilinear", align_corners=False, antialias=True)
    return teacher.model(x)
