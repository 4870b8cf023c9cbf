"""Building an architecture by name and starting it from weights on this disk.

Weights are read from safetensors only; nothing that a user brings is unpickled.
"""

from __future__ import annotations

import difflib
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pocketvit.errors import DataError, UsageError
from pocketvit.models.shapes import cut_like
from pocketvit.models.variants import VARIANTS, Architecture

TIMM = "timm:"


def architecture(name: str) -> Architecture:
    """The row of an architecture: of the table, or made for ``timm:<name>`` (timm itself is asked when it is built).

    Raises UsageError: there is no such variant; the nearest is named.
    """
    if name.startswith(TIMM):
        return Architecture("features", partial(_build_timm, name.removeprefix(TIMM)), {}, True, "timm")
    if name not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, n=1, cutoff=0.3)
        what = f"model.name: unknown variant {name!r}."
        raise UsageError(what, f"Did you mean {near[0]}?" if near else f"Known: {', '.join(VARIANTS)}.")
    return VARIANTS[name]


def _build_timm(name: str, **options: Any) -> nn.Module:
    from pocketvit.models.timm_backbone import TimmBackbone  # timm takes a second to import

    return TimmBackbone(name, **options)


def build(name: str, image_size: tuple[int, int], options: dict[str, Any] | None = None) -> nn.Module:
    """Build an architecture with random weights.

    Args:
        name: row of the table, or ``timm:<name>``.
        image_size: height and width of the input; ignored by fully convolutional variants.
        options: keyword arguments that override the row.

    Returns:
        A :class:`pocketvit.models.backbone.Backbone`.

    Raises:
        UsageError: unknown name or option, or a size that the architecture cannot take.
    """
    row = architecture(name)
    sized = {"image_size": image_size} if row.sized else {}
    arguments = {**row.options, **sized, **(options or {})}
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    try:
        return row.build(**arguments)
    except (TypeError, KeyError) as error:
        raise UsageError(f"model.options for {name}: {error}.", "Correct model.options.") from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file. Raises DataError: missing, truncated, or its header lies."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path}: weights cannot be read ({error}).", "Copy the file again.") from error


def load_weights(
    model: nn.Module, weights: str, timm_name: str = "", *, original: nn.Module | None = None
) -> list[str]:
    """Load backbone weights, resampling positions to the model's size.

    Args:
        model: a backbone built by :func:`build`.
        weights: path of a .safetensors, or ``timm`` for timm's pretrained weights of the same name.
        timm_name: the variant's name, used with ``timm``.
        original: the file may be narrowed against this one, and the model is cut like it first
            (:func:`pocketvit.models.shapes.cut_like`); without one all shapes must agree.

    Returns:
        Names of tensors in the file that the backbone does not have (its old head), for the caller to use or report.

    Raises:
        UsageError: a tensor of the backbone is missing in the file or has another shape.
        DataError: the file is damaged, or timm's weights cannot be had.
    """
    if weights == "timm":
        from pocketvit.models.timm_backbone import pretrained_state

        state = pretrained_state(timm_name.removeprefix(TIMM))
    else:
        state = read_safetensors(Path(weights))
    state = {key.removeprefix("backbone."): value for key, value in state.items()}
    state = model.resize_state(state)  # type: ignore[operator]
    if original is not None:
        cut_like(model, state, original)
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or wrong:
        reason = (
            f"lacks {missing[0]}"
            if missing
            else f"has {wrong[0]} of shape {tuple(state[wrong[0]].shape)}, needed {tuple(own[wrong[0]].shape)}"
        )
        what = f"{weights}: {reason} (and {len(missing) + len(wrong) - 1} more)."
        raise UsageError(what, "Choose weights of the same architecture, or other model.options.")
    model.load_state_dict({key: state[key] for key in own})
    return [key for key in state if key not in own]
