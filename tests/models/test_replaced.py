"""Layers in the place of others: recorded with the weights, built again wherever a checkpoint is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pocketvit.errors import DataError
from pocketvit.models.layers.low_rank import LowRank
from pocketvit.models.narrow import find_units, keep_units
from pocketvit.models.replaced import REPLACEMENTS, replace_layers, replaced_in
from pocketvit.models.trained import META, Trained, save_checkpoint
from pocketvit.spec.recipe import load_recipe
from pocketvit.tasks.load import at_size, load_checkpoint
from pocketvit.tasks.start import new_model
from tests.models.test_backbone import LEVELS, VIT, check_files, one_batch, trained

PATH = "backbone.blocks.0.mlp.fc1"


def replaced(rank: int = 4) -> Trained:
    start = trained("vit_tiny_patch16_224", VIT, (32, 48))
    replace_layers(start.model, {PATH: {"kind": "low_rank", "rank": rank}})
    return start


def test_a_replaced_layer_is_saved_loaded_trained_exported_and_resized(tmp_path: Path) -> None:
    model = replaced()
    assert replaced_in(model.model) == {PATH: {"kind": "low_rank", "rank": 4}}
    check_files(model, tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert isinstance(loaded.model.get_submodule(PATH), LowRank)
    losses = one_batch(loaded, 1)
    assert losses[1] < losses[0]
    assert at_size(loaded, (64, 32)).model(torch.zeros(1, 3, 64, 32))[0].shape == (1, 3)


def test_a_replaced_layer_may_be_narrowed_before(tmp_path: Path) -> None:
    start = trained("vit_tiny_patch16_224", VIT, (32, 48))
    keep_units(start.model, find_units(start.model, ("neurons",))[0], range(48))
    replace_layers(start.model, {PATH: {"kind": "low_rank", "rank": 4}})
    check_files(start, tmp_path)
    assert load_checkpoint(tmp_path).model.get_submodule(PATH).up.weight.shape == (48, 4)


def test_training_starts_from_a_checkpoint_with_replaced_layers(tmp_path: Path) -> None:
    model = replaced()
    save_checkpoint(tmp_path, model)
    fields = {"model": {"name": "vit_tiny_patch16_224", "options": VIT, "weights": str(tmp_path)}}
    recipe = load_recipe(None, {**fields, "task": {"name": "classify"}, "preprocess": {"size": [48, 32]}})
    started = new_model(recipe, LEVELS).model
    assert torch.equal(started.get_submodule(PATH).down.weight, model.model.get_submodule(PATH).down.weight)


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "other"},
        {"kind": "low_rank"},
        {"kind": "low_rank", "rank": 10**9},
        {"kind": "low_rank", "rank": 4, "more": 1},
    ],
)
def test_a_record_that_lies_is_refused(entry: dict[str, Any], tmp_path: Path) -> None:
    save_checkpoint(tmp_path, replaced())
    meta = json.loads((tmp_path / META).read_text())
    for record in ({PATH: entry}, {"backbone.nowhere": {"kind": "low_rank", "rank": 4}}, {}, {PATH: 3}):
        (tmp_path / META).write_text(json.dumps({**meta, "replaced": record}))
        with pytest.raises(DataError):
            load_checkpoint(tmp_path)


@pytest.mark.parametrize("options", [{}, {"attention": "linear"}, {"layer_scale": 0.1}])
def test_a_last_block_for_the_class_token_alone_changes_no_answer(options: dict[str, Any], tmp_path: Path) -> None:
    start = trained("vit_tiny_patch16_224", {**VIT, **options}, (32, 48))
    x = torch.rand(2, 3, 32, 48)
    before = start.model.eval()(x)[0].detach()
    replace_layers(start.model, {"backbone.blocks.1": {"kind": "class_block"}})
    assert start.model.backbone.tokens(x).shape == (2, 1, 32)
    torch.testing.assert_close(start.model(x)[0].detach(), before, atol=1e-5, rtol=1e-5)
    check_files(start, tmp_path)
    losses = one_batch(load_checkpoint(tmp_path), 1)
    assert losses[1] < losses[0]
    with pytest.raises(RuntimeError, match="is no block"):
        replace_layers(start.model, {PATH: {"kind": "class_block"}})


class Scaled(nn.Linear):
    """A kind from test code."""

    def __init__(self, inputs: int, outputs: int, factor: float) -> None:
        super().__init__(inputs, outputs)
        self.factor = factor

    @property
    def settings(self) -> dict[str, Any]:
        return {"factor": self.factor}

    @classmethod
    def in_place_of(cls, layer: nn.Linear, factor: float) -> Scaled:
        return cls(layer.in_features, layer.out_features, factor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * super().forward(x)


def test_a_kind_of_layer_is_one_class_and_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REPLACEMENTS, "scaled", Scaled)
    start = trained("vit_tiny_patch16_224", VIT, (32, 48))
    replace_layers(start.model, {PATH: {"kind": "scaled", "factor": 0.5}})
    check_files(start, tmp_path)
    assert load_checkpoint(tmp_path).model.get_submodule(PATH).factor == 0.5
