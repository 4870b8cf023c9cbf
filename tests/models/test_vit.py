import itertools
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from pocketvit.errors import DataError, UsageError
from pocketvit.models import VARIANTS, build, load_weights
from pocketvit.models.layers import attention as attention_layers
from pocketvit.models.layers.patch_embed import ConvPatchEmbed, LinearPatchEmbed, fold_patches
from pocketvit.models.layers.positions import RESAMPLING, sinusoidal
from pocketvit.models.pixels import normalise
from pocketvit.models.vit import ViT
from pocketvit.spec.images import read_image
from pocketvit.spec.preprocess import Preprocess, prepare

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def meta_build(name: str, size: tuple[int, int] = (224, 224), **options: object) -> torch.nn.Module:
    with torch.device("meta"):
        return build(name, size, options)


def test_parameter_counts_are_the_golden_ones() -> None:
    base = meta_build("vit_base_patch16_224", final_norm=False)
    assert count(base.blocks[0]) == 7_087_872
    assert count(base.patch_embed) == 590_592
    assert count(base) == 85_797_120
    assert count(meta_build("vit_restorer_base_global")) == 201_554_688
    assert count(meta_build("vit_restorer_base_global", final_norm=True)) == 201_556_224
    assert count(meta_build("vit_restorer_base_token")) == 86_387_712  # no class token: 85,795,584 + 1,536 + 590,592
    tiny = meta_build("vit_tiny_patch16_224")
    assert count(tiny) + 192 * 1000 + 1000 == 5_717_416


def test_norm_sizes_inside_a_base_block() -> None:
    block = meta_build("vit_base_patch16_224").blocks[3]
    assert [count(block.norm1), count(block.attn), count(block.mlp.fc1), count(block.mlp.fc2)] == [
        1_536,
        2_362_368,
        2_362_368,
        2_360_064,
    ]


@pytest.mark.parametrize(
    "name", [n for n, row in VARIANTS.items() if row.gives == "features" and "base" not in n and "large" not in n]
)
def test_every_small_classifier_gives_one_feature_per_image(name: str) -> None:
    model = build(name, (112, 112)).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, 112, 112)).shape == (2, model.embed_dim)


def test_logits_equal_timm_with_the_same_random_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    save_file(reference.state_dict(), tmp_path / "w.safetensors")
    ours = build("vit_tiny_patch16_224", (224, 224)).eval()
    assert load_weights(ours, str(tmp_path / "w.safetensors")) == []
    image = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), reference(image), atol=1e-4, rtol=0)


@pytest.mark.skipif(not SHARED.exists(), reason="shared data absent")
def test_logits_equal_timm_on_real_photos_with_imagenet_weights() -> None:
    weights = SHARED / "weights" / "vit_tiny_patch16_224.safetensors"
    reference = timm.create_model("vit_tiny_patch16_224").eval()
    from safetensors.torch import load_file

    reference.load_state_dict(load_file(weights))
    ours = build("vit_tiny_patch16_224", (224, 224)).eval()
    assert sorted(load_weights(ours, str(weights))) == ["head.bias", "head.weight"]
    spec = Preprocess()
    # timm's transform knows no colour profiles, which read_image converts.
    plain = (f for f in sorted((SHARED / "imagenet200").glob("*.JPEG")) if "icc_profile" not in Image.open(f).info)
    files = list(itertools.islice(plain, 4))
    pixels = torch.from_numpy(np.stack([prepare(read_image(f), spec) for f in files]))
    x = normalise(pixels, spec)
    with torch.inference_mode():
        logits = reference.head(ours(x))
        expected = reference(x)
        transform = timm.data.create_transform(
            224, mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.9, interpolation="bicubic"
        )
        theirs = reference(torch.stack([transform(Image.open(f).convert("RGB")) for f in files]))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(logits, theirs, atol=1e-4, rtol=0)


def test_linear_patch_embedding_is_the_convolution_on_an_image_that_is_not_square() -> None:
    conv, linear = ConvPatchEmbed(3, 24, 8), LinearPatchEmbed(3, 24, 8)
    linear.proj.weight.data = conv.proj.weight.data.flatten(1)
    linear.proj.bias.data = conv.proj.bias.data
    image = torch.randn(2, 3, 16, 40)
    torch.testing.assert_close(linear(image), conv(image), atol=1e-5, rtol=1e-5)


def test_fold_is_the_inverse_of_the_patch_order() -> None:
    image = torch.arange(2 * 3 * 8 * 12.0).view(2, 3, 8, 12)
    embed = LinearPatchEmbed(3, 48, 4)
    embed.proj.weight.data, embed.proj.bias.data = torch.eye(48), torch.zeros(48)
    torch.testing.assert_close(fold_patches(embed(image), (2, 3), 4, 3), image)


def test_sinusoidal_positions_follow_the_formula() -> None:
    table = sinusoidal(10, 8)[0]
    assert table[0].tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    assert table[3, 4].item() == pytest.approx(np.sin(3 / 10000 ** (4 / 8)), abs=1e-6)
    assert table[3, 5].item() == pytest.approx(np.cos(3 / 10000 ** (4 / 8)), abs=1e-6)


def test_sinusoidal_positions_are_not_trained() -> None:
    names = dict(ViT(embed_dim=48, depth=1, num_heads=2, image_size=32, positions="sinusoidal").named_parameters())
    assert "pos_embed" not in names


@pytest.mark.parametrize("pool", ["cls", "gap", "map"])
@pytest.mark.parametrize("attention", ["full", "linear"])
def test_pooling_and_attention_options_change_the_answer_and_keep_the_shape(pool: str, attention: str) -> None:
    torch.manual_seed(0)
    model = build(
        "vit_micro_patch16_224", (32, 48), {"pool": pool, "attention": attention, "patch_embed": "linear"}
    ).eval()
    a, b = torch.randn(1, 3, 32, 48), torch.randn(1, 3, 32, 48)
    with torch.inference_mode():
        assert model(a).shape == (1, 96)
        assert not torch.allclose(model(a), model(b))


def test_pooling_means_what_it_says() -> None:
    torch.manual_seed(0)
    gap = ViT(embed_dim=48, depth=1, num_heads=2, image_size=32, pool="gap").eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(gap(image), gap.tokens(image).mean(1))
        cls = ViT(embed_dim=48, depth=1, num_heads=2, image_size=32, pool="cls").eval()
        torch.testing.assert_close(cls(image), cls.tokens(image)[:, 0])
        assert cls.tokens(image).shape[1] == gap.tokens(image).shape[1] + 1


def test_attention_is_softmax_over_keys_scaled_by_the_head_width() -> None:
    torch.manual_seed(0)
    attn = ViT(embed_dim=48, depth=1, num_heads=3, image_size=32).blocks[0].attn.eval()
    x = torch.randn(1, 5, 48)
    q, k, v = attn.qkv(x).view(1, 5, 3, 3, 16).permute(2, 0, 3, 1, 4)
    expected = attn.proj(((q @ k.transpose(-1, -2) / 4).softmax(-1) @ v).transpose(1, 2).reshape(1, 5, 48))
    torch.testing.assert_close(attn(x), expected, atol=1e-5, rtol=1e-5)


def test_position_grid_is_resampled_when_weights_of_another_size_load(tmp_path: Path) -> None:
    reference = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    save_file(reference.state_dict(), tmp_path / "w.safetensors")
    ours = build("vit_tiny_patch16_224", (160, 96))
    load_weights(ours, str(tmp_path / "w.safetensors"))
    expected = timm.layers.resample_abs_pos_embed(reference.pos_embed, (10, 6), (14, 14), num_prefix_tokens=1)
    torch.testing.assert_close(ours.pos_embed, expected, atol=1e-5, rtol=1e-5)


def test_wrong_names_options_sizes_and_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="vit_tiny_patch16_224"):
        build("vit_tiny_patch16_244", (224, 224))
    with pytest.raises(UsageError, match="depht"):
        build("vit_tiny_patch16_224", (224, 224), {"depht": 3})
    with pytest.raises(UsageError, match="multiple of the patch"):
        build("vit_tiny_patch16_224", (225, 224))
    with pytest.raises(UsageError, match="num_heads"):
        build("vit_tiny_patch16_224", (224, 224), {"num_heads": 5})
    for option, value in {"pool": "none", "positions": "x", "attention": "x", "patch_embed": "x"}.items():
        with pytest.raises(UsageError, match=f"{option} {value!r} is unknown"):
            build("vit_tiny_patch16_224", (224, 224), {option: value})
    with pytest.raises(UsageError, match="decoder 'x' is unknown"):
        build("vit_restorer_tiny", (16, 16), {"decoder": "x"})
    with pytest.raises(UsageError, match="64x64 images"):
        build("vit_micro_patch16_224", (64, 64))(torch.zeros(1, 3, 32, 32))
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(DataError, match="cannot be read"):
        load_weights(build("vit_micro_patch16_224", (64, 64)), str(tmp_path / "bad.safetensors"))
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="lacks"):
        load_weights(build("vit_micro_patch16_224", (64, 64)), str(tmp_path / "other.safetensors"))


def test_timm_names_build_feature_extractors() -> None:
    model = build("timm:resnet18", (64, 64)).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, model.embed_dim) == (1, 512)
    with pytest.raises(UsageError, match="timm cannot build"):
        build("timm:no_such_net", (64, 64))


def test_timm_pretrained_weights_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = timm.create_model

    def offline(name: str, pretrained: bool = False, **options: object) -> torch.nn.Module:
        asked.append((name, pretrained))
        torch.manual_seed(3)
        return real(name, pretrained=False, **options)  # what a hub would send, made here

    monkeypatch.setattr(timm, "create_model", offline)
    model = build("vit_tiny_patch16_224", (224, 224))
    assert sorted(load_weights(model, "timm", "vit_tiny_patch16_224")) == ["head.bias", "head.weight"]
    assert asked == [("vit_tiny_patch16_224", True)]
    assert torch.equal(model.cls_token, offline("vit_tiny_patch16_224").cls_token)


def test_dinov2_is_a_vit_with_layer_scale_and_timms_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=98, depth=3).eval()
    for block in reference.blocks:
        for scale in (block.ls1, block.ls2):
            torch.nn.init.normal_(scale.gamma)
    save_file(reference.state_dict(), tmp_path / "w.safetensors")
    ours = build("vit_small_patch14_dinov2", (98, 98), {"depth": 3}).eval()
    assert load_weights(ours, str(tmp_path / "w.safetensors")) == []
    image = torch.randn(1, 3, 98, 98)
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), reference(image), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("how", "options"), RESAMPLING.items())
def test_positions_are_resampled_as_asked(how: str, options: dict[str, object]) -> None:
    small = ViT(embed_dim=8, depth=1, num_heads=2, image_size=64, resample=how)
    table = small.resize_state(small.state_dict(), (96, 32))["pos_embed"]
    grid = small.pos_embed[:, 1:].reshape(1, 4, 4, 8).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, size=(6, 2), align_corners=False, **options)
    torch.testing.assert_close(table[:, 1:].reshape(1, 6, 2, 8).permute(0, 3, 1, 2), expected)


def test_tokens_behind_blocks_and_the_norms_epsilon() -> None:
    torch.manual_seed(0)
    model = ViT(embed_dim=8, depth=3, num_heads=2, image_size=32, norm_eps=1e-3).eval()
    image = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        first, last = model.tapped(image, (), (0, 2))
        torch.testing.assert_close(first, model.blocks[0](model.embed(image)))
        torch.testing.assert_close(model.norm(last), model.tokens(image))
        assert torch.equal(model.tapped(image, (), (2,), norm=True)[0], model.norm(last))
    assert [tap.prefix for tap in model.taps((), (0, 2))] == [1, 1]
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-3}
    with pytest.raises(UsageError, match=r"hooks \(3,\): the backbone has blocks 0 to 2"):
        model.taps((), (3,))


def test_written_out_attention_trains_as_the_fused_one(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    layer, x = attention_layers.SelfAttention(24, 3).bfloat16().train(), torch.randn(2, 9, 24).bfloat16()
    found = []
    for keys in (0, 9, 8):
        monkeypatch.setattr(attention_layers, "SHORT", keys)
        layer.zero_grad()
        out = layer(x)
        out.square().sum().backward()
        found.append((out.detach(), layer.qkv.weight.grad.clone()))
    for got, want in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(got.float(), want.float(), rtol=0.05, atol=0.02 * float(want.abs().max()))
    assert all(torch.equal(a, b) for a, b in zip(found[2], found[0], strict=True))  # nine keys are too many for 8
    assert not torch.equal(found[1][1], found[0][1])  # the other way was gone indeed
