from __future__ import annotations

from pathlib import Path

import pytest

from pocketvit.data.collections import load_collection
from pocketvit.errors import DataError, UsageError
from pocketvit.spec.recipe import DataConfig
from tests.data.helpers import SHARED, class_folders, clean_folder, list_file, needs_shared, write


def pairs_of(root: Path, layout: str, split: str = "train") -> list[tuple[str, str]]:
    found = load_collection([str(root)], DataConfig(train=(str(root),), layout=layout), "restore", split)
    return [(item.path.relative_to(root).as_posix(), item.clean.relative_to(root).as_posix()) for item in found.items]


def test_clean_reads_folders_images_and_plain_lists(tmp_path: Path) -> None:
    clean_folder(tmp_path / "a", 3)
    write(tmp_path / "a" / "deep" / "x.jpg")
    write(tmp_path / "a" / ".hidden" / "y.jpg")
    (tmp_path / "names.txt").write_text("a/photo1.png\na/photo0.png\n")
    data = DataConfig(layout="clean")
    folder = load_collection([str(tmp_path / "a")], data, "restore", "train")
    assert [item.path.name for item in folder.items] == ["x.jpg", "photo0.png", "photo1.png", "photo2.png"]
    assert all(item.clean is None and item.labels == () for item in folder.items)
    joined = load_collection(
        [str(tmp_path / "names.txt"), str(tmp_path / "a" / "photo2.png")], data, "restore", "train"
    )
    assert [item.path.name for item in joined.items] == ["photo1.png", "photo0.png", "photo2.png"]


def test_pairs_in_two_folders_ignore_suffix_and_case(tmp_path: Path) -> None:
    write(tmp_path / "Noisy" / "s1" / "A.png")
    write(tmp_path / "clean" / "s1" / "a.jpg")
    assert pairs_of(tmp_path, "pairs") == [("Noisy/s1/A.png", "clean/s1/a.jpg")]


def test_pairs_by_name_ignore_case(tmp_path: Path) -> None:
    for name in (
        "Cam_1_real.png",
        "cam_1_MEAN.png",
        "b_2_real.jpg",
        "b_2_mean.jpg",
        "flower_blur1.png",
        "flower_sharp1.png",
    ):
        write(tmp_path / name)
    assert sorted(pairs_of(tmp_path, "pairs")) == [
        ("Cam_1_real.png", "cam_1_MEAN.png"),
        ("b_2_real.jpg", "b_2_mean.jpg"),
        ("flower_blur1.png", "flower_sharp1.png"),
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("noisy/a.png", "noisy/b.png", "clean/a.png"), "1 images lack their partner"),
        (("a_real.png", "b_mean.png"), "2 images lack their partner"),
        (("a_real.png", "a_mean.png", "holiday.png"), "not part of a pair"),
        (("a_real.png", "a_real.jpg", "a_mean.png"), "claim the same pair"),
    ],
)
def test_broken_pairs_are_named(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    for name in names:
        write(tmp_path / name)
    with pytest.raises(DataError, match=message) as caught:
        pairs_of(tmp_path, "pairs")
    assert caught.value.exit_code == 3


def test_sidd_counts_scenes_with_both_files_only(tmp_path: Path) -> None:
    for scene, files in {
        "0140_006_IP": ("GT_SRGB_010.PNG", "NOISY_SRGB_010.PNG", "GT_SRGB_011.PNG", "NOISY_SRGB_011.PNG"),
        "0141_006_IP": ("GT_SRGB_010.PNG",),
    }.items():
        for file in files:
            write(tmp_path / "Data" / scene / file)
    for root in (tmp_path, tmp_path / "Data"):
        found = load_collection([str(root)], DataConfig(layout="sidd"), "restore", "train")
        assert [(item.path.name, item.clean.name if item.clean else "") for item in found.items] == [
            ("NOISY_SRGB_010.PNG", "GT_SRGB_010.PNG"),
            ("NOISY_SRGB_011.PNG", "GT_SRGB_011.PNG"),
        ]
        assert found.notes == ("1 scene folders without a pair are left out, first 0141_006_IP.",)
    with pytest.raises(DataError, match="no SIDD scene"):
        pairs_of(clean_folder(tmp_path / "other", 1), "sidd")


def test_gopro_takes_blur_and_the_folder_of_the_split(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for kind in ("blur", "blur_gamma", "sharp"):
            write(tmp_path / part / f"GO_{part}" / kind / "000001.png")
    write(tmp_path / "train" / "GO_gamma" / "blur_gamma" / "000007.png")
    write(tmp_path / "train" / "GO_gamma" / "sharp" / "000007.png")
    assert sorted(pairs_of(tmp_path, "gopro")) == [
        ("train/GO_gamma/blur_gamma/000007.png", "train/GO_gamma/sharp/000007.png"),
        ("train/GO_train/blur/000001.png", "train/GO_train/sharp/000001.png"),
    ]
    assert pairs_of(tmp_path, "gopro", "val") == [("test/GO_test/blur/000001.png", "test/GO_test/sharp/000001.png")]
    assert pairs_of(tmp_path / "test", "gopro") == [("GO_test/blur/000001.png", "GO_test/sharp/000001.png")]


def test_gopro_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no sequence folder"):
        pairs_of(clean_folder(tmp_path / "a", 1), "gopro")
    write(tmp_path / "b" / "seq" / "sharp" / "1.png")
    with pytest.raises(DataError, match="neither blur/ nor blur_gamma/"):
        pairs_of(tmp_path / "b", "gopro")


def test_class_folders_are_flat_or_two_levels(tmp_path: Path) -> None:
    flat = load_collection(
        [str(class_folders(tmp_path / "flat", {"dog": 2, "cat": 3}))], DataConfig(layout="classes"), "classify", "train"
    )
    assert [(level.name, level.labels) for level in flat.levels] == [("label", ["cat", "dog"])]
    assert flat.counts() == {"cat": 3, "dog": 2}
    root = class_folders(tmp_path / "tree", {"Fruit/Apple": 1, "Fruit/other": 1, "Drink/Milk": 1, "Drink/other": 1})
    tree = load_collection([str(root)], DataConfig(layout="classes"), "classify", "train")
    assert [level.name for level in tree.levels] == ["coarse", "fine"]
    assert tree.levels[0].labels == ["Drink", "Fruit"]
    assert tree.levels[1].labels == [
        "Milk",
        "Drink/other",
        "Apple",
        "Fruit/other",
    ]  # a name that occurs twice keeps its folder
    assert tree.levels[1].parents == [0, 0, 1, 1]
    assert [item.labels for item in tree.items] == [(0, 0), (0, 1), (1, 2), (1, 3)]


def test_uneven_depth_is_flat_by_the_first_folder(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"dog": 1, "cat/indoor": 1, "cat/out/door": 1})
    found = load_collection([str(root)], DataConfig(layout="classes"), "classify", "train")
    assert found.counts() == {"cat": 2, "dog": 1}


def test_images_outside_class_folders_are_an_error(tmp_path: Path) -> None:
    write(class_folders(tmp_path, {"dog": 1}) / "stray.png")
    with pytest.raises(DataError, match=r"stray\.png: lies in no class folder"):
        load_collection([str(tmp_path)], DataConfig(layout="classes"), "classify", "train")


def test_list_resolves_paths_and_orders_levels(tmp_path: Path) -> None:
    file = list_file(tmp_path / "set", ["img/a.png, 7, 1", '"img/b.png", 3, 0', "", "img/c.png,10,1"])
    found = load_collection([str(file)], DataConfig(layout="list"), "classify", "train")
    assert [item.path for item in found.items] == [
        tmp_path / "set" / "img" / name for name in ("a.png", "b.png", "c.png")
    ]
    assert [level.name for level in found.levels] == ["coarse", "fine"]
    assert found.levels[1].labels == ["3", "7", "10"]  # ordered as numbers
    assert [item.labels for item in found.items] == [(1, 1), (0, 0), (1, 2)]


def test_list_of_three_levels_is_coarsest_first(tmp_path: Path) -> None:
    file = list_file(tmp_path, ["a.png,0,2,5", "b.png,0,3,6", "c.png,1,4,7"])
    found = load_collection([str(file)], DataConfig(layout="list"), "classify", "train")
    assert [(level.name, level.labels, level.parents) for level in found.levels] == [
        ("level1", ["0", "1"], None),
        ("level2", ["2", "3", "4"], [0, 0, 1]),
        ("level3", ["5", "6", "7"], [0, 1, 2]),
    ]


def test_list_errors_name_file_line_and_count(tmp_path: Path) -> None:
    good = list_file(tmp_path, ["a.png, 1"])
    cases = {
        "a.png, 1, 0\na.png, 2\n": "line 2: 2 columns instead of 3",
        "a.png\n": "line 1: 1 columns",
        "a.png, \n": "line 1",
        "gone1.png, 1\na.png, 1\ngone2.png, 2\n": "2 of 3 files do not exist, first .*gone1.png",
        "\n\n": "the list is empty",
    }
    for text, message in cases.items():
        good.write_text(text)
        with pytest.raises(DataError, match=message):
            load_collection([str(good)], DataConfig(layout="list"), "classify", "train")
    good.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(DataError, match="no text file"):
        load_collection([str(good)], DataConfig(layout="list"), "classify", "train")


@pytest.mark.parametrize("layout", ["clean", "pairs", "sidd", "gopro", "classes", "list"])
def test_missing_roots_are_data_errors(tmp_path: Path, layout: str) -> None:
    task = "classify" if layout in ("classes", "list") else "restore"
    with pytest.raises(DataError, match="nowhere"):
        load_collection([str(tmp_path / "nowhere")], DataConfig(layout=layout), task, "train")


@pytest.mark.parametrize("layout", ["clean", "pairs", "sidd", "gopro", "classes"])
def test_empty_folders_are_data_errors(tmp_path: Path, layout: str) -> None:
    with pytest.raises(DataError):
        load_collection(
            [str(tmp_path)], DataConfig(layout=layout), "classify" if layout == "classes" else "restore", "train"
        )


def test_layout_must_go_with_the_task(tmp_path: Path) -> None:
    clean_folder(tmp_path, 1)
    with pytest.raises(UsageError, match=r"layout clean does not go with task\.name classify"):
        load_collection([str(tmp_path)], DataConfig(layout="clean"), "classify", "train")
    with pytest.raises(UsageError, match=r"layout classes does not go with task\.name restore"):
        load_collection([str(tmp_path)], DataConfig(layout="classes"), "restore", "train")
    with pytest.raises(UsageError, match="nothing to restore"):
        load_collection([str(tmp_path)], DataConfig(layout="clean", noise="none"), "restore", "train")
    with pytest.raises(UsageError, match="unknown task"):
        load_collection([str(tmp_path)], DataConfig(), "dream", "train")


@needs_shared
def test_polyu_pairs_and_yoga_lines() -> None:
    found = load_collection([str(SHARED / "polyu10")], DataConfig(layout="pairs"), "restore", "val")
    assert len(found.items) == 10
    assert all(
        item.path.stem.lower().replace("real", "mean") == item.clean.stem.lower() for item in found.items if item.clean
    )
    with pytest.raises(DataError, match="20994 of 20994 files do not exist"):
        load_collection([str(SHARED / "yoga82" / "yoga_train.txt")], DataConfig(layout="list"), "classify", "train")


@pytest.mark.parametrize("twin", ["noisy/a.jpg", "noisy/A.png", "clean/a.bmp"])
def test_two_files_for_one_side_of_a_pair_are_refused(tmp_path: Path, twin: str) -> None:
    for name in ("noisy/a.png", "clean/a.png", twin):
        write(tmp_path / name)
    with pytest.raises(DataError, match="claim the same pair"):
        pairs_of(tmp_path, "pairs")


@pytest.mark.parametrize("layout", ["pairs", "sidd"])
def test_photos_of_no_pair_are_counted(tmp_path: Path, layout: str) -> None:
    names = {
        "pairs": ("noisy/a.png", "clean/a.png", "other/b.png", "c.png"),
        "sidd": ("s/GT_SRGB_010.PNG", "s/NOISY_SRGB_010.PNG", "s/NOISY_SRGB_011.PNG", "s/GT_SRGB_012.PNG"),
    }
    for name in names[layout]:
        write(tmp_path / name)
    found = load_collection([str(tmp_path)], DataConfig(layout=layout), "restore", "train")
    assert len(found.items) == 1
    assert found.notes[0].startswith("2 ")
    assert "are left out, first" in found.notes[0]


def test_class_folders_without_images_and_names_that_differ_in_case_are_told(tmp_path: Path) -> None:
    class_folders(tmp_path, {"cat": 2, "Cat": 2, "dog": 2})
    (tmp_path / "bird").mkdir()
    (tmp_path / "dog" / "bird.cr2").write_bytes(b"raw")
    found = load_collection([str(tmp_path)], DataConfig(layout="classes"), "classify", "train")
    text = " ".join(found.notes)
    assert "taken as different classes: Cat, cat." in text
    assert f"1 class folders of {tmp_path} without images are left out, first {tmp_path / 'bird'}." in text
    assert "1 file was not looked at: 1 .cr2" in text


def test_two_levels_of_folders_tell_an_empty_one_below(tmp_path: Path) -> None:
    class_folders(tmp_path / "pet", {"cat": 2, "dog": 2})
    (tmp_path / "pet" / "bird").mkdir()
    found = load_collection([str(tmp_path)], DataConfig(layout="classes"), "classify", "train")
    assert [note for note in found.notes if note.endswith(f"first {tmp_path / 'pet' / 'bird'}.")]


def test_a_quotation_mark_that_is_not_closed_is_named_with_its_line(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        write(tmp_path / name)
    (tmp_path / "l.csv").write_text('a.png, cat\nb.png, "dog\nc.png, cat\n')
    with pytest.raises(DataError, match=r"l\.csv, line 2: cannot be read"):
        load_collection([str(tmp_path / "l.csv")], DataConfig(layout="list"), "classify", "train")
