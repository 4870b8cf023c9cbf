"""Kinds of distillation: their values by hand, and a student that comes nearer to its teacher."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pocketvit.data.collections import load_splits
from pocketvit.errors import UsageError
from pocketvit.models.pixels import normalise
from pocketvit.models.trained import Trained, copy_of, save_checkpoint
from pocketvit.spec.images import read_image
from pocketvit.spec.recipe import DISTILL, TrainConfig, load_recipe
from pocketvit.tasks import TORCH_TASKS
from pocketvit.tasks.start import new_model
from pocketvit.train.distil import INNER, attention, common_blocks, features, taught_by
from pocketvit.train.loop import train_model
from tests.models.test_backbone import VIT, trained

from .helpers import classify_recipe, write_classes


def test_the_recipe_knows_the_kinds_of_the_table() -> None:
    assert set(DISTILL) == {"logits", "hard", *INNER}
    assert TrainConfig().distill == ("logits",)
    with pytest.raises(UsageError, match="'logit' is unknown") as caught:
        load_recipe(None, {"train.distill": ["logit"]})
    assert caught.value.todo == "Did you mean logits?"
    with pytest.raises(UsageError, match="unknown"):
        load_recipe(None, {"train.distill": []})
    assert load_recipe(None, {"train.distill": "features"}).train.distill == ("features",)


def test_values_by_hand() -> None:
    other = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    own = torch.tensor([[[3.0, 4.0], [3.0, 0.0]]])
    assert float(features(own, other, -1)) == pytest.approx(9 / 25)
    assert float(features(other, other, -1)) == 0
    # Maps (25, 9) and (25, 0), each over its own length.
    length = (25**2 + 9**2) ** 0.5
    assert float(attention(own, other, -1)) == pytest.approx((25 / length - 1) ** 2 + (9 / length) ** 2)
    assert float(attention(2 * own, own, -1)) == pytest.approx(0, abs=1e-12)
    maps = torch.rand(2, 3, 4, 4)
    assert float(attention(maps, torch.cat([maps, maps], 1), 1)) == pytest.approx(0, abs=1e-12)


def test_blocks_are_matched_by_their_place() -> None:
    one, other = trained("vit_tiny_patch16_224", VIT, (32, 48)), trained("vit_tiny_patch16_224", VIT, (32, 48))
    assert common_blocks(one.model, other.model) == ["backbone.blocks.0", "backbone.blocks.1"]
    other.model.backbone.blocks[0] = torch.nn.Identity()
    assert common_blocks(one.model, other.model) == ["backbone.blocks.1"]


def pair(folder: Path) -> tuple[Trained, Trained]:
    """A teacher and a student with other weights."""
    teacher, student = (trained("vit_tiny_patch16_224", VIT, (32, 48)) for _ in range(2))
    with torch.no_grad():
        for parameter in student.model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    save_checkpoint(folder, teacher)
    return teacher, student


def test_hooks_read_what_both_give_and_are_gone_afterwards(tmp_path: Path) -> None:
    teacher, student = pair(tmp_path)
    x = torch.rand(2, 3, 32, 48)
    with taught_by(teacher, student, TrainConfig(distill=("features",))) as taught:
        loss = taught(student.model(x), teacher.model(x))
        assert float(loss.detach()) > 0
        loss.backward()
        assert student.model.backbone.blocks[0].mlp.fc1.weight.grad.abs().sum() > 0
    with taught_by(teacher, copy_of(teacher), TrainConfig(distill=("features", "attention"))) as taught:
        pass
    assert not any(module._forward_hooks for module in (*student.model.modules(), *teacher.model.modules()))


def test_several_kinds_are_added(tmp_path: Path) -> None:
    teacher, student = pair(tmp_path)
    x, found = torch.rand(2, 3, 32, 48), {}
    for kinds in (*((kind,) for kind in DISTILL), DISTILL):
        with taught_by(teacher, student, TrainConfig(distill=kinds)) as taught:
            found[kinds] = float(taught(student.model(x), teacher.model(x)).detach())
    assert found[DISTILL] == pytest.approx(sum(x for k, x in found.items() if len(k) == 1))


def test_hard_labels_are_the_teachers_decisions_by_hand() -> None:
    output = (torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    teacher = (torch.tensor([[0.1, 0.0], [-9.0, 5.0]]), torch.tensor([[0.0, 3.0, 2.9], [0.0, 0.0, 0.2]]))
    distil = TORCH_TASKS["classify"].distil_hard
    assert distil is not None
    first = (math.log(1 + math.exp(-2)) + math.log(2)) / 2
    second = (math.log(2 / math.e + 1) + math.log(math.e + 2)) / 2
    assert float(distil(output, teacher)) == pytest.approx((first + second) / 2)
    # How sure the teacher is does not matter.
    assert float(distil(output, tuple(9 * x for x in teacher))) == pytest.approx((first + second) / 2)


def test_hard_labels_need_a_task_with_classes(tmp_path: Path) -> None:
    restorer = trained("dense_ffdnet", {"width": 4, "layers": 2}, (32, 48))
    with pytest.raises(UsageError, match="no classes"), taught_by(restorer, restorer, TrainConfig(distill=("hard",))):
        pass


def test_training_with_hard_labels_agrees_with_the_teacher_against_the_labels(tmp_path: Path) -> None:
    recipe = classify_recipe(write_classes(tmp_path / "d"), **{"train.epochs": 4, "train.distill_weight": 1.0})
    splits = load_splits(recipe.data, "classify")
    teacher = train_model(new_model(recipe, splits.train.levels), splits, recipe, tmp_path / "teacher")
    with torch.no_grad():  # it takes one class for another
        for values in teacher.model.heads[0].parameters():
            values.copy_(values[[1, 2, 0]])
    save_checkpoint(tmp_path / "wrong", teacher)
    own = load_recipe(recipe, {"train.teacher": str(tmp_path / "wrong"), "train.distill": ["hard"], "train.seed": 5})
    student = train_model(new_model(own, splits.train.levels), splits, own, tmp_path / "student")
    pixels = torch.stack([torch.from_numpy(read_image(x)) for x in sorted((tmp_path / "d").rglob("*.png"))])
    x = normalise(pixels[:, :32, :32], recipe.preprocess)
    decisions = [each.model.eval()(x)[0].argmax(1) for each in (student, teacher)]
    assert (decisions[0] == decisions[1]).float().mean() > 0.8


def test_a_teacher_of_another_architecture_teaches_answers_alone() -> None:
    student = trained("vit_tiny_patch16_224", VIT, (32, 48))
    other = trained("timm:mobilenetv3_small_050", {}, (64, 64))
    with (
        pytest.raises(UsageError, match="no block in common"),
        taught_by(other, student, TrainConfig(distill=("features",))),
    ):
        pass
    wider = trained("vit_tiny_patch16_224", {**VIT, "embed_dim": 48}, (32, 48))
    x = torch.rand(1, 3, 32, 48)
    with (
        taught_by(wider, student, TrainConfig(distill=("features",))) as taught,
        pytest.raises(UsageError, match="behind a block"),
    ):
        taught(student.model(x), wider.model(x))
    with taught_by(wider, student, TrainConfig(distill=("attention",))) as taught:
        assert float(taught(student.model(x), wider.model(x)).detach()) > 0


def test_training_with_features_brings_the_student_nearer(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "d")
    recipe = classify_recipe(data, **{"train.epochs": 3})
    splits = load_splits(recipe.data, "classify")
    teacher = train_model(new_model(recipe, splits.train.levels), splits, recipe, tmp_path / "teacher")
    fields = {"train.teacher": str(tmp_path / "teacher"), "train.distill": ["features"], "train.distill_weight": 1.0}
    own = load_recipe(recipe, {**fields, "train.seed": 5, "train.epochs": 6})
    start = new_model(own, splits.train.levels)
    x, settings = torch.rand(4, 3, 32, 32), replace(own.train, distill=("features",))

    def distance(student: Trained) -> float:
        with taught_by(teacher, student, settings) as taught, torch.no_grad():
            return float(taught(student.model.eval()(x), teacher.model.eval()(x)))

    before = distance(copy_of(start))
    student = train_model(start, splits, own, tmp_path / "student")
    assert distance(student) < 0.7 * before
