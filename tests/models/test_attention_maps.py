from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pocketvit.errors import UsageError
from pocketvit.models import build
from pocketvit.models.attention_maps import attention_blocks, attention_maps, hooked_blocks

VIT = {"embed_dim": 48, "depth": 3, "num_heads": 3, "patch_size": 8}
DPT: dict[str, Any] = {"hooks": [0, 2], "reassemble": [8, 8], "width": 8, "backbone_options": VIT}


def by_hand(model: nn.Module, image: torch.Tensor, block: int) -> torch.Tensor:
    """One query, one key at a time."""
    x = model.embed(image)
    for layer in model.blocks[:block]:
        x = layer(x)
    attn = model.blocks[block].attn
    q, k, _ = attn.qkv(model.blocks[block].norm1(x)).chunk(3, dim=-1)
    found = torch.zeros(len(image), 3, x.shape[1], x.shape[1])
    for head in range(3):
        part = slice(16 * head, 16 * head + 16)
        for row in range(x.shape[1]):
            scores = torch.exp((k[:, :, part] * q[:, row : row + 1, part]).sum(-1) / 4)
            found[:, head, row] = scores / scores.sum(-1, keepdim=True)
    return found


def test_maps_of_named_blocks_are_those_worked_out_by_hand() -> None:
    torch.manual_seed(0)
    model = build("dpt_tiny", (16, 32), DPT)
    nn.init.normal_(model.encoder.blocks[2].attn.qkv.weight, std=0.3)
    image = torch.randn(2, 3, 16, 32)
    found = attention_maps(model, image)
    assert list(found) == hooked_blocks(model) == ["encoder.blocks.0", "encoder.blocks.2"]
    with torch.no_grad():
        for number in (0, 2):
            expected = by_hand(model.encoder, image, number)
            assert float(expected.std()) > 1e-3
            torch.testing.assert_close(found[f"encoder.blocks.{number}"], expected, atol=1e-5, rtol=1e-4)
    assert found["encoder.blocks.2"].shape == (2, 3, 9, 9)


def test_reading_leaves_the_network_as_it_was() -> None:
    model = build("vit_micro_patch16_224", (16, 32), VIT)
    model.train()
    model.blocks[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    image = torch.randn(1, 3, 16, 32)
    assert set(attention_maps(model, image)) == {"blocks.0", "blocks.1", "blocks.2"}
    assert model.training
    assert not model.blocks[1].training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(UsageError, match="16x32 images"):
        attention_maps(model, torch.randn(1, 3, 32, 32))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_dpt_inside_a_tasks_model_and_timms_attention_are_read_by_name() -> None:
    inner = {"embed_dim": 48, "depth": 3, "num_heads": 3}
    timms = build("dpt_tiny", (32, 48), {**DPT, "backbone": "timm:vit_tiny_patch16_224", "backbone_options": inner})
    whole = nn.Sequential(nn.Identity(), timms).eval()
    found = attention_maps(whole, torch.randn(1, 3, 32, 48))
    assert list(found) == ["1.encoder.net.blocks.0", "1.encoder.net.blocks.2"]
    for value in found.values():
        torch.testing.assert_close(value.sum(-1), torch.ones(1, 3, 7))
    attn, seen = timms.encoder.net.blocks[2].attn, {}
    attn.fused_attn = False
    attn.attn_drop.register_forward_hook(lambda module, inputs, output: seen.update(map=output))
    torch.manual_seed(1)
    image = torch.randn(1, 3, 32, 48)
    found = attention_maps(whole, image, ["1.encoder.net.blocks.2"])
    torch.testing.assert_close(found["1.encoder.net.blocks.2"], seen["map"])


def test_heads_that_were_cut_off_have_no_map() -> None:
    model = build("vit_micro_patch16_224", (16, 32), VIT)
    attn = model.blocks[1].attn
    rows = torch.cat([torch.arange(32) + 48 * part for part in range(3)])
    attn.qkv.weight, attn.qkv.bias = nn.Parameter(attn.qkv.weight[rows]), nn.Parameter(attn.qkv.bias[rows])
    attn.proj.weight = nn.Parameter(attn.proj.weight[:, :32])
    assert attention_maps(model, torch.randn(1, 3, 16, 32), ["blocks.1"])["blocks.1"].shape == (1, 2, 9, 9)


def test_blocks_without_such_attention_are_refused_by_name() -> None:
    model = build("vit_micro_patch16_224", (16, 32), {**VIT, "attention": "linear"})
    with pytest.raises(UsageError, match="linear and has no softmax"):
        attention_maps(model, torch.randn(1, 3, 16, 32), ["blocks.1"])
    with pytest.raises(UsageError, match=r"block 'blocks\.7' has no attention") as caught:
        attention_maps(model, torch.randn(1, 3, 16, 32), ["blocks.7"])
    assert "Did you mean blocks." in caught.value.todo
    pyramid = build("timm:resnet10t", (32, 32))
    assert attention_blocks(pyramid) == hooked_blocks(pyramid) == []
    assert attention_maps(pyramid, torch.randn(1, 3, 32, 32)) == {}
