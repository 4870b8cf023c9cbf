"""From a recipe to a model that is ready to train: architecture, heads, and weights from where the recipe says."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit.errors import DataError, UsageError
from pocketvit.models.backbone import backbone_of
from pocketvit.models.build import architecture, build, from_timm, load_weights, read_safetensors
from pocketvit.models.dpt import DPT
from pocketvit.models.hf import find_folder, from_hf, read_config
from pocketvit.models.hf_names import answer_of
from pocketvit.models.pixels import normalise
from pocketvit.models.replaced import part_of, replace_layers
from pocketvit.models.trained import META, WEIGHTS, Trained, find_checkpoint, read_meta
from pocketvit.spec.artifact import shipped_names
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.recipe import ModelConfig, Recipe
from pocketvit.spec.tasks import task_of
from pocketvit.spec.typed import short
from pocketvit.tasks import TORCH_TASKS
from pocketvit.tasks.load import build_task_model, free_size, load_checkpoint


def new_model(recipe: Recipe, levels: Sequence[LevelSpec]) -> Trained:
    """Build the recipe's model and load its start weights.

    Raises UsageError: the architecture does not serve the task, the weights do not fit it, or the teacher has another
    task or labels. DataError: the weights are damaged, or cannot be fetched.
    """
    row, geometry = architecture(recipe.model.name), task_of(recipe.task.name).geometry
    takes = TORCH_TASKS[recipe.task.name].takes
    if row.gives not in takes:
        what = f"model.name {recipe.model.name} does not do task.name {recipe.task.name}: it gives {row.gives}."
        raise UsageError(what, f"Choose a variant that gives {' or '.join(takes)}.")
    TORCH_TASKS[recipe.task.name].check(recipe)
    if geometry == "pixels" and row.sized and recipe.preprocess.size != (recipe.data.patch,) * 2:
        what = f"{recipe.model.name} works at one size; data.patch {recipe.data.patch} is not preprocess.size."
        raise UsageError(what, f"Set data.patch to a square preprocess.size ({recipe.preprocess.size}).")
    _check_teacher(recipe, levels)  # here, because no run folder has been made yet
    torch.manual_seed(recipe.train.seed)
    model = build_task_model(recipe.model, recipe.task, tuple(levels), recipe.preprocess)
    note = _start(model, recipe.model) if recipe.model.weights else "random weights"
    # The weights are in the model now: a checkpoint of it must not look for the file again.
    spec = replace(recipe.model, weights=None)
    preprocess = free_size(model, recipe.preprocess)
    return Trained(model, spec, recipe.task, tuple(levels), preprocess, {"start": note})


def _start(model: nn.Module, spec: ModelConfig) -> str:
    """Load backbone weights, and heads where their shapes agree; return what was done.

    A checkpoint of the same architecture and options may be narrowed; the model is then cut like it. Early exits come
    with it where the numbers of classes agree.
    """
    weights, past, original = str(spec.weights), {}, None
    backbone, said = backbone_of(model), ""
    theirs = isinstance(backbone, DPT) and from_hf(weights)
    file, fetched = str(find_folder(weights)) if theirs else weights, theirs or from_timm(weights)
    if not fetched and weights not in shipped_names() and not os.path.exists(weights):
        what = f"model.weights {short(weights)}: no such file or folder."
        known = f"a .safetensors file, a checkpoint or run folder, {', '.join(shipped_names())}, or timm (timm:<name>)"
        known += ", for a DPT hf:ORG/NAME or a folder that transformers wrote"
        raise DataError(what, f"Give {known}; other names are fetched from nowhere.")
    if not fetched and (Path(weights).is_dir() or weights in shipped_names()):
        folder = find_checkpoint(weights)
        meta = read_meta(folder)
        past, file = meta["info"], str(folder / WEIGHTS)
        if _plain(spec) == _plain(meta["model_spec"]) and meta["shapes"]:
            original = build(spec.name, meta["preprocess"].size, spec.options)
            try:
                for network in (backbone, original):
                    replace_layers(network, part_of(meta["replaced"], "" if backbone is model else "backbone."))
                exits, heads = meta["replaced"].get("exits"), getattr(model, "heads", ())
                if exits and exits.get("classes") == [head.out_features for head in heads]:
                    replace_layers(model, {"exits": exits})  # they are trained on with the rest
            except RuntimeError as error:
                raise DataError(f"{folder / META}: does not fit ({error}).", "Copy the checkpoint again.") from error
    if theirs:
        said = f" ({answer_of(read_config(Path(file)))})"
    unused = load_weights(backbone, file, spec.name, original=original)
    headed = any(not name.startswith("backbone.") for name, _ in model.named_parameters()) and backbone is not model
    kept = _keep_heads(model, read_safetensors(Path(file))) if headed and not fetched else []
    ago = f", which had seen {past['images_seen']} images" if "images_seen" in past else ""
    heads = f"; heads kept: {', '.join(kept)}" if kept else ("; new heads" if headed else "")
    rest = f" ({len(unused)} tensors of the file not used)" if unused and not kept else ""
    return f"weights of {Path(weights).name}{said}{ago}{heads}{rest}"


def _plain(spec: ModelConfig) -> str:
    """Name and options as a checkpoint holds them: tuples are lists there."""
    return json.dumps([spec.name, spec.options], sort_keys=True)


def _keep_heads(model: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """Load layers outside the backbone that the file has in the same shapes; timm's ``head`` is the last of them."""
    outside = [(path, layer) for path, layer in model.named_modules() if path.partition(".")[0] != "backbone"]
    layers = [(path, layer) for path, layer in outside if dict(layer.named_parameters(recurse=False))]
    kept = []
    for path, layer in layers:
        own = layer.state_dict()
        for prefix in (path, "head") if layer is layers[-1][1] else (path,):
            found = {name: state.get(f"{prefix}.{name}") for name in own}
            if all(new is not None and new.shape == own[name].shape for name, new in found.items()):
                layer.load_state_dict(found)
                kept.append(prefix)
    return kept


def load_teacher(recipe: Recipe, levels: Sequence[LevelSpec]) -> Trained | None:
    """The recipe's teacher with its own preprocessing, frozen, on the CPU; None where the recipe has none.

    Raises UsageError: no checkpoint there, or one of another task, other labels, or a fixed size that the patches do
    not have. DataError: the checkpoint is damaged.
    """
    if not recipe.train.teacher:
        return None
    _check_teacher(recipe, levels)
    teacher = load_checkpoint(recipe.train.teacher)
    teacher.model.requires_grad_(False)
    return teacher


def _check_teacher(recipe: Recipe, levels: Sequence[LevelSpec]) -> None:
    """Hold the teacher's description against the recipe, without reading its weights."""
    source = recipe.train.teacher
    if not source:
        return
    meta = read_meta(find_checkpoint(source))
    task, variant, size = meta["task"].name, meta["model_spec"].name, meta["preprocess"].size
    if task != recipe.task.name:
        what = f"train.teacher {source} does {task}, not task.name {recipe.task.name}."
        raise UsageError(what, "Give a teacher of the same task.")
    if meta["levels"] != tuple(levels):
        sides = (meta["levels"], levels)
        theirs, ours = (", ".join(f"{x.name} ({len(x.labels)} labels)" for x in side) for side in sides)
        what = f"train.teacher {source} has other levels or labels than the data: {theirs}; the data: {ours}."
        raise UsageError(what, "Give a teacher trained on the same levels, with the same labels in the same order.")
    if task_of(task).geometry == "pixels" and architecture(variant).sized and size != (recipe.data.patch,) * 2:
        what = f"train.teacher {source} works at size {size}, not at data.patch {recipe.data.patch}."
        raise UsageError(what, "Set data.patch to the teacher's size, or take another teacher.")


@torch.no_grad()
def ask_teacher(teacher: Trained, pixels: Tensor) -> Any:
    """The teacher's raw output (as :attr:`Trained.model` gives it) for the student's (B, H, W, 3) uint8 inputs.

    The teacher's colour order, mean and deviation are applied. A teacher of another input size gets the pixels resized
    bilinearly (antialiased); where pixels keep their resolution it sees them as they are.
    """
    x, size = normalise(pixels, teacher.preprocess), tuple(teacher.preprocess.size)
    if task_of(teacher.task.name).geometry != "pixels" and tuple(x.shape[2:]) != size:
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
    return teacher.model(x)
