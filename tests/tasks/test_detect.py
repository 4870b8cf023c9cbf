"""The head on every kind of backbone, and the losses against plain loops and torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketvit.errors import UsageError
from pocketvit.models.build import build as build_backbone
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import load_recipe
from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.detect import DetectConfig
from pocketvit.tasks import detect_losses as losses
from pocketvit.tasks.detect import DETECT, PRIOR, Answer, Detector, build

LEVELS = (LevelSpec(name="label", labels=["a", "b", "c"]),)
TINY = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 16}


def model(name: str = "vit_micro_patch16_224", options: dict[str, Any] | None = TINY, **config: Any) -> Detector:
    spec = Preprocess(size=(64, 96), resize="stretch")
    backbone = build_backbone(name, spec.size, options)
    return build(backbone, DetectConfig(head_width=16, **config), LEVELS, spec)


@pytest.mark.parametrize(
    ("name", "options", "cell"),
    [
        ("vit_micro_patch16_224", TINY, 16),
        ("vit_micro_patch16_224", TINY, 8),
        ("vit_micro_patch16_224", TINY, 4),
        ("vit_micro_patch16_224", {**TINY, "pool": "map"}, 8),
        ("vit_micro_patch16_224", {**TINY, "pool": "gap", "patch_size": 8}, 8),
        ("timm:mobilenetv4_conv_small_035", None, 8),
        ("timm:mobilenetv4_conv_small_035", None, 32),
        ("timm:test_vit", None, 8),
    ],
)
def test_it_answers_in_each_cell_on_tokens_and_maps(name: str, options: dict[str, Any] | None, cell: int) -> None:
    torch.manual_seed(0)
    network = model(name, options, cell=cell).eval()
    image = torch.randn(2, 3, 64, 96)
    answer = network(image)
    assert answer.heat.shape == (2, 3, 64 // cell, 96 // cell)
    assert answer.sides.shape == (2, 4, 64 // cell, 96 // cell)
    assert (answer.sides > 0).all()
    assert torch.sigmoid(answer.heat).mean().item() == pytest.approx(PRIOR, rel=0.5)
    outputs = DETECT.graph_output(answer, Preprocess(size=(64, 96)))
    specs = TASKS["detect"].outputs(LEVELS, Preprocess(size=(64, 96)), DetectConfig(cell=cell))
    assert [list(x.shape[1:]) for x in outputs] == [spec.shape[1:] for spec in specs]
    wanted = [p for name, p in network.named_parameters() if not name.startswith("backbone.")]
    target = torch.tensor([[[1, 0.2, 0.2, 0.6, 0.7]], [[-1, -1, -1, -1, -1]]])
    DETECT.loss(network.train()(image), target, DetectConfig(cell=cell), None).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in wanted)


def test_the_place_in_the_answer_is_the_place_in_the_photo() -> None:
    """Only the cells of a changed patch, and their neighbours, change by much in a network without attention."""
    torch.manual_seed(0)
    network = model(options={**TINY, "depth": 1}).eval()
    network.backbone.blocks = torch.nn.ModuleList([torch.nn.Identity()])
    image = torch.zeros(1, 3, 64, 96)
    changed = image.clone()
    changed[..., 16:32, 64:80] = 3.0  # patch row 1, column 4: cells 2 to 3, 8 to 9
    moved = (network(changed).heat - network(image).heat).detach().abs().sum(1)[0]
    assert moved.flatten().argmax().item() in [row * 12 + column for row in (2, 3) for column in (8, 9)]
    assert moved[:, :6].max() < 1e-6


@pytest.mark.parametrize(("width", "blocks"), [(16, 0), (24, 2)])
def test_the_head_is_as_large_as_asked_for(width: int, blocks: int) -> None:
    spec = Preprocess(size=(64, 96), resize="stretch")
    backbone = build_backbone("vit_micro_patch16_224", spec.size, TINY)
    network = build(backbone, DetectConfig(head_width=width, head_blocks=blocks), LEVELS, spec)
    head = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("backbone."))
    outside = 33 * width + width * (4 * width + 1) + (3 + 4) * (width + 1)
    assert head == outside + blocks * 2 * width * (9 * width + 1)


def test_cells_that_do_not_fit_are_refused_with_those_that_do() -> None:
    with pytest.raises(UsageError, match=r"task\.cell 6 does not go with") as error:
        model(cell=6)
    assert "4, 8, 16" in error.value.todo
    with pytest.raises(UsageError, match=r"task\.cell 32 does not go with"):
        model(cell=32)
    with pytest.raises(UsageError, match=r"task\.cell 2 does not go with"):
        model(cell=2)
    backbone = build_backbone("timm:mobilenetv4_conv_small_035", (60, 96), None)
    with pytest.raises(UsageError, match=r"task\.cell 8 does not divide preprocess\.size"):
        build(backbone, DetectConfig(), LEVELS, Preprocess(size=(60, 96)))


def test_targets_are_one_at_centres_and_belong_to_the_smaller_box() -> None:
    boxes = torch.tensor([[[0, 0.0, 0.0, 1.0, 1.0], [2, 0.4, 0.4, 0.7, 0.6], [-1, -1, -1, -1, -1]]])
    made = losses.targets(boxes, 3, (16, 16), 0.54)
    assert made.total == 2
    assert made.heat[0, 0, 8, 8] == made.heat[0, 2, 8, 8] == 1
    assert (made.heat == 1).sum() == 2
    assert made.heat[0, 1].sum() == 0
    assert 0 < made.heat[0, 0, 8, 10] < 1
    assert made.heat[0, 0, 8, 13] == 0  # 0.54 of the box reaches 4 cells far
    torch.testing.assert_close(made.boxes[0, 8, 8], boxes[0, 1, 1:])
    torch.testing.assert_close(made.boxes[0, 5, 8], boxes[0, 0, 1:])
    assert made.weight.sum().item() == pytest.approx(2, abs=1e-5)
    sigma = 0.54 * 16 / 6
    assert made.heat[0, 0, 8, 10].item() == pytest.approx(np.exp(-4 / (2 * sigma**2)), rel=1e-5)


def test_photos_without_boxes_teach_that_there_is_nothing() -> None:
    boxes = torch.full((2, 1, 5), -1.0)
    made = losses.targets(boxes, 3, (4, 4), 0.54)
    assert (made.total, made.heat.sum(), made.weight.sum()) == (0, 0, 0)
    answer = Answer(torch.zeros(2, 3, 4, 4, requires_grad=True), torch.ones(2, 4, 4, 4))
    value = DETECT.loss(answer, boxes, DetectConfig(), None)
    assert value.item() == pytest.approx(2 * 3 * 16 * 0.25 * np.log(2), rel=1e-5)


def test_the_focal_loss_is_centernets() -> None:
    rng = torch.Generator().manual_seed(0)
    logits, wanted = torch.randn(2, 3, 4, 5, generator=rng), torch.rand(2, 3, 4, 5, generator=rng)
    wanted[0, 1, 2, 3] = 1.0
    total = 0.0
    for x, y in zip(torch.sigmoid(logits).double().flatten(), wanted.double().flatten(), strict=True):
        total -= float((1 - x) ** 2 * x.log() if y == 1 else (1 - y) ** 4 * x**2 * (1 - x).log())
    assert losses.focal(logits, wanted).item() == pytest.approx(total, rel=1e-5)


def test_giou_is_torchvisions() -> None:
    ops = pytest.importorskip("torchvision.ops")
    corners = torch.rand(40, 2, 2, generator=torch.Generator().manual_seed(1)).sort(1).values.flatten(1)
    other = corners.roll(1, 0)
    wanted = ops.generalized_box_iou_loss(corners, other)
    torch.testing.assert_close(losses.one_minus_giou(corners, other), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses.one_minus_giou(corners, corners), torch.zeros(40), atol=1e-5, rtol=0)


def test_a_perfect_answer_has_next_to_no_loss_and_each_part_its_weight() -> None:
    boxes = torch.tensor([[[1, 0.25, 0.25, 0.75, 0.625]]])
    made = losses.targets(boxes, 3, (16, 16), 0.54)
    x = ((torch.arange(16) + 0.5) / 16).expand(16, 16)
    sides = torch.stack([x - 0.25, x.T - 0.25, 0.75 - x, 0.625 - x.T])[None]
    logits = torch.where(made.heat == 1, 12.0, -12.0)
    assert DETECT.loss(Answer(logits, sides), boxes, DetectConfig(), None).item() < 1e-4
    worse = Answer(logits, sides * 2)
    one, five = (DETECT.loss(worse, boxes, DetectConfig(box_weight=w), None).item() for w in (1.0, 5.0))
    assert five == pytest.approx(5 * one, rel=1e-3)
    assert one > 0.2


def test_distillation_is_least_where_student_and_teacher_agree() -> None:
    torch.manual_seed(0)
    teacher = Answer(torch.randn(2, 3, 8, 8), torch.rand(2, 4, 8, 8))
    alike = DETECT.distil(teacher, teacher, 2.0)
    other = Answer((teacher.heat + 1).requires_grad_(), teacher.sides * 1.5)
    assert alike.item() == pytest.approx(0, abs=1e-4)
    assert DETECT.distil(other, teacher, 2.0) > 0.05
    coarse = Answer(torch.zeros(2, 3, 4, 4, requires_grad=True), torch.ones(2, 4, 4, 4))
    DETECT.distil(coarse, teacher, 1.0).backward()
    assert coarse.heat.grad is not None


def recipe(**sections: Any) -> Any:
    plain = {"data": {"layout": "coco"}, "task": {"name": "detect"}, "preprocess": {"resize": "stretch"}}
    return load_recipe(None, {key: {**plain.get(key, {}), **sections.get(key, {})} for key in {*plain, *sections}})


def test_recipes_that_cannot_be_trained_are_refused() -> None:
    DETECT.check(recipe())
    for sections, said in (
        ({"train": {"augment": "randaugment"}}, "its boxes would not go with it"),
        ({"preprocess": {"resize": "crop"}}, "detect needs preprocess.resize stretch"),
        ({"data": {"class_names": "x.csv"}}, "layouts name the classes themselves"),
        ({"data": {"protocol": ["nyu"]}}, "scored in one way alone"),
    ):
        with pytest.raises(UsageError, match=said):
            DETECT.check(recipe(**sections))


def test_the_grocery_recipe_is_one() -> None:
    root = Path(__file__).resolve().parents[2]
    DETECT.check(load_recipe(root / "recipes" / "detect_grocery.yaml"))
