from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pocketvit.errors import UsageError
from pocketvit.models import VARIANTS, build, load_weights
from pocketvit.models.pocketdepth import DenseDecoder, PocketDepth
from pocketvit.spec.recipe import load_recipe
from pocketvit.tasks.load import at_size
from pocketvit.tasks.start import new_model
from tests.models.depth_nets import SMALL, check_files

SIZE, FULL = (32, 48), (240, 320)
ROWS = [name for name, row in VARIANTS.items() if row.build is PocketDepth]
WEIGHTS = Path(__file__).parents[2] / "../shared/data/weights/vit_tiny_patch16_224.safetensors"
VIT = {"embed_dim": 32, "depth": 3, "num_heads": 2, "patch_size": 16}


def small(size: tuple[int, int] = SIZE, **options: Any) -> Any:
    torch.manual_seed(0)
    return build("pocketdepth", size, SMALL | options).eval()


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ROWS)
def test_no_row_has_more_than_six_million_parameters(name: str) -> None:
    assert parameters(build(name, FULL)) <= 6_000_000


def test_the_recommended_row_has_the_parameters_that_its_layers_add_up_to() -> None:
    block = 2 * 2 * 192 + 192 * 3 * 192 + 3 * 192 + 192 * 192 + 192 + 2 * 192 * 768 + 768 + 192
    vit = 16 * 16 * 3 * 192 + 192 + 192 + (1 + 15 * 20) * 192 + 8 * block
    taps = 2 * 2 * 192 + 2 * 192 * 128 + 128

    def conv(a: int, b: int, k: int) -> int:
        return a * b * k * k + b

    branch = conv(3, 32, 3) + conv(32, 64, 3) + conv(64, 96, 3) + 2 * conv(64, 64, 3) + 2 * conv(96, 96, 3)
    decoder = sum(2 * conv(w, w, 3) for w in (32, 64, 96, 128)) + conv(32, 1, 1)
    decoder += conv(128, 96, 1) + conv(96, 64, 1) + conv(64, 32, 1)
    model = build("pocketdepth", FULL)
    assert parameters(model.vit) == vit
    assert parameters(model) == vit + taps + branch + decoder


@pytest.mark.parametrize(("widths", "stride"), [([8, 12, 16, 24], 2), ([12, 16, 24], 4), ([4, 8, 12, 16, 24], 1)])
def test_the_score_has_the_finest_stride(widths: list[int], stride: int) -> None:
    levels = len(widths)
    model = small(widths=widths, branch=[1] * (levels - 1), decoder=[1] * levels)
    assert model.strides[0] == stride
    assert model.strides[-1] == 16
    with torch.inference_mode():
        assert model(torch.rand(2, 3, *SIZE)).shape == (2, 1, SIZE[0] // stride, SIZE[1] // stride)


def test_every_hook_and_every_level_reaches_the_score() -> None:
    model = small().train()
    model(torch.rand(1, 3, *SIZE)).square().mean().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_blocks_behind_the_last_hook_are_not_built() -> None:
    assert len(small(hooks=[1, 3]).vit.blocks) == 4
    assert len(small(hooks=[2]).vit.blocks) == 3


def test_the_first_hook_takes_what_is_behind_its_block() -> None:
    model = small(hooks=[0, 2])
    image = torch.rand(1, 3, *SIZE)
    with torch.inference_mode():
        first, last = model._tapped(image)
        x = model.vit.blocks[0](model.vit.embed(image))
        torch.testing.assert_close(first, model.norms[0](x[:, 1:]))
        torch.testing.assert_close(last, model.norms[1](model.vit.tokens(image)[:, 1:]))  # no final norm


def test_a_network_without_its_last_block_uses_the_one_before() -> None:
    model = small(hooks=[0, 2])
    del model.vit.blocks[2]
    with torch.inference_mode():
        assert model(torch.rand(1, 3, *SIZE)).isfinite().all()


def test_a_classifier_of_another_size_starts_it(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = build("vit_tiny_patch16_224", (64, 64), VIT)
    save_file(source.state_dict(), tmp_path / "vit.safetensors")
    model, before = small(), small().state_dict()
    unused = load_weights(model, str(tmp_path / "vit.safetensors"))
    own = model.state_dict()
    assert {name.split(".")[1] for name in unused} <= {"blocks", "norm"}
    assert any("blocks.2" in name for name in unused)  # behind the last hook
    torch.testing.assert_close(own["vit.blocks.1.mlp.fc1.weight"], source.state_dict()["blocks.1.mlp.fc1.weight"])
    expected = source.resize_state(source.state_dict(), SIZE)["pos_embed"]
    torch.testing.assert_close(own["vit.pos_embed"], expected)
    assert own["vit.pos_embed"].shape == (1, 1 + 2 * 3, 32)
    rest = [name for name in own if not name.startswith("vit.")]
    assert all(torch.equal(own[name], before[name]) for name in rest)


@pytest.mark.skipif(not WEIGHTS.exists(), reason="no shared data")
@pytest.mark.parametrize("name", ROWS)
def test_the_public_weights_load_into_every_row(name: str) -> None:
    model = build(name, FULL)
    unused = load_weights(model, str(WEIGHTS))
    depth = len(model.vit.blocks)
    behind = [f"vit.blocks.{number}." for number in range(depth, 12)]
    assert all(key.startswith((*behind, "vit.norm.", "vit.head.")) for key in unused)
    assert len(unused) == 12 * (12 - depth) + 4


def test_its_own_state_goes_to_another_size_that_is_not_square() -> None:
    model, other = small(), small((48, 80))
    other.load_state_dict(model.resize_state(model.state_dict(), (48, 80)))
    torch.testing.assert_close(other.vit.pos_embed[:, :1], model.vit.pos_embed[:, :1])
    with torch.inference_mode():
        assert other(torch.rand(1, 3, 48, 80)).shape == (1, 1, 24, 40)


@pytest.mark.slow
@pytest.mark.parametrize("size", [SIZE, (48, 32)])
def test_files_answer_as_the_network_does(size: tuple[int, int], tmp_path: Path) -> None:
    check_files(small(size), size, tmp_path)


def test_the_decoder_brings_maps_to_its_widths() -> None:
    decoder = DenseDecoder((6, 8, 10), (4, 8, 12), (1, 0, 2)).eval()
    assert [type(layer) for layer in decoder.inputs] == [nn.Conv2d, nn.Identity, nn.Conv2d]
    with torch.inference_mode():
        maps = [torch.rand(1, c, 12 // s, 20 // s) for c, s in ((6, 1), (8, 2), (10, 4))]
        assert decoder(maps).shape == (1, 1, 12, 20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hooks": [3, 1]}, "hooks"),
        ({"hooks": []}, "hooks"),
        ({"hooks": [-1]}, "hooks"),
        ({"hooks": [99]}, "hooks"),
        ({"branch": [1]}, "branch"),
        ({"decoder": [1]}, "decoder"),
        ({"patch_size": 8, "widths": [8] * 5, "branch": [0] * 4, "decoder": [0] * 5}, "patch_size 8"),
        ({"depth": 3, "width": 3}, "width"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        small(**options)


def test_a_size_that_the_patches_do_not_divide_is_refused() -> None:
    with pytest.raises(UsageError, match="multiple of the patch"):
        small((40, 48))


def test_a_recipe_starts_it_from_a_classifiers_weights_and_resizes_it(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = build("vit_tiny_patch16_224", (64, 64), VIT)
    save_file(source.state_dict(), tmp_path / "vit.safetensors")
    fields = {"model.name": "pocketdepth", "model.options": SMALL, "model.weights": str(tmp_path / "vit.safetensors")}
    fields |= {
        "task.name": "depth",
        "preprocess.resize": "stretch",
        "preprocess.size": list(SIZE),
        "data.layout": "depth",
    }
    trained = new_model(load_recipe(None, fields), ())
    network = trained.model.backbone
    torch.testing.assert_close(network.vit.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)
    assert trained.info["start"].startswith("weights of vit.safetensors")
    larger = at_size(trained, (48, 80))
    assert larger.model.backbone.vit.grid == (3, 5)
    assert torch.equal(larger.model.backbone.join.weight, network.join.weight)
