"""Trained models from disk: the backbone with the head of its task, cut to the recorded shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from pocketvit.errors import DataError, UsageError
from pocketvit.models.backbone import backbone_of
from pocketvit.models.build import build, read_safetensors
from pocketvit.models.replaced import replace_layers, replaced_in
from pocketvit.models.shapes import cut_like, fit_shapes, shapes_of
from pocketvit.models.trained import META, WEIGHTS, Trained, find_checkpoint, read_meta
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import ModelConfig
from pocketvit.spec.tasks.base import TaskConfig
from pocketvit.tasks import TORCH_TASKS


def build_task_model(
    model_spec: ModelConfig, task: TaskConfig, levels: tuple[LevelSpec, ...], preprocess: Preprocess
) -> nn.Module:
    """Architecture and heads with random weights, as the architecture's row has them.

    Raises UsageError: unknown name or option, or a size that the architecture cannot take.
    """
    backbone = build(model_spec.name, preprocess.size, model_spec.options)
    return TORCH_TASKS[task.name].build(backbone, task, levels, preprocess)


def free_size(model: nn.Module, preprocess: Preprocess) -> Preprocess:
    """``preprocess`` with the multiple that the network states, where it keeps the resolution and takes any size."""
    free = preprocess.resize == "tile" and getattr(model, "any_size", False) and hasattr(model, "multiple")
    return replace(preprocess, multiple=model.multiple if free else 0)  # type: ignore[arg-type]


def load_checkpoint(source: str | Path) -> Trained:
    """Rebuild a trained model, narrowed as it was, in evaluation mode on the CPU.

    Raises UsageError: no checkpoint there. DataError: damaged files, or weights that do not belong to the description.
    """
    folder = find_checkpoint(source)
    meta, state = read_meta(folder), read_safetensors(folder / WEIGHTS)
    shapes, replaced = meta.pop("shapes"), meta.pop("replaced")
    try:
        if shapes and shapes != shapes_of(state):
            raise RuntimeError("the shapes it records are others")
        model = build_task_model(meta["model_spec"], meta["task"], meta["levels"], meta["preprocess"])
        replace_layers(model, replaced)
        if shapes:
            fit_shapes(model, shapes)
        model.load_state_dict(state)
    except RuntimeError as error:
        what = f"{folder / WEIGHTS}: does not fit {META} ({' '.join(str(error).split())[:200]})."
        raise DataError(what, "Copy the checkpoint again.") from error
    return Trained(model=model.eval(), **meta | {"preprocess": free_size(model, meta["preprocess"])})


def at_size(trained: Trained, size: tuple[int, int]) -> Trained:
    """The same weights for another input size; position grids are resampled and baked in.

    Raises UsageError: the architecture cannot take that size.
    """
    preprocess = replace(trained.preprocess, size=size)
    sizes = (preprocess, trained.preprocess)
    model, original = (build_task_model(trained.model_spec, trained.task, trained.levels, spec) for spec in sizes)
    for network in (model, original):
        replace_layers(network, replaced_in(trained.model))
    state, backbone = trained.model.state_dict(), backbone_of(trained.model)
    prefix = "" if backbone is trained.model else "backbone."
    inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    resized = backbone.resize_state(inner, size)  # type: ignore[operator]
    state |= {prefix + key: value for key, value in resized.items()}
    try:
        cut_like(model, state, original).load_state_dict(state)
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, *size))
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:160]
        what = f"{trained.model_spec.name} cannot take {size[0]}x{size[1]} images ({reason})."
        raise UsageError(what, "Export at the size it was trained with.") from error
    return replace(trained, model=model, preprocess=preprocess)
