"""Layers that a step put in the place of others: recorded beside the weights, so that a checkpoint builds them again.

The record is read off the network: every module of a class of the table, with its path, kind and settings. A new kind
is a class with ``settings`` and ``in_place_of(layer, **settings)``, and one row. Shapes are none of its business: the
network is cut to the recorded ones afterwards (:mod:`pocketvit.models.shapes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from pocketvit.models.layers.blocks import ClassBlock
from pocketvit.models.layers.exits import EarlyExits
from pocketvit.models.layers.folded import Activation, BareNorm, Nothing, UnscaledAttention
from pocketvit.models.layers.low_rank import LowRank
from pocketvit.models.layers.merge import MergeBlock

REPLACEMENTS: dict[str, Any] = {
    "low_rank": LowRank,
    "class_block": ClassBlock,
    "bare_norm": BareNorm,
    "nothing": Nothing,
    "activation": Activation,
    "unscaled_attention": UnscaledAttention,
    "merge_block": MergeBlock,
    "early_exits": EarlyExits,
}
"""Kind, as checkpoints name it, to class: ``settings`` (plain JSON types) and ``in_place_of(layer, **settings)``, which
makes one with any weights in place of the layer that the architecture has there; RuntimeError where it cannot."""
Record = Mapping[str, Mapping[str, Any]]
"""Path of a module to ``{"kind": ..., **settings}``."""


def replaced_in(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The record of a network; empty where nothing was replaced."""
    kinds = {layer: kind for kind, layer in REPLACEMENTS.items()}
    found = ((path, module, kinds.get(type(module))) for path, module in model.named_modules())
    return {path: {"kind": kind, **module.settings} for path, module, kind in found if kind}  # type: ignore[dict-item]


def replace_layers(model: nn.Module, record: Record) -> nn.Module:
    """Put what is recorded in the place of the layers of a freshly built network, in place.

    Raises RuntimeError: an unknown kind or setting, or no such layer.
    """
    for path, entry in record.items():
        settings = dict(entry)
        kind = settings.pop("kind", None)
        if kind not in REPLACEMENTS:
            raise RuntimeError(f"{path} is a layer of kind {kind!r}, which is unknown here")
        try:
            model.set_submodule(path, REPLACEMENTS[kind].in_place_of(model.get_submodule(path), **settings))
        except (AttributeError, TypeError, ValueError) as error:
            raise RuntimeError(f"{path} cannot be a layer of kind {kind!r} ({error})") from error
    return model


def part_of(record: Record, prefix: str) -> dict[str, Mapping[str, Any]]:
    """The entries below a prefix (``backbone.``), by their names there."""
    return {path.removeprefix(prefix): entry for path, entry in record.items() if path.startswith(prefix)}
