from __future__ import annotations

import pytest
import torch
from torch import nn

from pocketvit.models import build
from pocketvit.spec.recipe import TrainConfig
from pocketvit.train.schedule import lr_scale, make_optimizer, set_lr

VIT = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 8}
RESTORER = {"widths": (8, 12), "encoder": (1,), "decoder": (1,), "bottleneck": "cw"}


def decayed(model: nn.Module, **settings: object) -> set[str]:
    """Names of the parameters that weight decay reaches."""
    optimizer = make_optimizer(model, TrainConfig(weight_decay=0.05, **settings))  # type: ignore[arg-type]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {group["weight_decay"]: {names[id(p)] for p in group["params"]} for group in optimizer.param_groups}
    assert groups[0.05] | groups[0.0] == set(names.values())
    assert not groups[0.05] & groups[0.0]
    return groups[0.05]


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("pool", ["cls", "map"])
def test_tokens_positions_queries_norms_and_biases_are_not_decayed(pool: str, optimizer: str) -> None:
    model = build("vit_micro_patch16_224", (16, 16), {**VIT, "pool": pool})
    found = decayed(model, optimizer=optimizer)
    assert {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc2.weight"} <= found
    assert all(name.endswith(".weight") and "norm" not in name for name in found)
    assert not found & {"cls_token", "pos_embed", "attn_pool.query"}


def test_temperatures_are_not_decayed_and_convolutions_are() -> None:
    found = decayed(build("restorer_xs", (16, 16), RESTORER))
    assert "bottleneck.0.temperature" not in found
    assert {"stem.weight", "bottleneck.0.qkv.weight", "bottleneck.1.attn.qkv.weight", "head.weight"} <= found


def test_a_step_without_gradient_shrinks_only_what_is_decayed() -> None:
    model = build("vit_micro_patch16_224", (16, 16), VIT)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = make_optimizer(model, TrainConfig(weight_decay=0.5, lr=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = model.state_dict()
    assert torch.equal(after["pos_embed"], before["pos_embed"])
    assert torch.equal(after["cls_token"], before["cls_token"])
    torch.testing.assert_close(after["patch_embed.proj.weight"], before["patch_embed.proj.weight"] * 0.95)


def test_frozen_parameters_are_left_out() -> None:
    model = build("vit_micro_patch16_224", (16, 16), VIT)
    model.patch_embed.requires_grad_(False)
    optimizer = make_optimizer(model, TrainConfig())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters())) - 2


@pytest.mark.parametrize(
    ("schedule", "middle", "end"), [("cosine", 0.55, 0.1), ("linear", 0.55, 0.1), ("constant", 1.0, 1.0)]
)
def test_the_rate_warms_up_and_falls_as_a_function_of_progress(schedule: str, middle: float, end: float) -> None:
    settings = TrainConfig(schedule=schedule, warmup=0.2, min_lr=0.1)  # type: ignore[arg-type]
    assert 0 < lr_scale(settings, 0.0) < 0.01
    assert lr_scale(settings, 0.1) == pytest.approx(0.5, abs=0.01)
    assert lr_scale(settings, 0.2) == pytest.approx(1.0)
    assert lr_scale(settings, 0.6) == pytest.approx(middle)
    assert lr_scale(settings, 1.0) == lr_scale(settings, 7.0) == pytest.approx(end)
    optimizer = make_optimizer(nn.Linear(2, 2), settings)
    set_lr(optimizer, 0.25)
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}
