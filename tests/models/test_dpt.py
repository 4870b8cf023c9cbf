"""DPT's knobs: what each changes, what it costs, what is refused; its weights; its files in both engines."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pocketvit.errors import UsageError
from pocketvit.export import onnx, openvino
from pocketvit.export.wrap import PixelModel
from pocketvit.models import build, load_weights
from pocketvit.models.dpt import DPT
from pocketvit.spec.preprocess import Preprocess
from tests.tiny import photo, run_onnx

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
VIT = {"embed_dim": 48, "depth": 6, "num_heads": 3, "patch_size": 8}
SMALL: dict[str, Any] = {"hooks": [1, 2, 3, 4], "reassemble": [8, 8, 16, 16], "width": 16, "head_width": 8}


def as_it_is(score: torch.Tensor, _: Preprocess) -> torch.Tensor:
    return score


def small(size: tuple[int, int] = (32, 48), name: str = "dpt_tiny", **options: Any) -> Any:
    torch.manual_seed(0)
    inner = {**VIT, **options.pop("inner", {})}
    return build(name, size, {**SMALL, "backbone_options": inner, **options}).eval()


def count(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


def answer(model: nn.Module, size: tuple[int, int] = (32, 48)) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.inference_mode():
        return model(torch.randn(2, 3, *size))


def test_blocks_behind_the_last_hook_are_removed_and_change_nothing() -> None:
    whole, short = small(cut=False), small()
    assert (len(whole.encoder.blocks), len(short.encoder.blocks)) == (6, 5)
    short.load_state_dict({key: value for key, value in whole.state_dict().items() if key in short.state_dict()})
    torch.testing.assert_close(answer(short), answer(whole))
    assert not any("encoder.norm" in key for key in short.state_dict())
    assert all(value.grad is not None for value in _after_one_step(short).parameters())


def _after_one_step(model: nn.Module) -> nn.Module:
    model(torch.randn(1, 3, 32, 48)).sum().backward()
    return model


def test_every_parameter_takes_part_in_each_kind_of_network() -> None:
    anything = small((32, 48), "depth_anything_small")
    pyramid = build("dpt_mobilenet", (32, 64), {"width": 16})
    for model in (anything, small(batch_norm=True), small(head="segmentation", classes=3), small(read="add"), pyramid):
        idle = [name for name, value in _after_one_step(model).named_parameters() if value.grad is None]
        assert idle == []


@pytest.mark.parametrize("size", [(32, 48), (64, 24), (40, 40)])
def test_the_score_has_the_size_of_the_image_also_where_grids_are_odd(size: tuple[int, int]) -> None:
    assert answer(small(size), size).shape == (2, 1, *size)
    assert answer(small(size, head="segmentation", classes=4), size).shape == (2, 4, *size)


def test_doubling_changes_only_what_has_odd_grids() -> None:
    even, odd = (64, 96), (40, 56)
    torch.testing.assert_close(answer(small(even, doubling=True), even), answer(small(even), even))
    assert answer(small(odd, doubling=True), odd).shape[-2:] == (64, 64)


def test_the_order_of_work_is_free_where_it_is_said_to_be() -> None:
    torch.manual_seed(0)
    convolution, image = nn.Conv2d(6, 6, 1), torch.randn(2, 6, 5, 7)
    up = nn.Upsample(size=(10, 14), mode="bilinear", align_corners=True)
    torch.testing.assert_close(up(convolution(image)), convolution(up(image)), atol=1e-5, rtol=1e-5)


def test_read_modes_do_what_they_say() -> None:
    ignore, add, project = (small(read=read) for read in ("ignore", "add", "project"))
    tokens = torch.randn(2, 1 + 24, 48)
    other = tokens.clone()
    other[:, 0] += 1
    for model, changes in ((ignore, False), (add, True), (project, True)):
        layer = model.reassemble[0]
        assert torch.equal(layer(tokens), layer(other)) is not changes
    assert ignore.reassemble[0](tokens).shape == (2, 8, 8, 12)
    assert ignore.reassemble[2](tokens).shape == (2, 16, 2, 3)
    layer = add.reassemble[1]
    on_grid = (tokens[:, 1:] + tokens[:, :1]).transpose(1, 2).reshape(2, 48, 4, 6)
    torch.testing.assert_close(layer(tokens), layer.project(on_grid))
    layer = project.reassemble[1]
    weight = torch.cat([layer.read_tokens.weight, layer.read_class.weight], dim=1)
    both = torch.cat([tokens[:, 1:], tokens[:, :1].expand(-1, 24, -1)], dim=2)
    read = nn.functional.gelu(both @ weight.T + layer.read_tokens.bias)
    torch.testing.assert_close(layer(tokens), layer.project(read.transpose(1, 2).reshape(2, 48, 4, 6)))


def test_hooks_give_the_tokens_of_their_blocks() -> None:
    model = small(hooks=[0, 3], reassemble=[8, 16])
    image, seen = torch.randn(1, 3, 32, 48), {}
    for number in (0, 3):
        model.encoder.blocks[number].register_forward_hook(lambda m, i, out, n=number: seen.update({n: out}))
    found = model.encoder.tapped(image, (), (0, 3))
    assert [torch.equal(tokens, seen[n]) for tokens, n in zip(found, (0, 3))] == [True, True]
    assert model.hooked == ["encoder.blocks.0", "encoder.blocks.3"]
    features = model.features(image)
    torch.testing.assert_close(features[0], seen[3][:, 1:].transpose(1, 2).reshape(1, 48, 4, 6))


@pytest.mark.parametrize(
    "options",
    [
        {"width": 8},
        {"read": "ignore"},
        {"reassemble": [4, 4, 8, 8]},
        {"hooks": [0, 1]},
        {"hooks": [0, 1, 2, 3]},
        {"head_width": 4},
        {"inner": {"embed_dim": 24}},
        {"inner": {"mlp_ratio": 2}},
    ],
)
def test_each_knob_for_speed_makes_a_smaller_network(options: dict[str, Any]) -> None:
    if len(options.get("hooks", ())) == 2:
        options = {**options, "reassemble": [8, 16]}
    assert count(small(**options)) < count(small())
    assert answer(small(**options)).shape == (2, 1, 32, 48)


@pytest.mark.parametrize(("patch", "finest"), [(4, 4), (8, 4), (16, 4), (16, 8), (32, 4), (14, 4)])
def test_levels_lie_at_a_quarter_to_a_thirtysecond_whatever_the_patch(patch: int, finest: int) -> None:
    model = small((4 * patch, 6 * patch), inner={"patch_size": patch}, finest=finest)
    image = torch.randn(1, 3, 4 * patch, 6 * patch)
    with torch.inference_mode():
        taps = model.encoder.tapped(image, (), model.hooks)
        heights = [layer(tokens).shape[2] for layer, tokens in zip(model.reassemble, taps)]
    expected = [4 * patch / (finest * 2**level) for level in range(4)]
    assert all(abs(found - wanted) < 1 + 0.15 * wanted for found, wanted in zip(heights, expected)), (heights, expected)


def test_a_decoder_that_starts_at_an_eighth_has_a_third_of_the_work() -> None:
    work = []
    for finest in (4, 8):
        model = small((64, 64), finest=finest, inner={"patch_size": 16})
        with FlopCounterMode(display=False) as counted:
            assert answer(model, (64, 64)).shape == (2, 1, 64, 64)
        every = counted.get_flop_counts()
        work.append(sum(every["DPT.decoder"].values()))
    assert work[1] < work[0] / 3


def test_heads_and_attention_operator_are_options_of_the_backbone() -> None:
    plain = small()
    for inner in ({"num_heads": 2}, {"attention": "linear"}):
        other = small(inner=inner)
        other.load_state_dict(plain.state_dict())
        assert not torch.allclose(answer(other), answer(plain))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"hooks": [1, 2, 3, 6]}, r"hooks \(1, 2, 3, 6\): the backbone has blocks 0 to 5"),
        ({"hooks": [2, 1, 3, 4]}, "each to be named once, in order"),
        ({"hooks": [1, 1, 3, 4]}, "each to be named once, in order"),
        ({"hooks": [-1]}, "model.options.hooks must be at least 0"),
        ({"hooks": []}, "hooks is empty"),
        ({"hooks": [3], "reassemble": [8]}, "make 1 levels"),
        ({"stages": [0]}, "the backbone has none to read"),
        ({"read": "sum"}, "read 'sum' is unknown"),
        ({"head": "boxes"}, "head 'boxes' is unknown"),
        ({"reassemble": [8, 8]}, "2 entries for 4 levels"),
        ({"width": 0}, "model.options.width must be at least 1"),
        ({"cut": "no"}, "model.options.cut must be true or false"),
        ({"inner": {"pool": "gap"}}, "needs a class token"),
        ({"inner": {"depth": 0}}, "model.options.depth must be at least 1"),
        ({"inner": {"num_heads": 5}}, "num_heads"),
        ({"inner": {"resample": "x"}}, "resample 'x' is unknown"),
        ({"inner": {"image_size": 3}}, "image_size"),
        ({"inner": {"embed_dim": 8192, "depth": 12, "num_heads": 64}}, "parameters of vit_tiny"),
        ({"backbone": "vit_tiny_patch16_244"}, "unknown variant 'vit_tiny_patch16_244'"),
        ({"backbone": "timm:resnet11t"}, "no such model"),
    ],
)
def test_what_makes_no_network_is_a_usage_error(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        small(**options)
    assert len(str(caught.value)) < 400


def test_an_encoder_must_be_one_that_can_be_read_inside() -> None:
    with pytest.raises(UsageError, match="a Restorer cannot be read inside"):
        build("dpt_tiny", (32, 48), {"backbone": "restorer_xs"})


def test_without_a_class_token_the_read_is_ignore() -> None:
    assert answer(small(read="ignore", inner={"pool": "gap"})).shape == (2, 1, 32, 48)


def test_what_is_left_open_is_filled_in() -> None:
    model = build("dpt_tiny", (64, 64), {"backbone": "timm:resnet18", "hooks": [], "reassemble": [8, 8, 8, 8]})
    assert (model.stages, model.hooks, model.strides) == ((1, 2, 3, 4), (), (4, 8, 16, 32))
    deep = DPT(backbone=partial(build, "vit_micro_patch16_224"), image_size=(32, 32))
    assert deep.hooks == (0, 2, 3, 5)
    assert [layer.project.out_channels for layer in deep.reassemble] == [12, 24, 48, 96]


PYRAMIDS = ("mobilenetv4_conv_small", "resnet10t", "edgenext_xx_small")


@pytest.mark.parametrize("name", PYRAMIDS)
@pytest.mark.parametrize("size", [(64, 96), (96, 32)])
def test_pyramids_of_timm_keep_the_protocol_where_images_are_not_square(name: str, size: tuple[int, int]) -> None:
    backbone = build(f"timm:{name}", size).eval()
    model = build("dpt_mobilenet", size, {"backbone": f"timm:{name}", "width": 8, "head_width": 4}).eval()
    with torch.inference_mode():
        maps = backbone.features(torch.randn(1, 3, *size))
    for feature, stride, channels in zip(maps, backbone.strides, backbone.channels, strict=True):
        assert tuple(feature.shape) == (1, channels, -(-size[0] // stride), -(-size[1] // stride))
    assert model.any_size
    assert answer(model, size).shape == (2, 1, *size)
    assert answer(model, (70, 100)).shape == (2, 1, 70, 100)  # also where maps are rounded


def test_a_pyramid_is_cut_behind_its_last_map_and_narrowed_on_request() -> None:
    options = {"backbone": "timm:mobilenetv4_conv_small", "stages": [1, 2, 3], "width": 16}
    model, whole = build("dpt_mobilenet", (64, 64), options), timm.create_model("mobilenetv4_conv_small")
    assert count(model.encoder) < 0.3 * count(whole)
    assert model.strides == model.encoder.strides[1:] == (4, 8, 16)
    narrow = build("dpt_mobilenet", (64, 64), {**options, "reassemble": [32, 16, 16]})
    assert [type(layer).__name__ for layer in narrow.reassemble] == ["Identity", "Conv2d", "Conv2d"]
    assert count(narrow) < count(model)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_small_patch14_dinov2"]
)
def test_vits_of_timm_are_read_behind_their_blocks(name: str) -> None:
    patch = 14 if "14" in name else 16
    size, inner = (2 * patch, 3 * patch), {"embed_dim": 48, "depth": 5, "num_heads": 3}
    model = build("dpt_tiny", size, {**SMALL, "backbone": f"timm:{name}", "backbone_options": inner}).eval()
    assert len(model.encoder.net.blocks) == 5
    assert answer(model, size).shape == (2, 1, *size)
    image = torch.randn(1, 3, *size)
    with torch.inference_mode():
        found = model.encoder.tapped(image, (), (1, 4))
        expected = model.encoder.net.forward_intermediates(image, indices=[1, 4], intermediates_only=True)
    prefix = model.encoder.net.num_prefix_tokens
    for tokens, feature in zip(found, expected):
        torch.testing.assert_close(tokens[:, prefix:].transpose(1, 2).reshape(feature.shape), feature)


def test_our_vit_under_a_dpt_answers_as_timms(tmp_path: Path) -> None:
    inner = {"embed_dim": 48, "depth": 5, "num_heads": 3}
    theirs = build("dpt_tiny", (32, 48), {**SMALL, "backbone": "timm:vit_tiny_patch16_224", "backbone_options": inner})
    ours = build("dpt_tiny", (32, 48), {**SMALL, "backbone_options": {**inner, "patch_size": 16}})
    ours.load_state_dict({key.replace("encoder.net.", "encoder."): x for key, x in theirs.state_dict().items()})
    torch.testing.assert_close(answer(ours.eval()), answer(theirs.eval()), atol=1e-4, rtol=1e-4)


def test_a_classifiers_weights_start_the_encoder_and_what_is_behind_the_hooks_is_said(tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = timm.create_model("vit_tiny_patch16_224", embed_dim=48, depth=6, num_heads=3, num_classes=4)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    model = small((32, 64), inner={"patch_size": 16})
    head = model.head.conv1.weight.clone()
    unused = load_weights(model, str(tmp_path / "w.safetensors"))
    assert {name.split(".")[1] for name in unused} == {"blocks", "norm", "head"}
    assert all(name.startswith("encoder.blocks.5.") for name in unused if "blocks" in name)
    assert torch.equal(model.encoder.blocks[4].mlp.fc2.weight, net.blocks[4].mlp.fc2.weight)
    expected = timm.layers.resample_abs_pos_embed(net.pos_embed, (2, 4), (14, 14), num_prefix_tokens=1)
    torch.testing.assert_close(model.encoder.pos_embed, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(model.head.conv1.weight, head)
    mobile = timm.create_model("mobilenetv4_conv_small")
    save_file(mobile.state_dict(), tmp_path / "m.safetensors")
    pyramid = build("dpt_mobilenet", (64, 64), {"width": 8})
    assert all("encoder.net." in name for name in load_weights(pyramid, str(tmp_path / "m.safetensors")))
    assert torch.equal(pyramid.encoder.net.conv_stem.weight, mobile.conv_stem.weight)


@pytest.mark.skipif(not SHARED.exists(), reason="shared data absent")
def test_imagenet_weights_of_vit_tiny_load_into_dpt_tiny() -> None:
    file = SHARED / "weights" / "vit_tiny_patch16_224.safetensors"
    model = build("dpt_tiny", (192, 256), {"hooks": [1, 3, 5, 7]}).eval()
    unused = load_weights(model, str(file))
    blocks = {int(name.split(".")[2]) for name in unused if ".blocks." in name}
    assert blocks == {8, 9, 10, 11}
    reference = build("vit_tiny_patch16_224", (192, 256))
    load_weights(reference, str(file))
    image = torch.randn(1, 3, 192, 256)
    with torch.inference_mode():
        expected = reference.eval().tapped(image, (), (1, 7))
        for tokens, other in zip(model.encoder.tapped(image, (), (1, 7)), expected):
            torch.testing.assert_close(tokens, other)


def test_a_state_goes_to_another_size_and_back() -> None:
    first, second = small((32, 48)), small((64, 40))
    moved = first.resize_state(first.state_dict(), (64, 40))
    second.load_state_dict(moved)
    assert torch.equal(moved["head.conv1.weight"], first.head.conv1.weight)
    assert answer(second, (64, 40)).shape == (2, 1, 64, 40)
    inner = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    hybrids = [
        build(
            "dpt_hybrid", size, {"backbone_options": inner, "hooks": [0, 1], "reassemble": [256, 512, 8, 8], "width": 8}
        )
        for size in ((32, 48), (64, 32))
    ]
    hybrids[1].load_state_dict(hybrids[0].resize_state(hybrids[0].state_dict(), (64, 32)))
    assert answer(hybrids[1].eval(), (64, 32)).shape == (2, 1, 64, 32)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dpt_tiny", {**SMALL, "backbone_options": VIT}),
        ("depth_anything_small", {**SMALL, "backbone_options": {**VIT, "patch_size": 14}}),
        ("dpt_mobilenet", {"width": 8, "head_width": 4}),
    ],
)
def test_onnx_and_openvino_answer_as_the_network_does(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    engine, size = pytest.importorskip("openvino"), (42, 70) if name == "depth_anything_small" else (40, 56)
    torch.manual_seed(0)
    graph = PixelModel(build(name, size, options), Preprocess(size=size), as_it_is, ["score"])
    pixels = photo(*size)[None]
    with torch.inference_mode():
        expected = graph(torch.from_numpy(pixels)).numpy()
    file = onnx.write(graph, size, tmp_path).path
    np.testing.assert_allclose(run_onnx(file, pixels)["score"], expected, atol=1e-4, rtol=1e-4)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = engine.Core().compile_model(openvino.write(graph, size, tmp_path).path, "CPU", exact)
    np.testing.assert_allclose(compiled(pixels)[0], expected, atol=1e-4, rtol=1e-4)
    kinds = {node.op_type for node in __import__("onnx").load(file).graph.node}
    assert not kinds & {"ScatterND", "ScatterElements", "Shape", "If", "Loop", "NonZero"}
