from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import pocketvit
from pocketvit.data.collections import load_splits
from pocketvit.errors import UsageError
from pocketvit.models.trained import Trained, save_checkpoint
from pocketvit.models.variants import VARIANTS
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import ModelConfig
from pocketvit.tasks.load import load_checkpoint
from pocketvit.tasks.start import ask_teacher, load_teacher, new_model
from pocketvit.train import loop
from pocketvit.train.validate import run_batch
from tests.train.helpers import classify_recipe, restore_recipe, write_classes, write_photos

LEVELS = (LevelSpec(name="label", labels=["red", "green", "blue"]),)


def make_teacher(data: Path, folder: Path, **overrides) -> Trained:
    """A classifier with random weights, saved as a checkpoint."""
    recipe = classify_recipe(data, **overrides)
    teacher = new_model(recipe, load_splits(recipe.data, "classify").train.levels)
    for head in teacher.model.heads:
        torch.nn.init.normal_(head.weight)
    save_checkpoint(folder, teacher)
    return teacher


def test_a_teacher_gets_its_own_normalisation(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "d")
    make_teacher(
        data,
        tmp_path / "teacher",
        **{"preprocess.mean": [0.4, 0.3, 0.2], "preprocess.std": [0.2, 0.3, 0.1], "preprocess.color": "BGR"},
    )
    recipe = classify_recipe(data, **{"train.teacher": str(tmp_path / "teacher")})
    teacher = load_teacher(recipe, load_splits(recipe.data, "classify").train.levels)
    assert teacher is not None
    assert not teacher.model.training
    assert not any(p.requires_grad for p in teacher.model.parameters())
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    answer = ask_teacher(teacher, torch.from_numpy(pixels))
    itself = run_batch(load_checkpoint(tmp_path / "teacher"), pixels)
    np.testing.assert_array_equal(torch.softmax(answer[0], dim=1).numpy(), itself[0])
    wrong = run_batch(replace(teacher, preprocess=recipe.preprocess), pixels)
    assert np.abs(wrong[0] - itself[0]).max() > 1e-3


def test_a_teacher_of_another_size_sees_the_pixels_at_its_size(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "d")
    teacher = make_teacher(data, tmp_path / "teacher", **{"preprocess.size": [48, 64]})
    teacher.model.eval()
    pixels = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8))
    x = (pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        wanted = teacher.model(F.interpolate(x, size=(48, 64), mode="bilinear"))
    torch.testing.assert_close(ask_teacher(teacher, pixels), wanted, atol=1e-5, rtol=1e-5)


def test_training_asks_the_teacher_with_pixels_and_learns_from_another_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_classes(tmp_path / "d", per_class=4)
    make_teacher(data, tmp_path / "teacher", **{"preprocess.size": [48, 48], "preprocess.mean": [0.4, 0.3, 0.2]})
    asked = []

    def spy(teacher: Trained, pixels: torch.Tensor):
        asked.append((teacher.preprocess, pixels.dtype, tuple(pixels.shape[1:])))
        return ask_teacher(teacher, pixels)

    monkeypatch.setattr(loop, "ask_teacher", spy)
    recipe = classify_recipe(
        data, **{"train.epochs": 1, "train.teacher": str(tmp_path / "teacher"), "train.distill_weight": 1.0}
    )
    report = pocketvit.train(recipe, name="student", runs=str(tmp_path), quiet=True)
    assert report.info["epochs"] == 1
    expected = Preprocess(size=(48, 48), resize="stretch", mean=(0.4, 0.3, 0.2))
    assert set(asked) == {(expected, torch.uint8, (32, 32, 3))}


def test_a_teacher_with_other_labels_is_refused_before_training(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "d", per_class=4)
    make_teacher(data, tmp_path / "teacher")
    (data / "blue").rename(data / "sky")  # as many classes, another list
    recipe = classify_recipe(data, **{"train.teacher": str(tmp_path / "teacher")})
    with pytest.raises(UsageError, match="other levels or labels"):
        pocketvit.train(recipe, name="student", runs=str(tmp_path / "runs"), quiet=True)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UsageError, match="other levels or labels") as caught:
        load_teacher(recipe, load_splits(recipe.data, "classify").train.levels)
    assert caught.value.exit_code == 2


def test_a_teacher_of_another_task_is_refused(tmp_path: Path) -> None:
    make_teacher(write_classes(tmp_path / "d", per_class=4), tmp_path / "teacher")
    recipe = restore_recipe(write_photos(tmp_path / "photos", count=2), **{"train.teacher": str(tmp_path / "teacher")})
    with pytest.raises(UsageError, match=r"does classify, not task\.name restore"):
        pocketvit.train(recipe, name="student", runs=str(tmp_path / "runs"), quiet=True)
    with pytest.raises(UsageError, match="no checkpoint"):
        new_model(restore_recipe(tmp_path / "photos", **{"train.teacher": str(tmp_path / "nowhere")}), ())


def test_a_restorer_of_one_size_cannot_teach_patches_of_another(tmp_path: Path) -> None:
    name = next(name for name, variant in VARIANTS.items() if variant.sized and variant.gives == "image")
    recipe = restore_recipe(tmp_path, **{"train.teacher": str(tmp_path / "teacher")})
    student = new_model(restore_recipe(tmp_path), ())
    save_checkpoint(tmp_path / "teacher", replace(student, model_spec=ModelConfig(name)))
    with pytest.raises(UsageError, match=r"works at size \(48, 48\), not at data\.patch 32"):
        new_model(recipe, ())


def test_a_recipe_without_a_teacher_has_none(tmp_path: Path) -> None:
    assert load_teacher(restore_recipe(tmp_path), ()) is None


def test_a_variant_must_give_what_the_task_stands_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not do task\.name classify: it gives image") as caught:
        new_model(classify_recipe(tmp_path, **{"model": {"name": "restorer_xs", "options": {}}}), LEVELS)
    assert caught.value.todo == "Choose a variant that gives features."
    with pytest.raises(UsageError, match=r"task\.decoder token is for architectures that give features"):
        new_model(restore_recipe(tmp_path, **{"task.decoder": "token"}), ())


def test_a_head_is_kept_under_its_own_name_or_timms(tmp_path: Path) -> None:
    recipe = classify_recipe(tmp_path)
    first = new_model(recipe, LEVELS)
    assert first.info["start"] == "random weights"
    state = {key.removeprefix("backbone."): value for key, value in first.model.state_dict().items()}
    state["head.weight"], state["head.bias"] = state.pop("heads.0.weight") + 1, state.pop("heads.0.bias")
    save_file(state, tmp_path / "timm.safetensors")
    again = new_model(classify_recipe(tmp_path, **{"model.weights": str(tmp_path / "timm.safetensors")}), LEVELS)
    assert again.info["start"] == "weights of timm.safetensors; heads kept: head"
    assert torch.equal(again.model.heads[0].weight, state["head.weight"])
    assert again.model_spec.weights is None
    other = (LevelSpec(name="label", labels=["a", "b", "c", "d"]),)
    new = new_model(classify_recipe(tmp_path, **{"model.weights": str(tmp_path / "timm.safetensors")}), other)
    assert "new heads (2 tensors of the file not used)" in new.info["start"]
