"""DPT and Depth Anything against transformers' modules with the same random weights, through files on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pocketvit.models import build, load_weights

transformers = pytest.importorskip("transformers")
FOUR = {"neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 16}
BLOCKS = {"hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 2}
SMALL = {**FOUR, **BLOCKS, "intermediate_size": 128, "backbone_out_indices": [0, 2, 3, 4]}
OURS: dict[str, Any] = {"hooks": [0, 2, 3, 4], "reassemble": [8, 8, 16, 16], "width": 16}
VIT = {"embed_dim": 32, "depth": 5, "num_heads": 2, "mlp_ratio": 4}


def randomised(model: nn.Module) -> nn.Module:
    """Every number counts: weights that keep the scale, biases, factors and positions that are not zero or one."""
    torch.manual_seed(0)
    for name, value in model.named_parameters():
        if value.dim() > 1 and not name.endswith(("token", "embeddings")):
            nn.init.normal_(value, std=float(value[0].numel()) ** -0.5)
        else:
            nn.init.normal_(value, mean=float("weight" in name or "lambda" in name), std=0.3)
    for name, value in model.named_buffers():
        if "running" in name:
            nn.init.uniform_(value, 0.5, 1.5)
    return model.eval()


def dpt(**config: Any) -> nn.Module:
    made = transformers.DPTConfig(**{**SMALL, "layer_norm_eps": 1e-6, **config})
    return randomised(transformers.DPTForDepthEstimation(made))


def anything(**config: Any) -> nn.Module:
    inner = {**BLOCKS, "mlp_ratio": 4, "image_size": 70, "patch_size": 14, "out_indices": [1, 3, 4, 5]}
    inner = transformers.Dinov2Config(**{**inner, "reshape_hidden_states": False, **config.pop("backbone", {})})
    plain = {**FOUR, "reassemble_hidden_size": inner.hidden_size, "head_hidden_size": 8}
    made = transformers.DepthAnythingConfig(backbone_config=inner, **{**plain, **config})
    return randomised(transformers.DepthAnythingForDepthEstimation(made))


def score_of(reference: nn.Module) -> nn.Module:
    """Theirs without its last activation, so that negative scores are compared too."""
    if hasattr(reference.head, "activation2"):
        reference.head.activation2 = nn.Identity()
    else:
        reference.head.head[5] = nn.Identity()
    return reference


def ours(reference: nn.Module, name: str, size: tuple[int, int], folder: Path, options: dict[str, Any]) -> nn.Module:
    """Our network with the weights of a folder that transformers writes."""
    reference.save_pretrained(folder)
    model = build(name, size, options)
    assert load_weights(model, str(folder)) == []
    return model.eval()


def compare(reference: nn.Module, model: nn.Module, size: tuple[int, int], **asked: Any) -> torch.Tensor:
    torch.manual_seed(1)
    image = torch.randn(2, 3, *size)
    with torch.inference_mode():
        expected, found = score_of(reference)(image, **asked).predicted_depth, model(image)
    assert float(expected.std()) > 0.05
    torch.testing.assert_close(found[:, 0], expected, atol=1e-4, rtol=1e-4)
    return found


@pytest.mark.parametrize("read", ["ignore", "add", "project"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_plain_dpt_answers_as_transformers(read: str, batch_norm: bool, tmp_path: Path) -> None:
    reference = dpt(image_size=64, readout_type=read, use_batch_norm_in_fusion_residual=batch_norm)
    options = {**OURS, "backbone_options": VIT, "read": read, "batch_norm": batch_norm}
    model = ours(reference, "dpt_base", (64, 64), tmp_path, options)
    assert compare(reference, model, (64, 64)).shape == (2, 1, 64, 64)


@pytest.mark.parametrize("size", [80, 96, 112])
def test_positions_and_odd_grids_of_a_plain_dpt_follow_transformers(size: int, tmp_path: Path) -> None:
    reference = dpt(image_size=64, add_projection=size == 96, **({"fusion_hidden_size": 256} if size == 96 else {}))
    options = {**OURS, "backbone_options": VIT, "doubling": True, "projection": size == 96}
    options |= {"width": 256} if size == 96 else {}
    model = ours(reference, "dpt_base", (size, size), tmp_path, options)
    compare(reference, model, (size, size))


@pytest.mark.parametrize("size", [(70, 70), (56, 84), (98, 42), (126, 70)])
def test_depth_anything_answers_as_transformers_at_any_size(size: tuple[int, int], tmp_path: Path) -> None:
    reference = anything()
    options = {**OURS, "backbone_options": {**VIT, "patch_size": 14}, "head_width": 8}
    model = ours(reference, "depth_anything_small", size, tmp_path, options)
    assert compare(reference, model, size).shape == (2, 1, *size)


def test_a_dpt_on_dinov2_answers_as_transformers_at_a_size_that_is_not_square(tmp_path: Path) -> None:
    inner = {**BLOCKS, "mlp_ratio": 4, "image_size": 70, "patch_size": 14, "out_indices": [1, 3, 4, 5]}
    more = {"reshape_hidden_states": False, "apply_layernorm": False}
    config = transformers.Dinov2Config(**inner, **more)
    extra = {"use_bias_in_fusion_residual": False, "use_batch_norm_in_fusion_residual": False}
    made = transformers.DPTConfig(**FOUR, **extra, backbone_config=config, backbone_out_indices=None)
    reference = randomised(transformers.DPTForDepthEstimation(made))
    options = {**OURS, "backbone": "vit_small_patch14_dinov2", "backbone_options": {**VIT, "resample": "bicubic"}}
    options |= {"fusion_bias": False, "doubling": True}
    model = ours(reference, "dpt_base", (56, 112), tmp_path, options)
    compare(reference, model, (56, 112))


def hybrid(image: int, **config: Any) -> nn.Module:
    sizes = {"neck_hidden_sizes": [256, 512, 16, 16], "backbone_featmap_shape": [1, 1024, image // 16, image // 16]}
    return dpt(**{**sizes, "is_hybrid": True, "image_size": image, "backbone_out_indices": [0, 1, 2, 4], **config})


def test_a_hybrid_answers_as_transformers(tmp_path: Path) -> None:
    options = {**OURS, "hooks": [2, 4], "reassemble": [256, 512, 16, 16]}
    options["backbone_options"] = {"embed_dim": 32, "depth": 5, "num_heads": 2}
    reference = hybrid(64)
    compare(reference, ours(reference, "dpt_hybrid", (64, 64), tmp_path, options), (64, 64))


def test_the_segmentation_head_answers_as_transformers(tmp_path: Path) -> None:
    made = transformers.DPTConfig(**SMALL, image_size=64, layer_norm_eps=1e-6, num_labels=5)
    reference = randomised(transformers.DPTForSemanticSegmentation(made))
    options = {**OURS, "backbone_options": VIT, "head": "segmentation", "classes": 5}
    model = ours(reference, "dpt_base", (64, 64), tmp_path, options)
    image = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model(image), reference(image).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_depth_anything_small_in_full_answers_as_transformers(tmp_path: Path) -> None:
    reference = full("depth_anything_small")
    model = ours(randomised(reference), "depth_anything_small", (126, 168), tmp_path, {})
    compare(reference, model, (126, 168))


@pytest.mark.slow
def test_dpt_hybrid_in_full_answers_as_transformers(tmp_path: Path) -> None:
    reference = randomised(full("dpt_hybrid"))
    model = ours(reference, "dpt_hybrid", (384, 384), tmp_path, {})
    torch.manual_seed(1)
    image = torch.randn(1, 3, 384, 384)
    with torch.inference_mode():
        expected = score_of(reference)(image).predicted_depth
        torch.testing.assert_close(model(image)[:, 0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "depth", "hooks"), [("dpt_base", 12, (2, 5, 8, 11)), ("dpt_large", 24, (5, 11, 17, 23))]
)
def test_rows_read_the_blocks_that_transformers_reads(
    name: str, depth: int, hooks: tuple[int, ...], tmp_path: Path
) -> None:
    """All of the row but its widths; in full only the number of parameters is compared, below."""
    reference = dpt(image_size=64, num_hidden_layers=depth, backbone_out_indices=list(hooks))
    options = {"backbone_options": {**VIT, "depth": depth}, "reassemble": [8, 8, 16, 16], "width": 16}
    compare(reference, ours(reference, name, (64, 64), tmp_path, options), (64, 64))


def full(name: str) -> nn.Module:
    """transformers' module of a published size."""
    if name == "depth_anything_small":
        more = {"num_attention_heads": 6, "out_indices": [3, 6, 9, 12], "reshape_hidden_states": False}
        inner = transformers.Dinov2Config(hidden_size=384, image_size=518, **more)
        made = transformers.DepthAnythingConfig(backbone_config=inner)
        return transformers.DepthAnythingForDepthEstimation(made)
    sizes: dict[str, Any] = {"image_size": 384, "layer_norm_eps": 1e-6}
    if name == "dpt_large":
        sizes |= {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
        sizes |= {"backbone_out_indices": [5, 11, 17, 23], "neck_hidden_sizes": [256, 512, 1024, 1024]}
    if name == "dpt_hybrid":
        sizes |= {"is_hybrid": True, "neck_hidden_sizes": [256, 512, 768, 768], "backbone_out_indices": [0, 1, 8, 11]}
    return transformers.DPTForDepthEstimation(transformers.DPTConfig(**sizes))


UNUSED = ("mask_token", "dpt.layernorm", "neck.fusion_stage.layers.0.residual_layer1")


@pytest.mark.parametrize(
    ("name", "size", "theirs", "ours"),
    [
        ("dpt_base", 384, 110_878_081, 109_696_385),
        ("dpt_large", 384, 343_030_465, 341_848_257),
        ("dpt_hybrid", 384, 122_377_985, 121_196_289),
        ("depth_anything_small", 518, 24_785_089, 24_710_849),
    ],
)
def test_parameters_are_transformers_but_for_those_that_nothing_is_computed_from(
    name: str, size: int, theirs: int, ours: int
) -> None:
    with torch.device("meta"):
        counts = {key: value.numel() for key, value in full(name).named_parameters()}
    idle = sum(number for key, number in counts.items() if any(part in key for part in UNUSED))
    assert sum(counts.values()) == theirs
    assert theirs - idle == ours
    with torch.device("cpu" if name == "dpt_hybrid" else "meta"):  # timm looks at values
        model = build(name, (size, size))
    assert sum(value.numel() for value in model.parameters()) == ours
