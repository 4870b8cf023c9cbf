from __future__ import annotations

from pathlib import Path

import pytest

from pocketvit.data.begin import begin, init
from pocketvit.data.collections import load_splits
from pocketvit.errors import DataError, UsageError
from pocketvit.spec.recipe import Recipe, load_recipe
from pocketvit.spec.tasks import TASKS
from tests import detect_data
from tests.data.helpers import class_folders, clean_folder, write


def photos(root: Path, kind: str) -> Path:
    if kind == "classes":
        return class_folders(root, {"cat": 4, "dog": 4})
    if kind == "split":
        class_folders(root / "val", {"cat": 2, "dog": 2})
        return class_folders(root / "train", {"cat": 4, "dog": 4}).parent
    if kind in ("coco", "yolo"):
        return {"coco": detect_data.coco, "yolo": detect_data.yolo}[kind](root, 4)
    if kind == "clean":
        return clean_folder(root, 4)
    names = {
        "pairs": ("noisy/{}.png", "clean/{}.png"),
        "names": ("{}_real.png", "{}_mean.png"),
        "sidd": ("Data/{}/NOISY_SRGB_010.PNG", "Data/{}/GT_SRGB_010.PNG"),
        "gopro": ("train/{}/blur/1.png", "train/{}/sharp/1.png"),
    }
    for pattern in names[kind]:
        for k in range(3):
            write(root / pattern.format(k))
    return root


@pytest.mark.parametrize(
    ("kind", "task", "layout"),
    [
        ("classes", "classify", "classes"),
        ("split", "classify", "classes"),
        ("clean", "restore", "clean"),
        ("pairs", "restore", "pairs"),
        ("names", "restore", "pairs"),
        ("sidd", "restore", "sidd"),
        ("gopro", "restore", "gopro"),
        ("coco", "detect", "coco"),
        ("yolo", "detect", "yolo"),
    ],
)
def test_a_folder_becomes_the_recipe_that_its_photos_need(tmp_path: Path, kind: str, task: str, layout: str) -> None:
    root = photos(tmp_path / "my photos", kind)
    source, notes = begin(root, {})
    assert isinstance(source, Recipe)
    assert (source.task.name, source.data.layout, source.name) == (task, layout, "my-photos")
    assert f"data.layout {layout}, task.name {task}" in notes[0]
    assert "weights" in notes[1]
    splits = load_splits(source.data, task)
    assert splits.train.items
    assert splits.val.items
    assert bool(source.data.val) == (kind == "split")
    TASKS[task].check_preprocess(source.preprocess)

    file = tmp_path / "recipes" / "r.yaml"
    file.parent.mkdir()
    report = init(str(root), out=str(file))
    first, *rest = file.read_text().splitlines()
    assert first == f"# {report.command}" == f"# pocketvit fit {file}"
    assert any(line.startswith("# ") for line in rest)
    assert load_recipe(file, {"budget.latency_ms": None}) == source
    before = file.read_bytes()
    with pytest.raises(UsageError, match="is there already"):
        init(str(root), out=str(file))
    assert file.read_bytes() == before


def test_what_is_asked_for_wins_over_what_a_folder_looks_like(tmp_path: Path) -> None:
    root = photos(tmp_path / "in", "classes")
    asked, _ = begin(root, {"data": {"layout": "clean"}})
    assert isinstance(asked, Recipe)
    assert (asked.task.name, asked.data.layout) == ("restore", "clean")
    named, _ = begin(root, {"task.name": "restore", "model": {"name": "restorer_xs"}})
    assert isinstance(named, Recipe)
    assert (named.task.name, named.data.layout, named.model.weights) == ("restore", "clean", None)
    for wrong in ({"data.layout": "zip"}, {"task.name": "sing"}, {"data.layout": "clean", "task.name": "classify"}):
        with pytest.raises(UsageError):
            begin(root, wrong)


def test_files_and_recipes_are_left_alone_and_empty_folders_named(tmp_path: Path) -> None:
    recipe = Recipe()
    assert begin(recipe, {}) == (recipe, ())
    assert begin(tmp_path / "r.yaml", {}) == (tmp_path / "r.yaml", ())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        begin(tmp_path / "empty", {})
    with pytest.raises(UsageError, match="no such folder"):
        init(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("folders", [("Train", "Test"), ("training", "Validation"), ("train",), ("flowers",)])
def test_folders_around_the_classes_are_not_classes(tmp_path: Path, folders: tuple[str, ...]) -> None:
    for folder in folders:
        class_folders(tmp_path / "photos" / folder, {"cat": 2, "dog": 2})
    recipe, _ = begin(tmp_path / "photos", {})
    assert isinstance(recipe, Recipe)
    assert (recipe.data.layout, recipe.data.train) == ("classes", (str(tmp_path / "photos" / folders[0]),))
    assert len(recipe.data.val + recipe.data.test) == len(folders) - 1
    assert recipe.name == ("flowers" if folders == ("flowers",) else "photos")


@pytest.mark.parametrize("name", ["x" * 300, ""])
def test_names_that_no_folder_has_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no such recipe, and no folder"):
        begin(name, {})
    with pytest.raises(UsageError, match="no such folder"):
        init(name)
    with pytest.raises(DataError, match="cannot be written"):
        init(str(clean_folder(tmp_path / "p", 2)), out=str(tmp_path / ("y" * 300)))


def test_a_photo_or_nothing_at_all_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such recipe, and no folder of photos"):
        begin(tmp_path / "photoss", {})
    with pytest.raises(UsageError, match=r"x\.jpg: is a photo, not a recipe") as caught:
        begin(tmp_path / "x.jpg", {})
    assert "folder" in caught.value.todo
