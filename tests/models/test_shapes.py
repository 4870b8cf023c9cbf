"""Networks narrowed by hand: rebuilt, saved, loaded, trained on, exported."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pocketvit.errors import DataError, UsageError
from pocketvit.models import build
from pocketvit.models.build import read_safetensors
from pocketvit.models.shapes import fit_shapes, shapes_of
from pocketvit.models.trained import META, WEIGHTS, Trained, copy_of, save_checkpoint
from pocketvit.spec.recipe import load_recipe
from pocketvit.tasks.load import at_size, load_checkpoint
from pocketvit.tasks.start import new_model
from tests.models.test_backbone import LEVELS, VIT, check_files, one_batch, trained


def cut(layer: nn.Linear, *, rows: torch.Tensor | None = None, columns: torch.Tensor | None = None) -> None:
    """Keep only some outputs (rows) or inputs (columns) of a linear layer."""
    if rows is not None:
        layer.weight, layer.bias = nn.Parameter(layer.weight[rows]), nn.Parameter(layer.bias[rows])
    if columns is not None:
        layer.weight = nn.Parameter(layer.weight[:, columns])
    layer.out_features, layer.in_features = layer.weight.shape


def narrowed(pool: str = "cls") -> Trained:
    """A ViT of three blocks: the first has half its hidden units, the second one head of four, the third is gone."""
    start = trained("vit_tiny_patch16_224", {**VIT, "num_heads": 4, "depth": 3, "pool": pool}, (32, 48))
    blocks = start.model.backbone.blocks
    keep = torch.arange(0, 128, 2)
    cut(blocks[0].mlp.fc1, rows=keep)
    cut(blocks[0].mlp.fc2, columns=keep)
    head = torch.arange(8, 16)
    cut(blocks[1].attn.qkv, rows=torch.cat([head, 32 + head, 64 + head]))
    cut(blocks[1].attn.proj, columns=head)
    del blocks[2]
    return start


def test_a_narrowed_vit_is_saved_loaded_trained_on_and_exported(tmp_path: Path) -> None:
    model = narrowed()
    check_files(model, tmp_path)
    loaded = load_checkpoint(tmp_path)
    blocks = loaded.model.backbone.blocks
    assert (len(blocks), blocks[0].mlp.fc1.out_features, blocks[1].attn.proj.in_features) == (2, 64, 8)
    losses = one_batch(loaded, 1)
    assert losses[1] < losses[0]
    check_files(loaded, tmp_path / "again")


def test_the_head_that_was_kept_answers_as_it_did() -> None:
    torch.manual_seed(0)
    full = build("vit_tiny_patch16_224", (32, 48), {**VIT, "num_heads": 4, "depth": 3})
    attn = full.blocks[1].attn
    x = torch.rand(1, 5, 32)
    with torch.no_grad():
        attn.proj.weight[:, :8], attn.proj.weight[:, 16:] = 0, 0
        whole = attn(x)
        head = torch.arange(8, 16)
        cut(attn.qkv, rows=torch.cat([head, 32 + head, 64 + head]))
        cut(attn.proj, columns=head)
        torch.testing.assert_close(attn(x), whole)


def test_width_channels_pooling_heads_and_bias_may_be_narrowed(tmp_path: Path) -> None:
    start = trained("vit_tiny_patch16_224", {**VIT, "pool": "map"}, (32, 48))
    net = start.model.backbone
    keep = torch.arange(24)
    for module in list(net.modules()):
        if isinstance(module, nn.LayerNorm):
            module.weight, module.bias = nn.Parameter(module.weight[keep]), nn.Parameter(module.bias[keep])
            module.normalized_shape = (24,)
    net.pos_embed = nn.Parameter(net.pos_embed[..., keep])
    net.attn_pool.query = nn.Parameter(net.attn_pool.query[..., keep])
    conv = net.patch_embed.proj
    conv.weight, conv.bias, conv.out_channels = nn.Parameter(conv.weight[keep]), nn.Parameter(conv.bias[keep]), 24
    for block in net.blocks:
        cut(block.attn.qkv, columns=keep)
        cut(block.attn.proj, rows=keep)
    for mlp in (*(block.mlp for block in net.blocks), net.attn_pool.mlp):
        cut(mlp.fc1, columns=keep)
        cut(mlp.fc2, rows=keep)
    pool, one = net.attn_pool, torch.arange(16)  # one of two heads
    cut(pool.q, rows=one, columns=keep)
    cut(pool.kv, rows=torch.cat([one, 32 + one]), columns=keep)
    cut(pool.proj, rows=keep, columns=one)
    cut(start.model.heads[0], columns=keep)
    net.blocks[0].mlp.fc1.bias = None
    assert (net.embed_dim, net.channels) == (24, (24,))
    check_files(start, tmp_path)
    loaded = load_checkpoint(tmp_path).model.backbone
    assert loaded.embed_dim == 24
    assert loaded.blocks[0].mlp.fc1.bias is None
    assert loaded.norm.normalized_shape == (24,)


def test_convolutions_norms_and_channel_heads_follow_their_weights() -> None:
    class Net(nn.Module):
        def __init__(self, wide: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, wide, 3, padding=1)
            self.depthwise = nn.Conv2d(wide, 2 * wide, 3, padding=1, groups=wide)
            self.norm = nn.BatchNorm2d(2 * wide)
            self.up = nn.ConvTranspose2d(2 * wide, wide, 2, 2)
            self.group = nn.GroupNorm(2, wide)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.group(self.up(self.norm(self.depthwise(self.conv(x)))))

    wide, small = Net(8).eval(), Net(4).eval()
    fit_shapes(wide, shapes_of(small.state_dict()))
    wide.load_state_dict(small.state_dict())
    x = torch.rand(1, 3, 6, 6)
    torch.testing.assert_close(wide(x), small(x))
    assert repr(wide) == repr(small)


def test_heads_of_channel_attention_can_be_cut(tmp_path: Path) -> None:
    start = trained("restorer_xs", {"widths": [8, 64], "encoder": [1], "decoder": [1], "bottleneck": "c"}, (32, 48))
    layer = start.model.bottleneck[0]
    rows = torch.cat([torch.arange(32) + 64 * part for part in range(3)])
    layer.qkv.weight, layer.qkv.bias = nn.Parameter(layer.qkv.weight[rows]), nn.Parameter(layer.qkv.bias[rows])
    layer.proj.weight = nn.Parameter(layer.proj.weight[:, :32])
    layer.temperature = nn.Parameter(layer.temperature[:1])
    layer.qkv.out_channels, layer.proj.in_channels = 96, 32
    nn.init.normal_(start.model.head.weight, std=0.1)
    check_files(start, tmp_path)


def test_a_block_that_was_skipped_stays_skipped(tmp_path: Path) -> None:
    start = trained("restorer_xs", {"widths": [8, 12], "encoder": [1], "decoder": [1], "bottleneck": "rcw"}, (32, 48))
    start.model.bottleneck[1] = nn.Identity()
    nn.init.normal_(start.model.head.weight, std=0.1)
    check_files(start, tmp_path)
    assert isinstance(load_checkpoint(tmp_path).model.bottleneck[1], nn.Identity)


def test_a_narrowed_network_keeps_its_widths_at_another_size() -> None:
    model = narrowed()
    other = at_size(model, (64, 32))
    assert len(other.model.backbone.blocks) == 2
    assert other.model(torch.zeros(1, 3, 64, 32))[0].shape == (1, 3)


def test_what_depends_on_the_size_is_not_taken_for_narrowed() -> None:
    options = {"embed_dim": 16, "depths": [1] * 4, "num_heads": [1, 1, 2, 2]}
    swin = trained("timm:swin_tiny_patch4_window7_224", options, (64, 64))  # its last windows are 2 x 2, then 3 x 3
    with pytest.raises(UsageError, match="cannot take 96x96 images"):
        at_size(swin, (96, 96))


def test_training_starts_from_a_narrowed_checkpoint_of_the_same_architecture_only(tmp_path: Path) -> None:
    model = narrowed()
    save_checkpoint(tmp_path / "narrow", model)
    options = model.model_spec.options
    recipe = load_recipe(
        None,
        {
            "model": {"name": "vit_tiny_patch16_224", "options": options, "weights": str(tmp_path / "narrow")},
            "task": {"name": "classify"},
            "preprocess": {"size": [48, 32]},
        },
    )
    started = new_model(recipe, LEVELS)
    assert len(started.model.backbone.blocks) == 2
    assert torch.equal(started.model.backbone.blocks[1].attn.qkv.weight, model.model.backbone.blocks[1].attn.qkv.weight)
    assert torch.equal(started.model.heads[0].weight, model.model.heads[0].weight)
    wider = replace(recipe, model=replace(recipe.model, options={**options, "mlp_ratio": 2.0}))
    with pytest.raises(UsageError, match=r"lacks blocks\.2"):
        new_model(wider, LEVELS)


def test_recorded_shapes_must_be_those_of_the_weights(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, narrowed())
    meta = json.loads((tmp_path / META).read_text())
    assert {name: tuple(shape) for name, shape in meta["shapes"].items()} == {
        name: tuple(value.shape) for name, value in read_safetensors(tmp_path / WEIGHTS).items()
    }
    for change in ({"heads.0.weight": [10**9, 10**9]}, {"heads.0.weight": "wide"}):
        (tmp_path / META).write_text(json.dumps({**meta, "shapes": {**meta["shapes"], **change}}))
        with pytest.raises(DataError):
            load_checkpoint(tmp_path)
    (tmp_path / META).write_text(json.dumps({key: value for key, value in meta.items() if key != "shapes"}))
    with pytest.raises(DataError, match="does not fit"):
        load_checkpoint(tmp_path)


def test_a_copy_shares_nothing() -> None:
    model = replace(narrowed(), info={"metrics": {"top1": 1.0}})
    other = copy_of(model)
    with torch.no_grad():
        other.model.heads[0].weight.zero_()
    other.info["metrics"]["top1"] = 0.0
    assert model.info["metrics"]["top1"] == 1.0
    assert model.model.heads[0].weight.abs().sum() > 0
    np.testing.assert_array_equal(other.model.heads[0].weight.detach().numpy(), 0)


def test_a_sequence_may_name_its_members() -> None:
    def made() -> nn.Sequential:
        return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 1), act=nn.ReLU(), last=nn.Conv2d(4, 2, 1)))

    whole = made()
    assert fit_shapes(made(), shapes_of(whole.state_dict())).state_dict().keys() == whole.state_dict().keys()
    shorter = {key: value for key, value in shapes_of(whole.state_dict()).items() if not key.startswith("last.")}
    cut = fit_shapes(made(), shorter)
    assert list(dict(cut.named_children())) == ["conv", "act"]
