from __future__ import annotations

import time
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from pocketvit.errors import DataError, UsageError
from pocketvit.models import architecture, build, load_weights
from pocketvit.models.timm_backbone import pretrained_state

TINY = {"embed_dim": 48, "depth": 2, "num_heads": 3}


def test_a_vit_takes_another_size_and_timms_weights_at_it(tmp_path: Path) -> None:
    reference = timm.create_model("vit_tiny_patch16_224", num_classes=5, **TINY).eval()
    save_file(reference.state_dict(), tmp_path / "w.safetensors")
    model = build("timm:vit_tiny_patch16_224", (160, 96), TINY).eval()
    assert sorted(load_weights(model, str(tmp_path / "w.safetensors"))) == ["net.head.bias", "net.head.weight"]
    expected = timm.layers.resample_abs_pos_embed(reference.pos_embed, (10, 6), (14, 14), num_prefix_tokens=1)
    torch.testing.assert_close(model.net.pos_embed, expected, atol=1e-5, rtol=1e-5)
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 160, 96)).shape == (1, 48)
    assert (model.strides, model.channels, model.any_size) == ((16,), (48,), False)
    larger = build("timm:vit_tiny_patch16_224", (64, 128), TINY)
    larger.load_state_dict(model.resize_state(model.state_dict(), (64, 128)))


def test_a_size_that_the_patches_do_not_divide_is_refused_when_it_is_built() -> None:
    with pytest.raises(UsageError, match="multiple of the patch size 16"):
        build("timm:vit_tiny_patch16_224", (100, 96), TINY)


def test_the_pooled_width_is_what_comes_out() -> None:
    model = build("timm:mobilenetv3_small_050", (64, 64)).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, model.embed_dim)
    assert model.embed_dim != model.net.num_features  # the head has a layer of its own before the classifier
    assert model.strides == (2, 4, 8, 16, 32)


def test_a_model_without_intermediate_maps_gives_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(timm.models.vision_transformer.VisionTransformer, "forward_intermediates")
    model = build("timm:vit_tiny_patch16_224", (64, 96), TINY).eval()
    assert (model.feature_kind, model.strides, model.channels) == ("tokens", (16,), (48,))
    with torch.inference_mode():
        image = torch.rand(2, 3, 64, 96)
        torch.testing.assert_close(model.features(image)[0], model.net.forward_features(image)[:, 1:])


def test_building_asks_no_network_and_names_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: pytest.fail("asked the network"))
    row = architecture("timm:resnet10t")
    assert (row.gives, row.sized) == ("features", True)
    assert build("timm:resnet10t", (64, 64)).any_size
    with pytest.raises(UsageError, match="no such model"):
        build("timm:resnet11t", (64, 64))
    with pytest.raises(UsageError, match="depht"):
        build("timm:vit_tiny_patch16_224", (64, 64), {"depht": 3})
    with pytest.raises(UsageError, match="pretrained is no option"):
        build("timm:resnet10t", (64, 64), {"pretrained": True})
    for name in ("hf-hub:../../x", "local-dir:/tmp", "hf-hub:user/name", ""):
        with pytest.raises(UsageError, match="no such model"):
            build(f"timm:{name}", (64, 64))
    for options in ({"embed_dim": 3_000_000}, {"depth": -1}, {"num_heads": 0}, {"mlp_ratio": "x"}, {"in_chans": -1}):
        with pytest.raises(UsageError, match=r"model\.options|cannot build"):
            build("timm:vit_tiny_patch16_224", (64, 64), options)


class Session:
    """A network that is not there."""

    def head(self, url: str, **_: object) -> None:
        raise ConnectionError("no route to host")


def test_weights_that_cannot_be_fetched_are_one_quick_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    start = time.monotonic()
    with pytest.raises(DataError, match="no pretrained weights of vit_tiny_patch16_224") as caught:
        load_weights(build("vit_tiny_patch16_224", (32, 32)), "timm", "vit_tiny_patch16_224")
    assert time.monotonic() - start < 5
    assert caught.value.exit_code == 3
    assert "model.weights: FILE.safetensors" in caught.value.todo
    assert constants.HF_HUB_OFFLINE is False
    with pytest.raises(UsageError, match="no such model"):
        pretrained_state("restorer_s")


def test_where_the_hub_answers_the_weights_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    class Answers:
        def head(self, url: str, **_: object) -> None:
            asked.append(url)

    def create(name: str, pretrained: bool) -> nn.Module:
        asked.append((name, pretrained, constants.HF_HUB_OFFLINE))
        return nn.Linear(2, 2)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_session", Answers)
    monkeypatch.setattr(timm, "create_model", create)
    assert pretrained_state("resnet10t").keys() == {"weight", "bias"}
    assert asked == [constants.ENDPOINT, ("resnet10t", True, False)]


def test_a_hybrid_counts_its_patches_in_pixels() -> None:
    small = {"embed_dim": 48, "depth": 2, "num_heads": 3}
    model, larger = (build("timm:vit_base_r50_s16_384", size, small).eval() for size in ((32, 48), (64, 32)))
    larger.load_state_dict(model.resize_state(model.state_dict(), (64, 32)))
    stages, hooks = (0, 1), (1,)
    assert [(tap.channels, tap.stride, tap.grid) for tap in model.taps(stages, hooks)] == [
        (256, 4, None),
        (512, 8, None),
        (48, 16, (2, 3)),
    ]
    with torch.inference_mode():
        image = torch.randn(1, 3, 32, 48)
        fine, coarse, tokens = model.tapped(image, stages, hooks, norm=True)
        torch.testing.assert_close(tokens, model.net.forward_features(image))
    assert (fine.shape[1:], coarse.shape[1:]) == ((256, 8, 12), (512, 4, 6))
    with pytest.raises(UsageError, match="multiple of the patch size 16"):
        build("timm:vit_base_r50_s16_384", (40, 48), small)
    with pytest.raises(UsageError, match=r"stages \(4,\)|stages \(3,\)"):
        model.taps((3,), hooks)


def test_what_cannot_be_read_inside_says_so() -> None:
    swin = build("timm:swin_tiny_patch4_window7_224", (64, 64), {"embed_dim": 16, "depths": [1] * 4})
    assert swin.block_count == 0
    with pytest.raises(UsageError, match="none to read"):
        swin.taps((), (0,))
    assert [tap.stride for tap in swin.taps((0, 3), ())] == [4, 32]
    plain = build("timm:vit_tiny_patch16_224", (32, 32), TINY)
    with pytest.raises(UsageError, match="none to read"):
        plain.taps((0,), (1,))
