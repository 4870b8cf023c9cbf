"""Building an architecture by name and starting it from weights on this disk.

Weights are read from safetensors only; nothing that a user brings is unpickled.
"""

from __future__ import annotations

import difflib
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pocketvit.errors import DataError, UsageError
from pocketvit.models.dpt import DPT
from pocketvit.models.hf import WEIGHTS, find_folder, from_hf, read_config
from pocketvit.models.hf_names import translated
from pocketvit.models.names import to_timm_names
from pocketvit.models.shapes import cut_like
from pocketvit.models.variants import VARIANTS, Architecture
from pocketvit.spec.typed import Range, check_range, short

TIMM = "timm:"
PICKLES = (".pth", ".pt", ".bin", ".ckpt")
_WIDTH, _COUNT, _SIDE = Range(1, 8192), Range(1, 128), Range(1, 256)
OPTIONS = {
    **{"embed_dim": _WIDTH, "width": _WIDTH, "widths": _WIDTH, "image_size": _WIDTH, "channels": Range(1, 64)},
    **{"depth": _COUNT, "num_heads": _COUNT, "layers": _COUNT, "encoder": Range(0, 64), "decoder": Range(0, 64)},
    **{"patch_size": _SIDE, "window": _SIDE, "unshuffle": Range(1, 16)},
    **{"hooks": Range(0, 127), "stages": Range(0, 31), "reassemble": _WIDTH, "head_width": _WIDTH, "classes": _WIDTH},
    "finest": Range(1, 64),
    **{"mlp_ratio": Range(0, 32, above=True), "dropout": Range(0, 1, below=True), "norm_eps": Range(0, 1, above=True)},
}
"""What numbers among ``model.options`` may be, by name; all but the last three are whole."""
SHARES, NAMED = ("mlp_ratio", "dropout", "norm_eps"), ("decoder",)
FLAGS = ("final_norm", "cut", "hook_norm", "batch_norm", "doubling", "projection")
"""Options that are no whole numbers; that are true or false; that some architectures have by name."""
_ANY = Range(-100_000, 100_000)
MAX_ENTRIES, MAX_PARAMETERS = 64, 2_000_000_000
"""Of a list or text among the options; of a network that options change (8 GB in float)."""


def architecture(name: str) -> Architecture:
    """The row of an architecture: of the table, or made for ``timm:<name>`` (timm itself is asked when it is built).

    Raises UsageError: there is no such variant; the nearest is named.
    """
    if name.startswith(TIMM):
        return Architecture("features", partial(_build_timm, name.removeprefix(TIMM)), {}, True, "timm")
    if name not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, n=1, cutoff=0.3)
        what = f"model.name: unknown variant {short(name)}."
        raise UsageError(what, f"Did you mean {near[0]}?" if near else f"Known: {', '.join(VARIANTS)}.")
    return VARIANTS[name]


def _build_timm(name: str, **options: Any) -> nn.Module:
    from pocketvit.models.timm_backbone import TimmBackbone  # timm takes a second to import

    return TimmBackbone(name, **options)


def build(name: str, image_size: tuple[int, int], options: dict[str, Any] | None = None) -> nn.Module:
    """Build an architecture with random weights: a :class:`pocketvit.models.backbone.Backbone`.

    ``name`` is a row of the table or ``timm:<name>``, ``options`` override the row, ``image_size`` (height, width) is
    ignored by fully convolutional variants.
    Raises UsageError: unknown name or option, or a size that the architecture cannot take.
    """
    row = architecture(name)
    given = _merged(row.options | ({"image_size": image_size} if row.sized else {}), options or {})
    for key, value in (options or {}).items():
        check_option(key, value)
    names = [name, *map(str, given.values())]  # an option may name an architecture
    given |= {key: partial(build, given[key]) for key in row.parts if isinstance(given.get(key), str)}
    try:
        if options and not any(each.startswith(TIMM) for each in names):  # timm's constructors may look at values
            with torch.device("meta"), _Uninitialised():  # too large is told by counting, not by allocating
                count = sum(parameter.numel() for parameter in row.build(**given).parameters())
            if count > MAX_PARAMETERS:
                what = f"model.options {short(str(options))} make {count:.3g} parameters of {name}."
                raise UsageError(what, f"Stay below {MAX_PARAMETERS:.0e}.")
        network = row.build(**given)
    except _REFUSALS as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UsageError(f"model.options for {name}: {reason}.", "Correct model.options.") from error
    network.gives = row.gives  # type: ignore[assignment]  # for tasks that take either
    return network


def _merged(row: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Options over those of a row, one by one inside of mappings too; lists as tuples."""
    given = {}
    for key, value in (row | options).items():
        if isinstance(value, dict) and isinstance(row.get(key), dict):
            value = row[key] | value
        given[key] = tuple(value) if isinstance(value, list) else value
    return given


class _Uninitialised(TorchFunctionMode):
    """Leaves out what fills tensors: of shapes there is nothing to fill, and torch takes seconds to find that out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name.endswith("_") and not name.endswith("__"):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


_REFUSALS = (TypeError, KeyError, ValueError, IndexError, AttributeError, ArithmeticError, RuntimeError)
"""What builders and torch say to values that make no network, or none that fits into memory."""


def check_option(key: str, value: object) -> None:
    """Hold one option against the table. Raises UsageError: the number is out of range or no number, or it is endless.

    Options that are not in the table are left to the builder, but for numbers that nobody means.
    """
    name = f"model.options.{key}"
    if isinstance(value, dict):
        for inner, entry in value.items():
            check_option(str(inner), entry)
        return
    entries = value if isinstance(value, (list, tuple, str)) else (value,)
    if len(entries) > MAX_ENTRIES:
        raise UsageError(f"{name} has {len(entries)} entries.", f"Give at most {MAX_ENTRIES}.")
    if key in FLAGS and not isinstance(value, bool):
        raise UsageError(f"{name} must be true or false, not {short(value)}.", "Correct model.options.")
    if isinstance(value, str) and (key not in OPTIONS or key in NAMED):
        return
    whole, allowed = key in OPTIONS and key not in SHARES, OPTIONS.get(key)
    for entry in (value,) if isinstance(value, str) else entries:
        number = isinstance(entry, (int, float)) and not isinstance(entry, bool)
        if allowed and not (isinstance(entry, int) and number if whole else number):
            word = "a whole number" if whole else "a number"
            raise UsageError(f"{name} must be {word} {allowed}, not {short(value)}.", "Correct model.options.")
        if number:
            check_range(name, entry, allowed or _ANY)


def from_timm(weights: str) -> bool:
    """Whether ``model.weights`` asks for pretrained weights of timm: ``timm``, or ``timm:<name>``."""
    return weights == "timm" or weights.startswith(TIMM)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file; those of torchvision's ViTs by timm's names.

    Raises DataError: missing, truncated, its header lies, or a pickle.
    """
    try:
        return to_timm_names(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        if path.suffix in PICKLES:
            todo = (
                "Convert what you trust: from torch import load; from safetensors.torch import save_file; "
                f"save_file(load({path.name!r}, weights_only=True), {path.stem + '.safetensors'!r})"
            )
            raise DataError(f"{path}: is a pickle, which can run programs; weights are safetensors.", todo) from error
        raise DataError(f"{path}: weights cannot be read ({error}).", "Copy the file again.") from error


def load_weights(
    model: nn.Module, weights: str, timm_name: str = "", *, original: nn.Module | None = None
) -> list[str]:
    """Load weights into a backbone built by :func:`build`, resampling positions to its size.

    Layers that it has made new for its task (attribute ``renewed``: how their names begin) keep their random weights
    where the file has others.

    Args:
        model: the backbone.
        weights: path of a .safetensors, ``timm`` for timm's pretrained weights of the variant ``timm_name``, or
            ``timm:<name>`` for those of another; for a DPT ``hf:ORG/NAME`` or a folder that transformers wrote.
        timm_name: used with ``timm``.
        original: the file may be narrowed against this one, and the model is cut like it first
            (:func:`pocketvit.models.shapes.cut_like`); without one all shapes must agree.

    Returns the names of tensors in the file that the backbone does not have (its old head).
    Raises UsageError: a tensor of the backbone is missing in the file or has another shape. DataError: the file is
    damaged, or weights cannot be fetched.
    """
    if from_timm(weights):
        from pocketvit.models.timm_backbone import pretrained_state

        state = pretrained_state((timm_name if weights == "timm" else weights).removeprefix(TIMM))
    elif from_hf(weights):
        state = _of_transformers(model, weights)
    else:
        state = read_safetensors(Path(weights))
    state = {key.removeprefix("backbone."): value for key, value in state.items()}
    state = model.resize_state(state)  # type: ignore[operator]
    state |= _renewed(model, state)
    if original is not None:
        cut_like(model, state, original)
    own = model.state_dict()
    wrong = [f"lacks {key}" for key in own if key not in state]
    shapes = [(key, tuple(state[key].shape), tuple(own[key].shape)) for key in own if key in state]
    wrong += [f"has {key} of shape {found}, needed {needed}" for key, found, needed in shapes if found != needed]
    if wrong:
        what = f"{weights}: {wrong[0]} (and {len(wrong) - 1} more)."
        raise UsageError(what, "Choose weights of the same architecture, or other model.options.")
    model.load_state_dict({key: state[key] for key in own})
    return [key for key in state if key not in own]


def _renewed(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of the layers that the model has made new (``renewed``) the tensors that the file has not, or in other shapes."""
    prefixes = tuple(getattr(model, "renewed", ()))
    own = {key: value for key, value in model.state_dict().items() if prefixes and key.startswith(prefixes)}
    return {key: value for key, value in own.items() if key not in state or state[key].shape != value.shape}


def _of_transformers(model: nn.Module, weights: str) -> dict[str, Tensor]:
    """The state of a checkpoint of transformers by our names. Raises UsageError: ``model`` is no DPT, or another."""
    if not isinstance(model, DPT):
        raise UsageError(f"{weights}: only a DPT starts from a checkpoint of transformers.", "Choose a dpt_ variant.")
    folder = find_folder(weights)
    return translated(read_config(folder), read_safetensors(folder / WEIGHTS), model, weights)
