"""Layers that compute with a function of their weights: training and checkpoints see plain ones under their names."""

from __future__ import annotations

from pathlib import Path

import torch

from pocketvit.compress.latent import LatentConv2d, LatentLinear, heads_of, settled, weighty, with_latent
from pocketvit.compress.prune_weights import masked
from pocketvit.models.trained import save_checkpoint
from pocketvit.tasks.load import load_checkpoint
from tests.compress.training import answer
from tests.export.nets import classifier, restorer

FC1 = "backbone.blocks.0.mlp.fc1"


def test_layers_are_found_in_order_and_heads_apart() -> None:
    net = classifier().model
    layers = weighty(net)
    assert [path for path in layers if "blocks.0" in path] == [
        f"backbone.blocks.0.{name}" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    ]
    assert heads_of(net) == ("heads.0", "heads.1")
    assert set(weighty(net, 4000)) == {path for path, x in layers.items() if x.weight.numel() >= 4000}
    alone = restorer().model
    assert heads_of(alone) == tuple(weighty(alone))[-1:]


def test_it_computes_with_the_form_and_is_plain_again_afterwards(tmp_path: Path) -> None:
    trained = classifier()
    before = answer(trained)
    masks = {path: torch.rand(x.weight.shape) > 0.5 for path, x in weighty(trained.model).items()}
    latent = with_latent(trained, masks, masked)
    assert {type(latent.model.get_submodule(path)) for path in masks} == {LatentLinear, LatentConv2d}
    assert latent.model.state_dict().keys() == trained.model.state_dict().keys()
    settled_one = settled(latent, masks, masked)
    assert torch.equal(answer(latent), answer(settled_one))
    assert not torch.equal(before, answer(settled_one))
    assert torch.equal(before, answer(trained))
    assert not any("constant" in name for name, _ in settled_one.model.named_buffers())
    assert [type(x) for x in settled_one.model.modules()] == [type(x) for x in trained.model.modules()]
    save_checkpoint(tmp_path / "c", latent)
    assert torch.equal(answer(settled(load_checkpoint(tmp_path / "c"), masks, masked)), answer(settled_one))


def test_gradients_reach_what_the_mask_keeps_alone() -> None:
    trained = classifier()
    mask = torch.rand(trained.model.get_submodule(FC1).weight.shape) > 0.5
    latent = with_latent(trained, {FC1: mask}, masked)
    latent.model(torch.rand(2, 3, 32, 40))[0].square().sum().backward()
    gradient = latent.model.get_submodule(FC1).weight.grad
    assert (gradient[~mask] == 0).all()
    assert (gradient[mask] != 0).any()
