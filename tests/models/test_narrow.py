"""Units cut off for real: what nothing listened to goes without a trace, and the rest lives on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pocketvit.errors import UsageError
from pocketvit.models.attention_maps import attention_blocks
from pocketvit.models.narrow import find_blocks, find_units, find_vit, keep_units, keep_width, remove_block
from pocketvit.models.trained import Trained, copy_of
from pocketvit.tasks.load import load_checkpoint
from tests.models.test_backbone import VIT, check_files, one_batch, trained

RESTORER = {"widths": [8, 32], "encoder": [1], "decoder": [1], "bottleneck": "rcwr", "window": 4}


def vit(**options: object) -> Trained:
    """Two heads of 16, 128 neurons, three blocks; biases that are not zero."""
    start = trained("vit_tiny_patch16_224", {**VIT, "depth": 3, **options}, (32, 48))
    for module in start.model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.bias, std=0.1)
    start.model.eval()
    return start


def restorer() -> Trained:
    start = trained("restorer_xs", RESTORER, (32, 48))
    nn.init.normal_(start.model.head.weight, std=0.1)
    start.model.eval()
    return start


def answer(model: Trained) -> torch.Tensor:
    torch.manual_seed(3)
    with torch.no_grad():
        found = model.model(torch.rand(2, 3, 32, 48))
    return found[0] if isinstance(found, tuple) else found


def deafen(model: Trained, path: str, units: list[int]) -> None:
    """Let nothing listen to some units of a module."""
    each = next(x for x in find_units(model.model) if x.path == path)
    with torch.no_grad():
        model.model.get_submodule(each.reader).weight[:, each.columns(units)] = 0


def test_units_of_a_vit_and_of_a_restorer_are_found() -> None:
    found = find_units(vit().model)
    assert [(x.kind, x.count, x.size) for x in found[:2]] == [("heads", 2, 16), ("neurons", 128, 1)]
    assert len(found) == 6
    assert [x.kind for x in find_units(vit().model, ("heads",))] == ["heads"] * 3
    kinds = [(x.kind, x.path, x.count) for x in find_units(restorer().model)]
    assert ("channels", "bottleneck.0", 32) in kinds
    assert ("neurons", "bottleneck.2", 64) in kinds
    assert ("heads", "bottleneck.2.attn", 1) in kinds


@pytest.mark.parametrize(
    ("make", "path", "gone"),
    [
        (vit, "backbone.blocks.0.attn", [0]),
        (vit, "backbone.blocks.1.mlp", [0, 5, 127]),
        (lambda: vit(attention="linear"), "backbone.blocks.2.attn", [1]),
        (restorer, "bottleneck.0", [1, 30]),
        (restorer, "bottleneck.2", [0, 63]),
    ],
)
def test_what_nothing_listens_to_goes_without_a_trace(make: object, path: str, gone: list[int], tmp_path: Path) -> None:
    model = make()  # type: ignore[operator]
    deafen(model, path, gone)
    before, cut = answer(model), copy_of(model)
    units = next(x for x in find_units(cut.model) if x.path == path)
    keep_units(cut.model, units, [x for x in range(units.count) if x not in gone])
    left = next(x for x in find_units(cut.model) if x.path == path)
    assert left.count == units.count - len(gone)
    assert cut.model.get_submodule(left.reader).weight.shape[1] == left.count * left.size
    torch.testing.assert_close(answer(cut), before, atol=1e-5, rtol=1e-5)
    check_files(cut, tmp_path)
    losses = one_batch(cut, 1)
    assert losses[1] < losses[0]
    torch.testing.assert_close(answer(Trained(**{**vars(model)})), before)  # the original is as it was


@pytest.mark.parametrize("path", ["backbone.blocks.1.attn", "backbone.blocks.2.mlp"])
def test_a_branch_of_which_nothing_is_left_gives_its_bias(path: str, tmp_path: Path) -> None:
    model = vit()
    units = next(x for x in find_units(model.model) if x.path == path)
    deafen(model, path, list(range(units.count)))
    before = answer(model)
    keep_units(model.model, units, [])
    torch.testing.assert_close(answer(model), before, atol=1e-5, rtol=1e-5)
    assert units.path not in {x.path for x in find_units(model.model)}
    check_files(model, tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert loaded.model.get_submodule(units.writer).weight is None
    losses = one_batch(loaded, 1)
    assert losses[1] < losses[0]
    if units.kind == "heads":
        assert path.removesuffix(".attn") not in attention_blocks(loaded.model)


def test_the_last_unit_of_what_has_no_bare_form_stays() -> None:
    model = restorer()
    units = next(x for x in find_units(model.model) if x.path == "bottleneck.0")
    with pytest.raises(UsageError, match="channels cannot be cut off"):
        keep_units(model.model, units, [])


def test_blocks_go_and_those_behind_keep_their_names(tmp_path: Path) -> None:
    model = vit()
    assert find_blocks(model.model) == [f"backbone.blocks.{i}" for i in range(3)]
    remove_block(model.model, "backbone.blocks.1")
    assert find_blocks(model.model) == ["backbone.blocks.0", "backbone.blocks.2"]
    check_files(model, tmp_path)
    remove_block(model.model, "backbone.blocks.2")
    assert len(model.model.backbone.blocks) == 1
    check_files(model, tmp_path / "again")


@pytest.mark.parametrize(
    "options", [{}, {"pool": "map"}, {"layer_scale": 0.1, "pool": "gap"}, {"patch_embed": "linear"}]
)
def test_the_width_is_cut_everywhere(options: dict[str, object], tmp_path: Path) -> None:
    model = vit(**options)
    keep_units(model.model, find_units(model.model, ("neurons",))[0], [])
    keep_width(model.model, range(0, 32, 2))
    assert model.model.backbone.embed_dim == 16
    assert model.model.heads[0].in_features == 16
    assert answer(model).shape == (2, 3)
    check_files(model, tmp_path)
    losses = one_batch(load_checkpoint(tmp_path), 1)
    assert losses[1] < losses[0]


def test_the_width_of_other_networks_stays() -> None:
    assert find_vit(vit(positions="sinusoidal").model) is None
    with pytest.raises(UsageError, match="width of this network cannot be cut"):
        keep_width(restorer().model, [0, 1])
