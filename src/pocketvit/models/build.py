"""Building an architecture by name and starting it from weights on this disk.

``timm:<name>`` builds any timm classifier as a feature extractor. Weights are read from safetensors only; nothing that a
user brings is unpickled.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pocketvit.errors import DataError, UsageError
from pocketvit.models.layers.positions import resample_grid
from pocketvit.models.variants import VARIANTS


def variant_task(name: str) -> str:
    """The task that a variant is built for.

    Raises:
        UsageError: there is no such variant; the nearest is named.
    """
    if name.startswith("timm:"):
        return "classify"
    if name not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, n=1, cutoff=0.3)
        raise UsageError(
            f"model.name: unknown variant {name!r}.",
            f"Did you mean {near[0]}?" if near else f"Known: {', '.join(VARIANTS)}.",
        )
    return VARIANTS[name].task


def build(name: str, image_size: tuple[int, int], options: dict[str, Any] | None = None) -> nn.Module:
    """Build a variant with random weights.

    Args:
        name: row of the table, or ``timm:<name>``.
        image_size: height and width of the input; ignored by fully convolutional variants.
        options: keyword arguments that override the row.

    Returns:
        A module from (B, 3, H, W) to features (B, ``embed_dim``) or, for restore, to an image.

    Raises:
        UsageError: unknown name or option.
    """
    options = dict(options or {})
    if name.startswith("timm:"):
        return _build_timm(name.removeprefix("timm:"), options)
    variant_task(name)
    row = VARIANTS[name]
    sized = {"image_size": image_size} if row.sized else {}
    arguments = {**row.options, **sized, **options}
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    try:
        return row.build(**arguments)
    except (TypeError, KeyError) as error:
        raise UsageError(f"model.options for {name}: {error}.", "Correct model.options.") from error


def _build_timm(name: str, options: dict[str, Any]) -> nn.Module:
    import timm

    try:
        model: nn.Module = timm.create_model(
            name, pretrained=bool(options.pop("pretrained", False)), num_classes=0, **options
        )
    except (RuntimeError, TypeError, AssertionError, OSError) as error:
        raise UsageError(f"timm cannot build {name!r}: {error}.", "See timm.list_models().") from error
    model.embed_dim = model.num_features  # type: ignore[assignment]
    return model


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file.

    Raises:
        DataError: missing, truncated, or its header lies.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path}: weights cannot be read ({error}).", "Copy the file again.") from error


def load_weights(model: nn.Module, weights: str, timm_name: str | None = None) -> list[str]:
    """Load backbone weights, resampling the position grid to the model's.

    Args:
        model: built by :func:`build`.
        weights: path of a .safetensors, or ``timm`` for timm's pretrained weights of the same name.
        timm_name: the variant's name, used with ``timm``.

    Returns:
        Names of tensors in the file that the backbone does not have (its old head), for the caller to use or report.

    Raises:
        UsageError: a tensor of the backbone is missing in the file or has another shape.
        DataError: the file is damaged.
    """
    if weights == "timm":
        import timm

        state: dict[str, Tensor] = timm.create_model(str(timm_name).removeprefix("timm:"), pretrained=True).state_dict()
    else:
        state = read_safetensors(Path(weights))
    state = {key.removeprefix("backbone."): value for key, value in state.items()}
    own = model.state_dict()
    if "pos_embed" in own and "pos_embed" in state and own["pos_embed"].shape != state["pos_embed"].shape:
        state["pos_embed"] = _fit_positions(model, state["pos_embed"])
    if (
        (weight := own.get("patch_embed.proj.weight")) is not None
        and weight.dim() == 2
        and "patch_embed.proj.weight" in state
    ):
        state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].flatten(1)
    missing = [key for key in own if key not in state]
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or wrong:
        reason = (
            f"lacks {missing[0]}"
            if missing
            else f"has {wrong[0]} of shape {tuple(state[wrong[0]].shape)}, needed {tuple(own[wrong[0]].shape)}"
        )
        raise UsageError(
            f"{weights}: {reason} (and {len(missing) + len(wrong) - 1} more).",
            "Choose weights of the same architecture, or other model.options.",
        )
    model.load_state_dict({key: state[key] for key in own})
    return [key for key in state if key not in own]


def _fit_positions(model: nn.Module, table: Tensor) -> Tensor:
    """Resample a square position grid, dropping or keeping the class token as the model has it."""
    prefix, grid = int(model.num_prefix), tuple(model.grid)  # type: ignore[arg-type]
    tokens = table.shape[1]
    side = int(tokens**0.5)
    has_prefix = side * side != tokens
    side = int((tokens - has_prefix) ** 0.5)
    if side * side + has_prefix != tokens:
        return table  # not a square grid: the shape check reports it
    if has_prefix and not prefix:
        table, has_prefix = table[:, 1:], False
    if prefix and not has_prefix:
        table = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
    return resample_grid(table, (side, side), grid, prefix)  # type: ignore[arg-type]
