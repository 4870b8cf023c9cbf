"""Folding constants into neighbouring weights: the answers stay, the layers are gone, and files know of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pocketvit.compress.fuse import Fuse, folded, fuse
from pocketvit.compress.step import Context
from pocketvit.compress.table import plan_slots
from pocketvit.compress.width import channel_importance
from pocketvit.errors import UsageError
from pocketvit.models.attention_maps import attention_maps
from pocketvit.models.layers.blocks import LayerScale
from pocketvit.models.layers.folded import Activation, BareNorm, Nothing, UnscaledAttention
from pocketvit.models.narrow import keep_width
from pocketvit.models.replaced import replace_layers, replaced_in
from pocketvit.models.trained import Trained, copy_of, save_checkpoint
from pocketvit.spec.recipe import load_recipe
from pocketvit.tasks.load import at_size, load_checkpoint
from pocketvit.tasks.start import new_model
from tests.models.test_backbone import LEVELS, VIT, check_files, one_batch, trained
from tests.models.test_backbone import RESTORER as SMALL_RESTORER

SIZE = (32, 48)
RESTORER = {"widths": [8, 16, 32], "bottleneck": "rwcw", "window": 4}


class OneBatch(list):  # type: ignore[type-arg]
    """Images and labels, as ``Batches`` gives them."""

    collection = None


ONE_BATCH: Any = OneBatch([(torch.rand(2, 3, *SIZE), torch.zeros(2, 1, dtype=torch.int64))])
_NORMS = (nn.LayerNorm, nn.BatchNorm2d, nn.GroupNorm)


def stirred(name: str, options: dict[str, Any], size: tuple[int, int] = SIZE) -> Trained:
    """With random weights, and norms and scales that do something to each channel."""
    start = trained(name, options, size)
    torch.manual_seed(1)
    with torch.no_grad():
        for module in start.model.modules():
            if isinstance(module, _NORMS) and module.weight is not None:
                module.weight.uniform_(0.3, 2).mul_(torch.where(torch.rand_like(module.weight) < 0.2, -1, 1))
                module.bias.normal_(0, 0.5)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.3, 3)
            if hasattr(module, "gamma"):
                module.gamma.normal_(0, 1)
            if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
                module.bias.normal_(0, 0.3)
        for weight in start.model.parameters():  # heads of restorers begin at zero
            if not weight.any():
                weight.normal_(0, 0.05)
    return start


def answer(of: Trained) -> torch.Tensor:
    torch.manual_seed(5)
    with torch.no_grad():
        found = of.model.eval()(torch.rand(2, 3, *of.preprocess.size))
    found = found[0] if isinstance(found, tuple) else found
    return getattr(found, "depth", found)


def check_parity(start: Trained, step: Fuse | None = None) -> tuple[Trained, dict[str, int]]:
    before = {key: value.clone() for key, value in start.model.state_dict().items()}
    want = answer(start)
    result, found = folded(step or Fuse(), start)
    assert (answer(result) - want).abs().max() <= 1e-5 * want.abs().max()
    assert want.std() > 0
    assert all(torch.equal(before[key], value) for key, value in start.model.state_dict().items())
    return result, dict(found)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"layer_scale": 0.1}, {"norms": 5, "layer_scales": 4, "attention": 2}),
        ({"pool": "gap", "patch_embed": "linear"}, {"norms": 5, "attention": 2}),
        ({"pool": "map", "final_norm": False}, {"norms": 5, "attention": 2}),
        ({"attention": "linear", "positions": "sinusoidal"}, {"norms": 5}),
    ],
)
def test_a_vit_answers_the_same(options: dict[str, Any], found: dict[str, int]) -> None:
    result, done = check_parity(stirred("vit_tiny_patch16_224", {**VIT, **options}))
    assert done == found
    assert not any(type(module) in (nn.LayerNorm, LayerScale) for module in result.model.modules())


def test_each_kind_alone_is_what_was_asked_for() -> None:
    start = stirred("vit_tiny_patch16_224", {**VIT, "layer_scale": 0.1})
    for kind, count in {"norms": 5, "layer_scales": 4, "attention": 2}.items():
        off = dict.fromkeys(("norms", "layer_scales", "batch_norms", "attention"), False)
        assert check_parity(start, Fuse(**{**off, kind: True}))[1] == {kind: count}
    with pytest.raises(UsageError, match="nothing that can be folded"):
        folded(Fuse(**off), start)
    with pytest.raises(UsageError, match="nothing that can be folded"):
        folded(Fuse(), folded(Fuse(), start)[0])


def test_weights_by_hand() -> None:
    start = stirred("vit_tiny_patch16_224", {**VIT, "layer_scale": 0.1})
    result, _ = folded(Fuse(), start)
    old, new = (each.model.backbone.blocks[0] for each in (start, result))
    scale = torch.cat([torch.full((32,), 16**-0.5), torch.ones(64)])  # heads of 16
    torch.testing.assert_close(new.attn.qkv.weight, old.attn.qkv.weight * old.norm1.weight * scale[:, None])
    torch.testing.assert_close(
        new.attn.qkv.bias, (old.attn.qkv.bias + old.attn.qkv.weight @ old.norm1.bias) * scale, atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(new.mlp.fc2.weight, old.mlp.fc2.weight * old.ls2.gamma[:, None])
    torch.testing.assert_close(new.mlp.fc2.bias, old.mlp.fc2.bias * old.ls2.gamma)
    assert [type(x) for x in (new.norm1, new.ls1, new.attn)] == [BareNorm, Nothing, UnscaledAttention]


@pytest.mark.slow
def test_a_vit_is_saved_loaded_exported_resized_trained_on_and_cut(tmp_path: Path) -> None:
    start = stirred("vit_tiny_patch16_224", {**VIT, "layer_scale": 0.1})
    result, _ = folded(Fuse(), start)
    check_files(result, tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert {entry["kind"] for entry in replaced_in(loaded.model).values()} == {
        "bare_norm",
        "nothing",
        "unscaled_attention",
    }
    sizes = [at_size(each, (64, 32)) for each in (start, loaded)]
    torch.testing.assert_close(answer(sizes[1]), answer(sizes[0]), atol=1e-5, rtol=1e-4)
    losses = one_batch(copy_of(loaded), 1)
    assert losses[1] < losses[0]
    maps = [
        attention_maps(each.model, torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(2)))
        for each in (start, loaded)
    ]
    for path, want in maps[0].items():
        torch.testing.assert_close(maps[1][path], want, atol=1e-5, rtol=1e-4)
    fields = {"model": {"name": "vit_tiny_patch16_224", "options": start.model_spec.options, "weights": str(tmp_path)}}
    recipe = load_recipe(None, {**fields, "task": {"name": "classify"}, "preprocess": {"size": [48, 32]}})
    begun = new_model(recipe, LEVELS).model
    assert torch.equal(begun.backbone.blocks[1].mlp.fc1.weight, loaded.model.backbone.blocks[1].mlp.fc1.weight)
    assert channel_importance(loaded, ONE_BATCH).shape == (32,)
    keep_width(loaded.model, range(24))
    check_files(loaded, tmp_path / "narrow")


@pytest.mark.slow
def test_the_step_counts_nodes_and_says_what_it_did(tmp_path: Path) -> None:
    start = stirred("vit_tiny_patch16_224", {**VIT, "layer_scale": 0.1})
    report = fuse(Fuse(), start, Context((), tmp_path))
    before, after = report.notes["nodes"]
    assert before - after >= 4 + 2 * 2  # factors for channels, and two factors for scores in each block
    assert report.notes["error"] <= 1e-5
    assert report.notes["folded"] == {"norms": 5, "layer_scales": 4, "attention": 2}
    assert (
        report.told
        == f"folded 5 norms, 4 layer scales, 2 attention; {before} nodes of the exported graph became {after}"
    )
    json.dumps(report.to_dict())
    ((planned,),) = plan_slots([{"fuse": {"norms": False}}], "openvino")
    assert planned.config == Fuse(norms=False)


def test_a_restorer_answers_the_same(tmp_path: Path) -> None:
    result, found = check_parity(stirred("restorer_s", RESTORER))
    assert found == {"norms": 4, "attention": 2}
    save_checkpoint(tmp_path, result)
    torch.testing.assert_close(answer(load_checkpoint(tmp_path)), answer(result), atol=0, rtol=0)
    with pytest.raises(UsageError, match="nothing that can be folded"):
        folded(Fuse(), stirred("restorer_s", {**SMALL_RESTORER, "bottleneck": "rc"}))


@pytest.mark.slow
def test_convolutions_take_over_batch_norms(tmp_path: Path) -> None:
    start = stirred("timm:resnet10t", {}, (64, 64))
    result, found = check_parity(start)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in start.model.modules())
    assert found == {"batch_norms": norms}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in result.model.modules())
    check_files(result, tmp_path)
    losses = one_batch(load_checkpoint(tmp_path), 1)
    assert losses[1] < losses[0]


def test_batch_norms_with_their_activation_leave_it(tmp_path: Path) -> None:
    result, found = check_parity(stirred("timm:mobilenetv3_small_050", {}, (64, 64)))
    assert found["batch_norms"] > 20
    kinds = [type(module) for module in result.model.modules()]
    assert Activation in kinds
    save_checkpoint(tmp_path, result)
    torch.testing.assert_close(answer(load_checkpoint(tmp_path)), answer(result), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("timm:vit_tiny_patch16_224", {"embed_dim": 48, "depth": 2, "num_heads": 3, "init_values": 0.1}, (32, 32)),
        (
            "timm:swin_tiny_patch4_window7_224",
            {"embed_dim": 16, "depths": [1] * 4, "num_heads": [1, 1, 2, 2]},
            (64, 64),
        ),
    ],
)
def test_transformers_of_timm(name: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    found = check_parity(stirred(name, options, size))[1]
    assert found["norms"] >= 5
    assert found.get("layer_scales", 0) == (4 if "init_values" in options else 0)


def test_what_others_read_too_is_left_alone() -> None:
    start = stirred("vit_tiny_patch16_224", VIT)
    blocks = start.model.backbone.blocks
    blocks[0].mlp.fc1.weight = blocks[1].mlp.fc1.weight  # one weight, two norms in front of it
    blocks[1].norm1.weight = blocks[0].norm1.weight
    assert check_parity(start)[1]["norms"] == 1


def test_layers_of_other_steps_are_folded_into(tmp_path: Path) -> None:
    start = stirred("vit_tiny_patch16_224", {**VIT, "layer_scale": 0.1})
    paths = [f"backbone.blocks.0.{name}" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    record = {path: {"kind": "low_rank", "rank": 8} for path in paths}
    replace_layers(start.model, {"backbone.blocks.1": {"kind": "class_block"}, **record})
    result, found = check_parity(start)
    assert found == {"norms": 5, "layer_scales": 4, "attention": 2}
    assert result.model.get_submodule(paths[0]).down.bias is not None
    check_files(result, tmp_path)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("backbone.blocks.0.mlp.fc1", "bare_norm"),
        ("backbone.blocks.0.mlp.fc1", "nothing"),
        ("backbone.blocks.0.norm1", "activation"),
        ("backbone.blocks.0", "unscaled_attention"),
    ],
)
def test_a_record_that_lies_is_refused(path: str, kind: str) -> None:
    with pytest.raises(RuntimeError):
        replace_layers(trained("vit_tiny_patch16_224", VIT, SIZE).model, {path: {"kind": kind}})


@pytest.mark.parametrize("mode", ["merge", "prune"])
def test_a_network_that_lets_tokens_go_answers_the_same_after_folding(mode: str) -> None:
    start = stirred("vit_tiny_patch16_224", {"depth": 3, "patch_size": 8})
    blocks = {f"backbone.blocks.{i}": {"kind": "merge_block", "r": 3, "mode": mode} for i in range(2)}
    replace_layers(start.model, blocks)
    found, counts = folded(Fuse(), start)
    image = torch.randn(2, 3, *SIZE)
    for got, want in zip(found.model.eval()(image), start.model.eval()(image), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
    assert counts["attention"] == 3
    assert replaced_in(found.model).keys() >= blocks.keys()
