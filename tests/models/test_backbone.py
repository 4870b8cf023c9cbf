"""The contract that every row of every table keeps, from building to the exported file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pocketvit.errors import UsageError
from pocketvit.export.artifact import answers, pixel_model_of
from pocketvit.export.onnx import write
from pocketvit.models import VARIANTS, architecture, build
from pocketvit.models.backbone import AnySize, Backbone, State
from pocketvit.models.layers.attention import MAP_ATTENTION, TOKEN_ATTENTION, ChannelAttention, SelfAttention
from pocketvit.models.trained import Trained, save_checkpoint
from pocketvit.models.variants import Architecture
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import ModelConfig, TrainConfig
from pocketvit.spec.tasks import config_of
from pocketvit.tasks.load import build_task_model, load_checkpoint
from pocketvit.train.schedule import make_optimizer
from tests.models.depth_nets import ADABINS, SMALL
from tests.tiny import photo, run_onnx

SIZE = (32, 48)
VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
RESTORER = {"widths": [8, 12, 16], "window": 4}
HYBRID = {"embed_dim": 32, "depth": 4, "num_heads": 2}
DPT = {"backbone_options": {**HYBRID, "patch_size": 8}, "hooks": [0, 1, 2, 3], "reassemble": [8, 8, 16, 16]}
DPT |= {"width": 16, "head_width": 8}
QUICK: dict[str, dict[str, Any]] = {
    **{name: VIT for name in VARIANTS if name.startswith("vit")},
    **{name: RESTORER for name in VARIANTS if name.startswith("restorer")},
    "dense_ffdnet": {"width": 8, "layers": 2},
    **{name: SMALL for name in VARIANTS if name.startswith("pocketdepth")},
    **{name: ADABINS for name in VARIANTS if name.startswith("adabins")},
    **dict.fromkeys(("dpt_tiny", "dpt_base", "dpt_large", "depth_anything_small"), DPT),
    "dpt_mobilenet": {"width": 16, "head_width": 8},
    "dpt_hybrid": {**DPT, "stages": [0, 1], "hooks": [1, 2], "backbone_options": HYBRID},
}
TASK_OF = {"features": "classify", "image": "restore", "depth": "depth"}
TIMM: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "timm:vit_tiny_patch16_224": ({"embed_dim": 48, "depth": 2, "num_heads": 3}, (160, 96)),
    "timm:resnet10t": ({}, (64, 96)),
    "timm:mobilenetv3_small_050": ({}, (64, 64)),
    "timm:edgenext_xx_small": ({}, (64, 64)),
    "timm:swin_tiny_patch4_window7_224": ({"embed_dim": 16, "depths": [1] * 4, "num_heads": [1, 1, 2, 2]}, (64, 64)),
}
LEVELS = (LevelSpec(name="label", labels=["a", "b", "c"]),)


def trained(name: str, options: dict[str, Any], size: tuple[int, int]) -> Trained:
    """With random weights, for a task that the architecture serves."""
    return trained_as({"name": TASK_OF[architecture(name).gives]}, name, options, size)


def trained_as(task: dict[str, Any], name: str, options: dict[str, Any], size: tuple[int, int]) -> Trained:
    """With random weights, for the task of a recipe's section."""
    torch.manual_seed(0)
    config, levels, spec = config_of(task), LEVELS, Preprocess(size=size)
    if task["name"] == "restore":
        levels, plain = (), {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        spec = Preprocess(size=size, resize="tile", overlap=8, **plain)
    if task["name"] == "depth":
        levels, spec = (), Preprocess(size=size, resize="stretch")
    model = ModelConfig(name, options)
    return Trained(build_task_model(model, config, levels, spec), model, config, levels, spec)


def one_batch(start: Trained, steps: int) -> list[float]:
    """Losses of steps on one batch, in training mode, with the optimiser that training uses."""
    torch.manual_seed(1)
    images = torch.rand(4, 3, *start.preprocess.size)
    optimizer = make_optimizer(start.model.train(), TrainConfig(lr=1e-4))
    losses = []
    for _ in range(steps + 1):
        torch.manual_seed(2)  # the same dropped paths each time
        output = start.model(images)
        if hasattr(output, "depth"):
            loss = (output.depth - 1).square().mean()
        elif isinstance(output, tuple):
            loss = nn.functional.cross_entropy(output[0], torch.tensor([0, 1, 2, 0]))
        else:
            loss = (output - 0.5 * images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def check_declarations(model: Backbone, size: tuple[int, int], gives: str) -> None:
    """What a backbone says of itself is so."""
    assert isinstance(model, Backbone)
    image = torch.rand(2, 3, *size)
    with torch.inference_mode():
        features, answer = model.eval().features(image), model(image)  # type: ignore[attr-defined]
    assert len(features) == len(model.strides) == len(model.channels)
    assert list(model.strides) == sorted(set(model.strides))
    for feature, stride, channels in zip(features, model.strides, model.channels, strict=True):
        grid = (-(-size[0] // stride), -(-size[1] // stride))
        expected = (2, channels, *grid) if model.feature_kind == "maps" else (2, grid[0] * grid[1], channels)
        assert tuple(feature.shape) == expected
    check_answer(model, answer, image, gives)
    if model.any_size:
        other = torch.rand(1, 3, size[0] * 2, size[1] * 2)
        with torch.inference_mode():
            assert model.features(other)[0].shape[2] == 2 * features[0].shape[2]
    own = model.state_dict()  # type: ignore[attr-defined]
    same = model.resize_state(own)
    assert same.keys() == own.keys()
    assert all(torch.equal(same[key], own[key]) for key in own)


def check_answer(model: Backbone, answer: Any, image: torch.Tensor, gives: str) -> None:
    """``forward`` gives what the row says."""
    if gives != "depth":
        assert tuple(answer.shape) == ((2, model.embed_dim) if gives == "features" else image.shape)
        return
    depth, centres = answer if getattr(model, "bins", False) else (answer, None)
    assert depth.shape[:2] == (2, 1)
    assert all(0 < own <= whole for own, whole in zip(depth.shape[2:], image.shape[2:]))
    if centres is not None:
        assert centres.dim() == 2
        assert (centres[:, 1:] >= centres[:, :-1]).all()


def check_files(model: Trained, folder: Path) -> None:
    """Saved and loaded it answers the same; exported, nearly so, and as the eager model does."""
    save_checkpoint(folder, model)
    loaded = load_checkpoint(folder)
    assert loaded.model_spec == model.model_spec
    inputs = [photo(*model.preprocess.size, seed=i) for i in range(2)]
    eager = answers(pixel_model_of(model), inputs)
    for name, value in answers(pixel_model_of(loaded), inputs).items():
        np.testing.assert_array_equal(value, eager[name])
    built = write(pixel_model_of(loaded), loaded.preprocess.size, folder)
    for name, value in run_onnx(built.path, np.stack(inputs)).items():
        np.testing.assert_allclose(value, eager[name], atol=2e-3 * max(1.0, np.abs(eager[name]).max()))


def check_contract(name: str, options: dict[str, Any], size: tuple[int, int], folder: Path) -> None:
    gives = architecture(name).gives
    model = trained(name, options, size)
    backbone = build(name, size, options)
    check_declarations(backbone, size, gives)  # type: ignore[arg-type]
    losses = one_batch(model, 1)
    assert losses[1] < losses[0]
    check_files(model, folder)


def test_every_row_is_in_the_contract() -> None:
    assert QUICK.keys() == VARIANTS.keys()


SLOW = ("dpt_hybrid",)  # its ResNet has one size


@pytest.mark.parametrize("name", [pytest.param(x, marks=[pytest.mark.slow] * (x in SLOW)) for x in VARIANTS])
def test_a_variant_keeps_the_contract(name: str, tmp_path: Path) -> None:
    check_contract(name, QUICK[name], SIZE, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_a_timm_model_keeps_the_contract(name: str, tmp_path: Path) -> None:
    check_contract(name, *TIMM[name], tmp_path)


class MeanColour(AnySize, nn.Module):
    """Four maps of a convolution, pooled."""

    feature_kind, strides, channels, embed_dim = "maps", (4,), (6,), 6

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 4, 4, bias=bias)

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [self.conv(image)]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.features(image)[0].mean(dim=(2, 3))


def test_an_architecture_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "mean_colour", Architecture("features", MeanColour, {"bias": False}))
    check_contract("mean_colour", {}, SIZE, tmp_path / "row")
    check_contract("mean_colour", {"bias": True}, SIZE, tmp_path / "option")
    with pytest.raises(UsageError) as caught:
        build("mean_color", SIZE)
    assert caught.value.todo == "Did you mean mean_colour?"


class Uniform(SelfAttention):
    """All keys alike."""

    def mix(self, q_bhnd: torch.Tensor, k_bhnd: torch.Tensor, v_bhnd: torch.Tensor) -> torch.Tensor:
        return v_bhnd.mean(dim=2, keepdim=True).expand_as(q_bhnd)


def test_an_attention_operator_is_one_class_and_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="attention 'uniform' is unknown"):
        build("vit_micro_patch16_224", SIZE, {**VIT, "attention": "uniform"})
    monkeypatch.setitem(TOKEN_ATTENTION, "uniform", Uniform)
    check_contract("vit_micro_patch16_224", {**VIT, "attention": "uniform"}, SIZE, tmp_path / "tokens")
    monkeypatch.setitem(MAP_ATTENTION, "x", lambda embed_dim, num_heads, window: ChannelAttention(embed_dim, 1))
    check_contract("restorer_xs", {**RESTORER, "bottleneck": "rx"}, SIZE, tmp_path / "maps")


def test_positions_are_resampled_between_sizes_that_are_not_square() -> None:
    small, large = build("vit_micro_patch16_224", (32, 48), VIT), build("vit_micro_patch16_224", (64, 16), VIT)
    state: State = small.resize_state(small.state_dict(), (64, 16))
    large.load_state_dict(state)
    assert torch.equal(large.pos_embed[:, :1], small.pos_embed[:, :1])
    back = large.resize_state(large.state_dict(), (32, 48))
    assert back["pos_embed"].shape == small.pos_embed.shape


def test_a_checkpoint_of_a_timm_model_from_before_the_wrapper_loads(tmp_path: Path) -> None:
    model = trained("timm:resnet10t", {}, (64, 64))
    bare = {key.replace("backbone.net.", "backbone."): value for key, value in model.model.state_dict().items()}
    other = trained("timm:resnet10t", {}, (64, 64))
    nn.init.zeros_(other.model.backbone.net.conv1[0].weight)
    other.model.load_state_dict(bare)
    assert torch.equal(other.model.backbone.net.conv1[0].weight, model.model.backbone.net.conv1[0].weight)
    assert replace(model, model=other.model).task == model.task
