"""Retraining inside a step: through the training loop, from where a killed one stood, and towards the teacher."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pocketvit.compress import retrain
from pocketvit.compress.importance import Batches
from pocketvit.compress.retrain import Retraining, digest, retrained
from pocketvit.compress.step import Context
from pocketvit.compress.table import attempts, plan_slots
from pocketvit.errors import UsageError
from pocketvit.interrupts import Interrupted
from pocketvit.models.narrow import find_units, keep_units
from pocketvit.models.trained import Trained, copy_of
from pocketvit.spec.recipe import Recipe
from pocketvit.tasks.load import load_checkpoint
from pocketvit.train.history import read_rows
from pocketvit.train.loop import train_model
from tests.compress.training import answer, given, restoring
from tests.train.test_stopping import AtStep


def narrowed(trained: Trained) -> Trained:
    cut = copy_of(trained)
    for each in find_units(cut.model):
        keep_units(cut.model, each, range(each.count // 2))
    return cut


def distance(one: Trained, other: Trained, context: Context) -> float:
    """KL divergence of the answers to 24 photos."""
    x = torch.cat([images for images, _ in Batches(one, context, 24)])
    with torch.no_grad():
        own, wanted = (F.log_softmax(each.model.eval()(x)[0], 1) for each in (one, other))
    return float(F.kl_div(own, wanted, reduction="batchmean", log_target=True))


def test_the_cut_network_comes_nearer_to_its_teacher_and_nothing_else_changes(
    taught: tuple[Trained, Recipe], tmp_path: Path
) -> None:
    teacher, recipe = taught
    cut = narrowed(teacher)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in cut.model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    before = [answer(each) for each in (teacher, cut)]
    how = Retraining(epochs=4, lr=0.003, distill=("logits", "features"), distill_weight=1.0)
    context = given(recipe, tmp_path)
    found = retrained(cut, teacher, context, how)
    assert distance(found, teacher, context) < 0.5 * distance(cut, teacher, context)
    for each, was in zip((teacher, cut), before, strict=True):
        assert torch.equal(answer(each), was)
    assert found.model.backbone.blocks[0].mlp.fc1.out_features == 64
    assert found.info["retrained"]["epochs"] == 4
    assert not found.model.training
    (folder,) = tmp_path.glob("retrain-*")
    assert len(read_rows(folder / "metrics.csv")) == 4
    assert torch.equal(load_checkpoint(folder / "teacher").model.heads[0].weight, teacher.model.heads[0].weight)


def test_as_a_step_it_makes_the_twin_that_others_are_compared_with(
    taught: tuple[Trained, Recipe], tmp_path: Path
) -> None:
    teacher, recipe = taught
    ((planned,),) = plan_slots([{"retrain": {"epochs": 2, "lr": 0.003}}], "openvino")
    (report,) = attempts(planned, teacher, given(recipe, tmp_path))
    assert isinstance(report.result, Trained)
    assert report.settings["epochs"] == 2
    assert report.result.model.state_dict().keys() == teacher.model.state_dict().keys()
    assert not torch.equal(answer(report.result), answer(teacher))
    assert "no smaller and no faster" in report.told


def test_no_epochs_leave_the_network_as_it_is(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    assert retrained(taught[0], taught[0], Context((), tmp_path), Retraining(epochs=0)) is taught[0]


def test_a_killed_retraining_goes_on_and_a_finished_one_is_found_again(
    taught: tuple[Trained, Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, recipe = taught
    cut, how = narrowed(teacher), Retraining(epochs=2, lr=0.001)
    whole = retrained(cut, teacher, given(recipe, tmp_path / "whole"), how)

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    context = given(recipe, tmp_path / "killed")
    with monkeypatch.context() as patch:
        patch.setattr(retrain, "Reporter", lambda **_: AtStep(4, stop))
        with pytest.raises(Interrupted):
            retrained(cut, teacher, context, how)
    found = retrained(cut, teacher, context, how)
    assert all(torch.equal(x, found.model.state_dict()[key]) for key, x in whole.model.state_dict().items())
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr(retrain, "Reporter", lambda **_: AtStep(1, lambda: steps.append(1)))
        again = retrained(cut, teacher, replace(context, folder=tmp_path / "other", shared=context.folder), how)
    assert steps == []
    assert torch.equal(answer(again), answer(found))


def test_what_decides_names_the_folder(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    teacher, recipe = taught
    context = given(recipe, tmp_path)
    for lr in (0.001, 0.002):
        retrained(teacher, teacher, context, Retraining(epochs=1, lr=lr, distill=()))
    assert len(list(tmp_path.glob("retrain-*"))) == 2
    assert not list(tmp_path.glob("retrain-*/teacher"))
    assert digest(teacher) == digest(copy_of(teacher)) != digest(narrowed(teacher))


def test_by_minutes_the_schedule_ends_in_time(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    teacher, recipe = taught
    found = retrained(teacher, teacher, given(recipe, tmp_path), Retraining(minutes=0.02, lr=1e-4))
    assert found.info["minutes"] < 1
    (folder,) = tmp_path.glob("retrain-*")
    assert read_rows(folder / "metrics.csv")[-1]["lr"] < 1e-4


def test_the_teacher_of_the_first_training_is_not_asked(
    taught: tuple[Trained, Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, recipe = taught
    seen = []

    def spy(trained: Trained, splits: object, recipe: Recipe, folder: Path, **rest: object) -> Trained:
        seen.append(recipe)
        return train_model(trained, splits, recipe, folder, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(retrain, "train_model", spy)
    other = replace(recipe, train=replace(recipe.train, teacher="elsewhere", patience=1, epochs=0))
    retrained(teacher, teacher, given(other, tmp_path), Retraining(epochs=1, lr=1e-4, distill=()))
    assert (seen[0].train.teacher, seen[0].train.patience, seen[0].train.epochs) == (None, None, 1)
    assert seen[0].train.batch_size == recipe.train.batch_size


def test_a_restorer_is_retrained_on_crops(tmp_path: Path) -> None:
    start, recipe = restoring(tmp_path)
    cut = narrowed(start)
    found = retrained(cut, start, given(recipe, tmp_path / "c"), Retraining(epochs=1, lr=1e-3, distill=("attention",)))
    assert found.model.encoder[0][0].conv1.out_channels == 4


def test_without_data_and_with_settings_that_cannot_be(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="given no data"):
        retrained(taught[0], taught[0], Context((), tmp_path), Retraining(epochs=1))
    for wrong in ({"lr": 0.0}, {"epochs": -1}, {"distill": ("label",)}, {"distill_weight": 2.0}, {"minutes": 0.0}):
        with pytest.raises(UsageError, match=r"compress\.steps"):
            Retraining(**wrong)  # type: ignore[arg-type]
