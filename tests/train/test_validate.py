"""The score of training is the score of the exported file: same tiles, same rounding, same evaluator."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pocketvit
from pocketvit.data.cases import eval_cases, main_condition
from pocketvit.data.collections import load_splits
from pocketvit.spec.tasks import task_of
from pocketvit.train.validate import answer, validate

from .helpers import classify_recipe, restore_recipe, write_classes, write_photos
from .test_loop import run


@pytest.mark.parametrize("task", ["restore", "classify"])
def test_validation_scores_as_the_exported_file_does(tmp_path: Path, task: str) -> None:
    data = write_photos(tmp_path / "d", 2) if task == "restore" else write_classes(tmp_path / "d", 6)
    recipe = (restore_recipe if task == "restore" else classify_recipe)(data, **{"train.epochs": 2})
    trained = run(recipe, tmp_path / "run")
    record = task_of(task)
    pocketvit.export(str(tmp_path / "run"), str(tmp_path / "a"), data=str(data), layout=recipe.data.layout)
    model = pocketvit.load(tmp_path / "a")
    ours, theirs = (record.evaluator(trained.levels, main_condition(recipe.data, task)) for _ in range(2))
    cases = list(eval_cases(load_splits(recipe.data, task).val, recipe.data))
    for case in cases:
        theirs.update(model(case.image), case.truth, case.condition)
    exported = {measure.name: measure.value for measure in theirs.metrics()}
    assert validate(trained, cases, ours) == pytest.approx(exported, abs=0.005)
    assert ours.main in exported


def test_photos_are_restored_whole_and_in_tiles_as_the_artifact_does(tmp_path: Path) -> None:
    recipe = restore_recipe(write_photos(tmp_path / "d", 2), **{"train.epochs": 0})
    trained = run(recipe, tmp_path / "run")
    seen: list[tuple[int, ...]] = []
    trained.model.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape)))
    fixed = replace(trained, preprocess=replace(trained.preprocess, multiple=0))
    for model, shape in ((trained, (1, 3, 96, 130)), (fixed, (1, 3, 48, 48))):
        seen.clear()
        (restored,) = answer(model, [np.zeros((96, 130, 3), np.uint8)])
        assert restored.image.shape == (96, 130, 3)
        assert set(seen) == {shape}


def test_the_model_is_left_in_its_mode_and_progress_is_told(tmp_path: Path) -> None:
    recipe = classify_recipe(write_classes(tmp_path / "d", 6), **{"train.epochs": 0, "data.val_share": 0.23})
    trained = run(recipe, tmp_path / "run")
    counts: list[int] = []
    for training in (True, False):
        trained.model.train(training)
        evaluator = task_of("classify").evaluator(trained.levels, "")
        cases = eval_cases(load_splits(recipe.data, "classify").val, recipe.data)
        assert validate(trained, cases, evaluator, counts.append, batch=2)
        assert trained.model.training is training
    assert counts == [2, 2] * 2
