from __future__ import annotations

import contextlib
import unicodedata
from pathlib import Path

import pytest

from pocketvit.data.collections import load_collection, load_splits
from pocketvit.data.doctor import doctor
from pocketvit.data.labels import level_names, read_class_names
from pocketvit.errors import DataError
from pocketvit.spec.hierarchy import LevelSpec, leaf_paths
from pocketvit.spec.recipe import DataConfig
from tests.data.helpers import SHARED, class_folders, list_file, needs_shared

NAMES = """Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),Iconic
Gala,5,Apple,1,x
Milk-A,0,Milk,0,x
Pink,9,Apple,1,x
"""


def names_file(folder: Path, text: str = NAMES) -> str:
    file = folder / "classes.csv"
    file.write_text(text)
    return str(file)


def test_class_names_are_read_by_position_and_ordered_by_id(tmp_path: Path) -> None:
    known = read_class_names(Path(names_file(tmp_path)))
    assert [(level.name, level.labels, level.parents) for level in known.levels] == [
        ("coarse", ["Milk", "Apple"], None),
        ("fine", ["Milk-A", "Gala", "Pink"], [0, 1, 1]),
    ]
    assert leaf_paths(known.levels).tolist() == [[0, 0], [1, 1], [1, 2]]
    flat = read_class_names(Path(names_file(tmp_path, "b,1\na,0\n")))
    assert [(level.name, level.labels) for level in flat.levels] == [("label", ["a", "b"])]


def test_ids_and_names_in_lists_mean_the_same(tmp_path: Path) -> None:
    file = list_file(tmp_path, ["a.png, 5, 1", "b.png, Milk-A, Milk", "c.png, Pink, 1"])
    found = load_collection(
        [str(file)], DataConfig(layout="list", class_names=names_file(tmp_path)), "classify", "train"
    )
    assert [item.labels for item in found.items] == [(1, 1), (0, 0), (1, 2)]
    assert found.counts() == {"Milk-A": 1, "Gala": 1, "Pink": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Gala,5,Apple,1\nGala,5,Milk,0\n", "line 2: class 'Gala' has two coarse classes"),
        ("Gala,5,Apple,1\nPink,5,Apple,1\n", "line 2: id 5 stands for 'Gala' and 'Pink'"),
        ("Gala,5,Apple,1\nGala,6,Apple,1\n", "fine class 'Gala' has two ids"),
        ("Gala,5,Apple,1\nPink,six,Apple,1\n", "line 2: expected name and number"),
        ("Gala,5,Apple,1\nPink\n", "line 2: expected name and number"),
        ("name,id\n", "holds no class"),
    ],
)
def test_bad_class_names_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_class_names(Path(names_file(tmp_path, text)))


def test_missing_class_names_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_class_names(tmp_path / "none.csv")


@pytest.mark.parametrize("with_names", [False, True])
def test_a_fine_class_with_two_parents_names_the_line(tmp_path: Path, with_names: bool) -> None:
    file = list_file(tmp_path, ["a.png, 5, 1", "b.png, 0, 0", "c.png, 5, 0"])
    with pytest.raises(DataError, match="line 3: fine class '5' lies below"):
        load_collection(
            [str(file)],
            DataConfig(layout="list", class_names=names_file(tmp_path) if with_names else None),
            "classify",
            "train",
        )


def test_unknown_classes_and_other_depths_are_errors(tmp_path: Path) -> None:
    train = list_file(tmp_path, ["a.png, 5, 1", "b.png, 0, 0"])
    unknown = list_file(tmp_path, ["c.png, 77, 1"], "val.txt")
    flat = list_file(tmp_path, ["c.png, 5"], "flat.txt")
    with pytest.raises(DataError, match="line 1: fine class '77' is not among the known classes"):
        load_splits(DataConfig(train=(str(train),), val=(str(unknown),), layout="list"), "classify")
    with pytest.raises(DataError, match="1 levels of labels, but the known classes have 2"):
        load_splits(DataConfig(train=(str(train),), val=(str(flat),), layout="list"), "classify")
    with pytest.raises(DataError, match="line 1: 1 labels where others have 2"):
        load_splits(DataConfig(train=(str(train), str(flat)), layout="list"), "classify")
    with pytest.raises(DataError, match=r"'77' is not among .*classes\.csv"):
        load_collection([str(unknown)], DataConfig(layout="list", class_names=names_file(tmp_path)), "classify", "val")


def test_given_levels_are_matched_by_name(tmp_path: Path) -> None:
    train = load_collection(
        [str(class_folders(tmp_path / "a", {"F/apple": 1, "F/other": 1, "G/other": 1}))],
        DataConfig(layout="classes"),
        "classify",
        "train",
    )
    part = load_collection(
        [str(class_folders(tmp_path / "b", {"G/other": 1, "F/apple": 1}))],
        DataConfig(layout="classes"),
        "classify",
        "val",
        train.levels,
    )
    assert part.levels == train.levels
    assert sorted(item.labels for item in part.items) == [(0, 0), (1, 2)]
    known = read_class_names(Path(names_file(tmp_path)))
    reordered = tuple(
        level.model_copy(
            update={
                "labels": level.labels[::-1],
                "parents": [1 - p for p in level.parents[::-1]] if level.parents else None,
            }
        )
        for level in known.levels
    )
    file = list_file(tmp_path, ["c.png, 5, 1", "d.png, 0, 0"], "val.txt")
    found = load_collection(
        [str(file)], DataConfig(layout="list", class_names=names_file(tmp_path)), "classify", "val", reordered
    )
    assert [item.labels for item in found.items] == [(0, 1), (1, 2)]  # ids through the class list, classes by name


def test_level_names() -> None:
    assert (level_names(1), level_names(2), level_names(3)) == (
        ["label"],
        ["coarse", "fine"],
        ["level1", "level2", "level3"],
    )


@needs_shared
def test_grocery_has_81_fine_in_43_coarse_classes() -> None:
    root = SHARED / "grocery"
    splits = load_splits(
        DataConfig(
            train=(str(root / "train.txt"),),
            val=(str(root / "val.txt"),),
            layout="list",
            class_names=str(root / "classes.csv"),
        ),
        "classify",
    )
    assert (len(splits.train.items), len(splits.val.items)) == (2640, 296)
    assert [len(level.labels) for level in splits.train.levels] == [43, 81]
    assert splits.train.levels[1].labels[0] == "Golden-Delicious"
    assert splits.train.items[0].labels == (0, 0)


@pytest.mark.parametrize("odd", ["--1", "²", "٣", "-", "1" * 5000])
def test_labels_that_look_like_numbers_are_names(tmp_path: Path, odd: str) -> None:
    file = list_file(tmp_path, [f"a.png, {odd}", "b.png, 1", "c.png, 10", "d.png, 2"])
    found = load_collection([str(file)], DataConfig(layout="list"), "classify", "train")
    assert set(found.levels[0].labels) == {odd, "1", "10", "2"}
    (tmp_path / "classes.csv").write_text(f"cat, {odd}\ndog, 1\n")
    with contextlib.suppress(DataError):
        read_class_names(tmp_path / "classes.csv")


def test_composed_and_decomposed_names_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
    root = class_folders(tmp_path / "c", {composed: 2, decomposed: 3, "tea": 1})
    data = DataConfig(layout="classes")
    found = load_collection([str(root)], data, "classify", "train")
    assert found.counts() == {composed: 5, "tea": 1}
    assert doctor(str(root)).classes == {composed: 5, "tea": 1}
    old = (LevelSpec(name="label", labels=[decomposed, "tea"]),)  # of an artifact from before
    again = load_collection([str(root)], data, "classify", "val", old)
    assert again.counts() == {decomposed: 5, "tea": 1}
    (tmp_path / "classes.csv").write_text(f"{decomposed}, 0\ntea, 1\n")
    file = list_file(tmp_path, [f"x.png, {composed}", f"y.png, {decomposed}"])
    data = DataConfig(layout="list", class_names=str(tmp_path / "classes.csv"))
    assert load_collection([str(file)], data, "classify", "train").counts() == {composed: 2, "tea": 0}
