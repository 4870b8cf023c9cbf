from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from pocketvit.errors import DataError, UsageError
from pocketvit.spec.recipe import Recipe, load_recipe
from pocketvit.train.runs import finish_run, open_run


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe(None, {"train.epochs": 3, "train.seed": 5, "budget.latency_ms": 10})


def checkpoint_in(folder: Path) -> None:
    (folder / "last").mkdir()
    (folder / "last" / "model.safetensors").write_bytes(b"weights")


def test_a_new_run_holds_recipe_and_environment(tmp_path: Path, recipe: Recipe) -> None:
    folder = open_run(recipe, "first", str(tmp_path / "runs"))
    assert folder == tmp_path / "runs" / "first"
    assert load_recipe(folder / "recipe.yaml") == recipe
    assert json.loads((folder / "environment.json").read_text())["seed"] == 5
    assert sorted(p.name for p in folder.iterdir()) == ["environment.json", "recipe.yaml", "run.log"]
    assert open_run(recipe, "first", str(tmp_path / "runs")) == folder


def test_the_recipe_comes_last(tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the recipe stands, a folder counts as not begun and is begun again, with any recipe."""
    written: list[str] = []
    real = os.replace

    def record(source: Path, target: Path) -> None:
        written.append(Path(target).name)
        real(source, target)

    monkeypatch.setattr(os, "replace", record)
    folder = open_run(recipe, "r", str(tmp_path))
    finish_run(folder, {"psnr": 30.0})
    assert written == ["environment.json", "recipe.yaml", "finished.json"]
    (folder / "finished.json").unlink()
    (folder / "recipe.yaml").unlink()
    (folder / ".recipe.yaml.partial").write_text("train: {ep")
    other = load_recipe(recipe, {"train.epochs": 9})
    assert load_recipe(open_run(other, "r", str(tmp_path)) / "recipe.yaml") == other


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "/a", "../a", "a\\b", "a\0b"])
def test_a_run_name_is_one_plain_folder_name(tmp_path: Path, recipe: Recipe, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a run") as caught:
        open_run(recipe, name, str(tmp_path / "runs"))
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_names_and_places_that_cannot_be_written(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        open_run(recipe, "r", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot be written"):
        open_run(recipe, "x" * 400, str(tmp_path))
    with pytest.raises(DataError, match="cannot be written"):
        finish_run(tmp_path / "file" / "gone", {})


def test_a_finished_run_is_not_entered(tmp_path: Path, recipe: Recipe) -> None:
    folder = open_run(recipe, "r", str(tmp_path))
    finish_run(folder, {"psnr": 30.0})
    assert json.loads((folder / "finished.json").read_text()) == {"psnr": 30.0}
    with pytest.raises(UsageError, match="is finished"):
        open_run(recipe, "r", str(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        {"budget.latency_ms": 20},
        {"budget.size_mb": 3},
        {"floor.value": 29.0},
        {"floor.metric": "psnr"},
        {"licence_data": "CC0"},
        {"name": "better-name"},
    ],
)
def test_what_judges_and_labels_may_change(tmp_path: Path, recipe: Recipe, change: dict[str, object]) -> None:
    folder = open_run(recipe, "r", str(tmp_path))
    changed = load_recipe(recipe, change)
    assert open_run(changed, "r", str(tmp_path)) == folder
    assert load_recipe(folder / "recipe.yaml") == changed
    assert not [p for p in folder.iterdir() if "partial" in p.name]


@pytest.mark.parametrize(
    "change",
    [
        {"train.lr": 1.0},
        {"data.patch": 32},
        {"model.name": "restorer_s"},
        {"search.trials": 1},
        {"target.threads": 1},
        {"compress.steps": []},
    ],
)
def test_what_changes_the_training_is_refused(tmp_path: Path, recipe: Recipe, change: dict[str, object]) -> None:
    folder = open_run(recipe, "r", str(tmp_path))
    checkpoint_in(folder)
    before = yaml.safe_load((folder / "recipe.yaml").read_text())
    with pytest.raises(UsageError, match=next(iter(change)).replace(".", r"\.")):
        open_run(load_recipe(recipe, change | {"budget.latency_ms": 20}), "r", str(tmp_path))
    assert yaml.safe_load((folder / "recipe.yaml").read_text()) == before


def test_what_kills_have_left_is_gone_when_the_run_has_finished(tmp_path: Path, recipe: Recipe) -> None:
    folder = open_run(recipe, "r", str(tmp_path))
    for name in ("..artifact.candidate.1c9ntfr2", "trials/a/.best.x1y2z3_4", "trials/a/best", ".ipynb_checkpoints"):
        (folder / name).mkdir(parents=True)
        (folder / name / "half").write_text("x")
    (folder / "trials" / ".state.partial.pt").write_text("x")
    finish_run(folder, {})
    left = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert left == {
        "recipe.yaml",
        "environment.json",
        "run.log",
        "finished.json",
        "trials",
        "trials/a",
        "trials/a/best",
    } | {*("trials/a/best/half", ".ipynb_checkpoints", ".ipynb_checkpoints/half")}


def test_a_finished_run_says_what_is_different_now(tmp_path: Path, recipe: Recipe) -> None:
    folder = open_run(recipe, "r", str(tmp_path))
    finish_run(folder, {})
    with pytest.raises(UsageError, match=r"r is finished[.]") as caught:
        open_run(recipe, "r", str(tmp_path))
    assert "delete the folder" in caught.value.todo
    with pytest.raises(UsageError, match=r"is finished with another recipe \(train\.epochs: "):
        open_run(load_recipe(recipe, {"train.epochs": 77}), "r", str(tmp_path))
