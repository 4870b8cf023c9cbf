"""A classifier's weights by the names of torchvision start our ViTs: as classifiers and as restorers."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models import VisionTransformer

from pocketvit.errors import DataError
from pocketvit.models import build, load_weights
from pocketvit.models.names import to_timm_names
from pocketvit.spec.manifest import LevelSpec
from pocketvit.tasks.start import new_model
from tests.train.helpers import classify_recipe, restore_recipe

OPTIONS = {"embed_dim": 48, "depth": 2, "num_heads": 3, "patch_size": 8}


@pytest.fixture
def reference(tmp_path: Path) -> VisionTransformer:
    """torchvision's ViT with random numbers everywhere; its state is in ``w.safetensors``."""
    torch.manual_seed(0)
    net = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=3, hidden_dim=48, mlp_dim=192, num_classes=3
    )
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    return net.eval()


@pytest.mark.parametrize("name", ["vit_micro_patch16_224", "timm:vit_tiny_patch16_224"])
def test_logits_equal_torchvisions(name: str, reference: VisionTransformer, tmp_path: Path) -> None:
    weights = str(tmp_path / "w.safetensors")
    recipe = classify_recipe(tmp_path, **{"model": {"name": name, "options": OPTIONS, "weights": weights}})
    ours = new_model(recipe, (LevelSpec(name="label", labels=["a", "b", "c"]),))
    assert ours.info["start"] == "weights of w.safetensors; heads kept: head"
    image = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours.model.eval()(image)[0], reference(image), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("decoder", ["token", "global"])
def test_a_restorer_starts_with_a_classifiers_encoder_and_a_decoder_of_its_own(
    decoder: str, reference: VisionTransformer, tmp_path: Path
) -> None:
    options = {**OPTIONS, "decoder": decoder, "final_norm": True}
    model = {"name": "vit_restorer_base_global", "options": options, "weights": str(tmp_path / "w.safetensors")}
    recipe = restore_recipe(tmp_path, **{"model": model, "preprocess.size": [32, 32]})
    ours = new_model(recipe, ()).model.eval()
    image = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        patches = reference._process_input(image)
        tokens = reference.encoder(torch.cat([reference.class_token.expand(2, -1, -1), patches], dim=1))
        own = ours.vit.tokens(image)
        if decoder == "global":
            torch.testing.assert_close(own, tokens, atol=1e-4, rtol=1e-4)
            pixels = ours.decoder_proj(ours.decoder_norm(tokens[:, 0]))
            torch.testing.assert_close(ours(image), pixels.view(2, 3, 32, 32), atol=1e-4, rtol=1e-4)
        else:  # it has no class token, and restores nothing before it is trained
            assert own.shape == (2, 16, 48)
            torch.testing.assert_close(ours.vit.pos_embed, reference.encoder.pos_embedding[:, 1:])
            assert torch.equal(ours(image), image)


def test_a_restorer_of_another_size_resamples_a_classifiers_positions(tmp_path: Path) -> None:
    net = timm.create_model("vit_tiny_patch16_224", embed_dim=48, depth=2, num_heads=3)
    save_file(net.state_dict(), tmp_path / "timm.safetensors")
    options = {**OPTIONS, "patch_size": 16}
    ours = build("vit_restorer_base_global", (64, 32), options)
    unused = load_weights(ours, str(tmp_path / "timm.safetensors"))
    assert sorted(unused) == ["vit.head.bias", "vit.head.weight", "vit.norm.bias", "vit.norm.weight"]
    expected = timm.layers.resample_abs_pos_embed(net.pos_embed, (4, 2), (14, 14), num_prefix_tokens=1)
    torch.testing.assert_close(ours.vit.pos_embed, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(ours.vit.blocks[1].mlp.fc2.weight, net.blocks[1].mlp.fc2.weight)


def test_the_first_published_names_of_the_mlp_are_known_and_other_states_stay() -> None:
    layer = "encoder.layers.encoder_layer_{}.mlp.linear_{}.weight"
    one, two = torch.zeros(1), torch.zeros(2)
    found = to_timm_names({layer.format(0, 1): one, layer.format(11, 2): two})
    assert found == {"blocks.0.mlp.fc1.weight": one, "blocks.11.mlp.fc2.weight": two}
    other = {"encoder.ln.weight": one, "blocks.0.norm1.weight": two}
    assert to_timm_names(other) is other


def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path: Path, reference: VisionTransformer) -> None:
    torch.save(reference.state_dict(), tmp_path / "vit_b_16.pth")
    with pytest.raises(DataError, match="is a pickle") as caught:
        load_weights(build("vit_micro_patch16_224", (32, 32)), str(tmp_path / "vit_b_16.pth"))
    program = caught.value.todo.partition(": ")[2].replace("'vit_b_16", f"'{tmp_path}/vit_b_16")
    exec(program, {})
    ours = build("vit_micro_patch16_224", (32, 32), OPTIONS)
    assert sorted(load_weights(ours, str(tmp_path / "vit_b_16.safetensors"))) == ["head.bias", "head.weight"]


def test_pretrained_weights_of_another_name_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked, real = [], timm.create_model

    def offline(name: str, pretrained: bool = False) -> torch.nn.Module:
        asked.append((name, pretrained))
        return real(name, embed_dim=48, depth=2, num_heads=3)

    monkeypatch.setattr(timm, "create_model", offline)
    options = {**OPTIONS, "patch_size": 16}
    model = {"name": "vit_restorer_tiny", "options": options, "weights": "timm:vit_tiny_patch16_224"}
    started = new_model(restore_recipe(tmp_path, **{"model": model, "data.patch": 48}), ())
    assert asked == [("vit_tiny_patch16_224", True)]
    assert "weights of timm:vit_tiny_patch16_224" in started.info["start"]
