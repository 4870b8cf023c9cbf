from __future__ import annotations

from pathlib import Path

import pytest

from pocketvit.data.collections import Collection, Item, load_collection, load_splits, split_off
from pocketvit.data.quarantine import FILE_NAME, read_list, write_list
from pocketvit.errors import DataError, UsageError
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.recipe import DataConfig
from tests.data.helpers import class_folders, clean_folder, write


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
    assert "58 training and 15 validation images, 5 classes." in str(splits)


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
    assert len(both.train.items) == 13
    assert "3 validation images are also in the training data" in both.notes[0]


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
