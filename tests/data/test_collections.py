from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pocketvit.data.collections import Collection, Item, load_collection, load_splits, split_off
from pocketvit.data.copies import first_of
from pocketvit.data.quarantine import FILE_NAME, read_list, write_list
from pocketvit.errors import DataError, UsageError
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.recipe import DataConfig
from tests.data.helpers import class_folders, clean_folder, list_file, write


def made(counts: list[int]) -> Collection:
    items = tuple(Item(Path(f"{c}_{i}.png"), None, (c,)) for c, count in enumerate(counts) for i in range(count))
    return Collection(
        "made",
        "classify",
        "classes",
        items,
        (LevelSpec(name="label", labels=[str(c) for c in range(len(counts))]),),
        "train",
    )


def test_split_is_stratified_complete_and_repeatable() -> None:
    whole = made([40, 20, 10, 2, 1])
    splits = split_off(whole, 0.2)
    assert splits.val.counts() == {"0": 8, "1": 4, "2": 2, "3": 1, "4": 0}  # 14.6 images are asked for
    assert splits.train.counts() == {"0": 32, "1": 16, "2": 8, "3": 1, "4": 1}
    assert set(splits.train.items) | set(splits.val.items) == set(whole.items)
    assert not set(splits.train.items) & set(splits.val.items)
    assert split_off(whole, 0.2) == splits
    assert (splits.train.split, splits.val.split) == ("train", "val")
    assert splits.val.items != whole.items[: len(splits.val.items)]  # drawn, not the first ones
    assert "1 classes have no image in val: 4." in splits.notes


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("counts", [[2, 2, 2], [5, 3, 2, 1], [1, 1, 1], [2]])
def test_every_class_with_two_images_keeps_one_in_training(counts: list[int], share: float) -> None:
    splits = split_off(made(counts), share)
    assert len(splits.val.items) >= 1
    assert len(splits.train.items) >= 1
    assert all(splits.train.counts()[str(c)] >= 1 for c, count in enumerate(counts) if count >= 2)


def test_one_image_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be split"):
        load_splits(DataConfig(train=(str(clean_folder(tmp_path / "one", 1)),)), "restore")


def test_val_share_and_named_val(tmp_path: Path) -> None:
    a, b = clean_folder(tmp_path / "a", 10), clean_folder(tmp_path / "b", 3)
    assert len(load_splits(DataConfig(train=(str(a),), val_share=0.3), "restore").val.items) == 3
    named = load_splits(DataConfig(train=(str(a),), val=(str(b),)), "restore")
    assert (len(named.train.items), len(named.val.items), named.notes) == (10, 3, ())
    assert named.val.name.endswith("/b")
    both = load_splits(DataConfig(train=(str(a), str(b)), val=(str(b),)), "restore")
    assert len(both.train.items) == 10
    assert "3 validation images are left out of the training data, first" in both.notes[0]


def files(collection: Collection) -> set[Path]:
    return {item.path.resolve() for item in collection.items}


@pytest.mark.parametrize("roots", [("a", "a"), ("a", "."), (".", "a/../a"), ("a", "list.txt")])
def test_an_image_that_is_found_twice_counts_once_and_stands_in_one_part(
    tmp_path: Path, roots: tuple[str, str]
) -> None:
    a = clean_folder(tmp_path / "a", 10)
    (tmp_path / "list.txt").write_text("a/photo1.png\na/photo1.png\n./a/photo2.png\n")
    splits = load_splits(DataConfig(train=tuple(str(tmp_path / root) for root in roots), val_share=0.5), "restore")
    assert (len(splits.train.items), len(splits.val.items)) == (5, 5)
    assert files(splits.train) | files(splits.val) == {path.resolve() for path in a.iterdir()}
    assert f"{3 if 'list.txt' in roots else 10} repeated images are left out: the first mention counts." in splits.notes


def test_repeated_lines_of_a_list_are_left_out_and_contradictions_said(tmp_path: Path) -> None:
    file = list_file(tmp_path, ["a.png, 1", "b.png, 0", "a.png, 1", "b.png, 1"])
    found = load_collection([str(file)], DataConfig(layout="list"), "classify", "train")
    assert [(item.path.name, item.labels) for item in found.items] == [("a.png", (1,)), ("b.png", (0,))]
    note = "2 repeated images are left out, 1 of them with other labels: the first mention counts."
    assert found.notes == (note,)


def test_validation_below_a_training_folder_is_not_trained_on(tmp_path: Path) -> None:
    clean_folder(tmp_path / "photos" / "a", 4)
    val = clean_folder(tmp_path / "photos" / "val", 3)
    splits = load_splits(DataConfig(train=(str(tmp_path / "photos"),), val=(str(val),)), "restore")
    assert not files(splits.train) & files(splits.val)
    assert (len(splits.train.items), len(splits.val.items)) == (4, 3)
    same = load_splits(DataConfig(train=(str(val),), val=(str(val),)), "restore")
    assert len(same.train.items) == len(same.val.items) == 3
    assert "all training images are also validation images" in same.notes[0]


def test_test_data_is_loaded_and_its_overlap_said(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "c", {"cat": 6, "dog": 6})
    extra = class_folders(tmp_path / "test", {"dog": 2})
    data = DataConfig(train=(str(root),), layout="classes", val_share=0.5)
    assert load_splits(data, "classify").test is None
    clean = load_splits(replace(data, test=(str(extra),)), "classify")
    assert clean.test is not None
    assert (clean.test.split, [item.labels for item in clean.test.items]) == ("test", [(1,), (1,)])  # train's classes
    assert clean.notes == ()
    some = load_splits(replace(data, test=(str(root / "cat"), str(extra)), layout="clean"), "restore")
    assert (len(some.train.items), len(some.val.items), len(some.test.items if some.test else ())) == (3, 3, 8)
    assert some.notes[0].startswith("6 test images are left out of the training data, first ")
    both = load_splits(replace(data, test=(str(root),)), "classify")
    assert both.notes == ("all training images are also test images: the metric says nothing about new ones.",)


def copy(source: Path, target: Path, link: bool = False) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source) if link else shutil.copyfile(source, target)
    return target


@pytest.mark.parametrize("link", [False, True])
def test_the_same_bytes_under_two_names_are_one_image_in_one_part(tmp_path: Path, link: bool) -> None:
    train, val, test = (clean_folder(tmp_path / name, 4) for name in ("train", "val", "test"))
    copy(train / "photo0.png", train / "other" / "copy.png", link)
    copy(val / "photo1.png", train / "from_val.png", link)
    copy(test / "photo1.png", train / "from_test.png", link)
    copy(test / "photo2.png", val / "from_test.png", link)
    splits = load_splits(DataConfig(train=(str(train),), val=(str(val),), test=(str(test),)), "restore")
    assert splits.test is not None
    assert [len(part.items) for part in (splits.train, splits.val, splits.test)] == [4, 4, 4]
    bytes_of = [{item.path.read_bytes() for item in part.items} for part in (splits.train, splits.val, splits.test)]
    assert len(set.union(*bytes_of)) == 12
    assert [note.partition(",")[0] for note in splits.notes] == [
        "1 repeated images are left out: the first mention counts.",
        "1 test images are left out of the training data",
        "1 validation images are left out of the training data",
        "1 test images are left out of the validation data",
    ]


def test_a_copy_in_another_class_is_said_to_contradict(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "c", {"cat": 2, "dog": 2})
    copy(root / "cat" / "0.png", root / "dog" / "again.png")
    found = load_collection([str(root)], DataConfig(layout="classes"), "classify", "train")
    assert found.counts() == {"cat": 2, "dog": 2}
    assert found.notes == ("1 repeated images are left out, 1 of them with other labels: the first mention counts.",)


def test_files_of_one_size_are_told_apart_wherever_they_differ(tmp_path: Path) -> None:
    contents = [bytes(20_000)] * 5
    contents[1] = b"x" + contents[1][1:]
    contents[2] = contents[2][:10_000] + b"x" + contents[2][10_001:]
    contents[3] = b""
    paths = [tmp_path / str(k) for k in range(6)]
    for path, content in zip(paths, [*contents, b""], strict=True):
        path.write_bytes(content)
    missing = tmp_path / "missing"
    assert first_of([*paths, missing]) == {path: paths[0] if path.name == "4" else path for path in [*paths, missing]}


def test_no_training_data_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"data\.train names no data") as caught:
        load_splits(DataConfig(), "restore")
    assert caught.value.exit_code == 2


def test_names_leave_out_folders_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean_folder(tmp_path / "set" / "v1.2", 1)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert load_collection(["../set/v1.2"], DataConfig(), "restore", "train").name == "set/v1.2"
    assert load_collection(["../set/v1.2/", "../set"], DataConfig(), "restore", "train").name == "set/v1.2+set"


def test_quarantined_files_are_left_out_from_above_and_below(tmp_path: Path) -> None:
    clean_folder(tmp_path / "set" / "train", 4)
    write_list(tmp_path / "set", [tmp_path / "set" / "train" / "photo1.png"])
    write_list(tmp_path / "set" / "train", [tmp_path / "set" / "train" / "photo2.png"])
    for root in (tmp_path / "set", tmp_path / "set" / "train"):
        found = load_collection([str(root)], DataConfig(), "restore", "train")
        assert [item.path.name for item in found.items] == ["photo0.png", "photo3.png"]
        assert found.notes == ("2 quarantined images are left out.",)


def test_a_quarantined_clean_image_takes_its_pair_along(tmp_path: Path) -> None:
    for name in ("noisy/a.png", "noisy/b.png", "clean/a.png", "clean/b.png"):
        write(tmp_path / name)
    write_list(tmp_path, [tmp_path / "clean" / "a.png"])
    found = load_collection([str(tmp_path)], DataConfig(layout="pairs"), "restore", "train")
    assert [item.path.name for item in found.items] == ["b.png"]


def test_quarantining_everything_is_an_error(tmp_path: Path) -> None:
    write_list(class_folders(tmp_path, {"a": 1}), [tmp_path / "a" / "0.png"])
    with pytest.raises(DataError, match="no usable images are left"):
        load_collection([str(tmp_path)], DataConfig(layout="classes"), "classify", "train")


def test_quarantine_lists_grow_and_skip_comments(tmp_path: Path) -> None:
    write_list(tmp_path, [tmp_path / "b.png"])
    file = write_list(tmp_path, [tmp_path / "a b.png", tmp_path.parent / "outside.png"])
    assert file.name == FILE_NAME
    assert file.read_text().splitlines() == [
        "# Files that pocketvit leaves out; delete a line to use the file again.",
        "../outside.png",
        "a b.png",
        "b.png",
    ]
    assert read_list(file) == [
        (tmp_path.parent / "outside.png").resolve(),
        (tmp_path / "a b.png").resolve(),
        (tmp_path / "b.png").resolve(),
    ]
    file.write_bytes(b"\xff\xfe\xd8")
    with pytest.raises(DataError, match="cannot be read"):
        read_list(file)
