from __future__ import annotations

from typing import Any

import pytest
import torch

from pocketvit.errors import DataError, UsageError
from pocketvit.models.build import build
from pocketvit.models.variants import VARIANTS
from pocketvit.spec.recipe import load_recipe
from pocketvit.tasks.start import new_model

VIT, RESTORER = "vit_micro_patch16_224", "restorer_xs"


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        (VIT, {"embed_dim": 3_000_000}, "model.options.embed_dim must be at least 1"),
        (VIT, {"depth": -2}, "model.options.depth must be at least 1"),
        (VIT, {"depth": 0}, "model.options.depth must be at least 1"),
        (VIT, {"depth": 10**30}, "model.options.depth must be at least 1 and at most 128"),
        (VIT, {"num_heads": 0}, "model.options.num_heads must be at least 1"),
        (VIT, {"patch_size": 0}, "model.options.patch_size must be at least 1"),
        (VIT, {"depth": 2.5}, "model.options.depth must be a whole number"),
        (VIT, {"depth": True}, "model.options.depth must be a whole number"),
        (VIT, {"depth": "3"}, "model.options.depth must be a whole number"),
        (VIT, {"depth": None}, "model.options.depth must be a whole number"),
        (VIT, {"mlp_ratio": float("inf")}, "model.options.mlp_ratio must be above 0"),
        (VIT, {"dropout": "a lot"}, "model.options.dropout must be a number"),
        (VIT, {"final_norm": "no"}, "model.options.final_norm must be true or false"),
        (VIT, {"pool": ["cls"]}, "pool"),
        (VIT, {"attention": {"full": 1}}, "attention|model.options"),
        (VIT, {"embed_dim": [96, 96]}, "model.options for"),
        (VIT, {"embed_dim": 8192, "depth": 12, "num_heads": 64}, "parameters of vit_micro"),
        (RESTORER, {"widths": []}, "encoder"),
        (RESTORER, {"encoder": 1}, "model.options for"),
        (RESTORER, {"widths": [8, 8, 8], "bottleneck": "r" * 1000}, "model.options.bottleneck has 1000 entries"),
        (RESTORER, {"bottleneck": 3}, "model.options"),
        (RESTORER, {"window": 0}, "model.options.window must be at least 1"),
        (RESTORER, {"unshuffle": 0}, "model.options.unshuffle must be at least 1"),
    ],
)
def test_options_that_make_no_network_are_usage_errors(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        build(name, (64, 64), options)
    assert len(str(caught.value)) < 400


def test_options_count_their_parameters_without_changing_random_weights() -> None:
    options = {"patch_size": 8, "positions": "sinusoidal", "pool": "map"}
    torch.manual_seed(0)
    built = build(VIT, (32, 32), options)
    torch.manual_seed(0)
    row = VARIANTS[VIT]
    plain = row.build(**(row.options | {"image_size": (32, 32)} | options))
    assert all(torch.equal(a, b) for a, b in zip(built.state_dict().values(), plain.state_dict().values(), strict=True))


@pytest.mark.parametrize("weights", ["hf:someone/model", "nowhere.safetensors", "x" * 5000])
def test_weights_that_are_nowhere_are_named_with_what_there_is(weights: str) -> None:
    with pytest.raises(DataError, match="no such file or folder") as caught:
        new_model(load_recipe(None, {"model.weights": weights, "model.name": VIT}), ())
    assert "denoise-color, denoise-photo, or timm" in caught.value.todo
    assert len(str(caught.value)) < 400
