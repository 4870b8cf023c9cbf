from __future__ import annotations

from pathlib import Path

import pytest

from pocketvit.errors import DataError, UsageError
from pocketvit.spec.overrides import resolve_recipe
from pocketvit.spec.recipe import DataConfig


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe beside its data, and another folder to stand in."""
    for folder in ("there/in", "there/val", "here"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "there" / "w.safetensors").touch()
    (tmp_path / "there" / "c.csv").touch()
    monkeypatch.chdir(tmp_path / "here")
    file = tmp_path / "there" / "r.yaml"
    file.write_text(
        "data: {train: [in], val: val, layout: list, class_names: c.csv}\nmodel: {weights: w.safetensors}\n"
    )
    return file


def test_paths_are_tried_in_the_current_folder_and_then_beside_the_recipe(recipe: Path) -> None:
    there, here = recipe.parent, Path.cwd()
    found = resolve_recipe(recipe, None, {}).recipe
    assert found.data.train == (str(there / "in"),)
    assert found.data.val == (str(there / "val"),)
    assert found.data.class_names == str(there / "c.csv")
    assert found.model.weights == str(there / "w.safetensors")
    (here / "in").mkdir()
    assert resolve_recipe(recipe, None, {}).recipe.data.train == ("in",)


def test_where_neither_is_there_both_places_are_named(recipe: Path) -> None:
    (recipe.parent / "val").rmdir()
    with pytest.raises(DataError, match=r"data\.val: 'val'") as caught:
        resolve_recipe(recipe, None, {})
    assert str(Path.cwd()) in caught.value.what
    assert str(recipe.parent) in caught.value.what
    assert resolve_recipe(recipe, None, {"data.val": []}).recipe.data.val == ()
    with pytest.raises(DataError, match="no such file or folder"):
        resolve_recipe(recipe, None, {"data.val": ["/nowhere/" + "x" * 3000]})


def test_paths_on_the_command_line_are_relative_to_the_current_folder_alone(recipe: Path) -> None:
    with pytest.raises(DataError, match=r"data\.train: 'val'"):
        resolve_recipe(recipe, None, {"data": {"train": ["val"]}})
    (Path.cwd() / "val").mkdir()
    assert resolve_recipe(recipe, None, {"data": {"train": ["val"]}}).recipe.data.train == ("val",)


@pytest.mark.parametrize("given", [{"data.layout": "classes"}, {"data": {"layout": "classes"}}])
def test_another_layout_leaves_out_what_only_the_recipes_layout_reads(recipe: Path, given: dict[str, object]) -> None:
    found = resolve_recipe(recipe, None, given)
    assert found.recipe.data.class_names is None
    assert found.notes == ("data.class_names of the recipe is left out: data.layout 'classes' has no use for it.",)
    assert resolve_recipe(recipe, None, {"data.layout": "list"}).notes == ()
    kept = resolve_recipe(recipe, None, {**given, "data.class_names": str(recipe.parent / "c.csv")})
    assert kept.recipe.data.class_names == str(recipe.parent / "c.csv")
    assert kept.notes == ()
    whole = DataConfig(train=(str(recipe.parent),), layout="classes")
    assert resolve_recipe(recipe, None, {"data": whole}).recipe.data.class_names is None


def test_the_licence_of_other_data_is_left_out(recipe: Path) -> None:
    recipe.write_text(recipe.read_text() + "licence_data: CC0\n")
    assert resolve_recipe(recipe, None, {}).recipe.licence_data == "CC0"
    mine = {"data.train": [str(recipe.parent / "in")]}
    found = resolve_recipe(recipe, None, mine)
    assert found.recipe.licence_data == "not stated"
    assert len(found.notes) == 1
    assert found.notes[0].startswith("licence_data of the recipe is left out")
    assert resolve_recipe(recipe, None, mine | {"licence_data": "mine"}).recipe.licence_data == "mine"


@pytest.mark.parametrize("key", ["train", "val", "test"])
def test_an_empty_path_is_not_the_current_folder(recipe: Path, key: str) -> None:
    with pytest.raises(UsageError, match=rf"data\.{key} must name no empty path"):
        resolve_recipe(recipe, None, {f"data.{key}": [" "]})
