"""COCO, YOLO and KITTI's objects: the same boxes from each, and what is wrong with files, by file and line."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pocketvit.data.box_labels import encode
from pocketvit.data.box_layouts import has_coco, has_yolo, read_coco, read_kitti_objects, read_yolo
from pocketvit.data.collections import load_collection, load_splits
from pocketvit.data.decode import read_item
from pocketvit.data.fingerprint import differences, fingerprint
from pocketvit.errors import DataError, UsageError
from pocketvit.spec.images import size_of
from pocketvit.spec.recipe import DataConfig
from tests import detect_data

KITTI = Path(__file__).resolve().parents[3] / "shared" / "data" / "kitti"


@pytest.mark.parametrize(
    ("make", "layout", "names"),
    [
        (detect_data.coco, "coco", ["red", "blue"]),
        (detect_data.yolo, "yolo", ["red", "blue"]),
        (detect_data.kitti, "kitti-objects", ["Car", "Pedestrian", "Cyclist"]),
    ],
)
def test_every_layout_gives_the_boxes_that_were_written(
    make: Callable[..., Path], layout: str, names: list[str], tmp_path: Path
) -> None:
    root = make(tmp_path / "d", 4)
    found = load_collection([str(root)], DataConfig(layout=layout), "detect", "train")
    assert found.levels[0].labels == names
    for seed, item in enumerate(found.items):
        photo, rows = detect_data.scene(seed)
        image, truth = read_item(found, item)
        np.testing.assert_array_equal(image, photo)
        kinds = {0: 0, 1: names.index("blue" if "blue" in names else "Cyclist")}
        wanted = [[kinds[k], x0 / 96, y0 / 64, x1 / 96, y1 / 64] for k, x0, y0, x1, y1 in rows]
        assert truth is not None
        np.testing.assert_allclose(truth, wanted, atol=1e-6)
    assert sum(found.counts().values()) >= 4
    assert bool(found.notes) == (layout == "kitti-objects")  # DontCare


def test_splits_share_their_classes_and_changed_boxes_are_noticed(tmp_path: Path) -> None:
    data = DataConfig(train=(str(detect_data.coco(tmp_path / "d", 8)),), layout="coco")
    splits = load_splits(data, "detect")
    assert (len(splits.train.items), len(splits.val.items)) == (7, 1)
    assert splits.val.levels == splits.train.levels
    before = fingerprint(splits)
    assert differences(before, fingerprint(load_splits(data, "detect"))) == []
    change(tmp_path / "d", lambda x: x["annotations"][0].update(bbox=[1, 1, 9, 9]))
    assert len(differences(before, fingerprint(load_splits(data, "detect")))) == 1


def test_a_class_that_training_does_not_have_is_named_with_its_file(tmp_path: Path) -> None:
    rows, _ = read_kitti_objects(detect_data.kitti(tmp_path / "k", 3), "val")
    _, levels = encode(read_yolo(detect_data.yolo(tmp_path / "y", 3), "train")[0])
    with pytest.raises(DataError, match=r"label_2/.*txt: class 'C\w+' is not among red, blue"):
        encode(rows, levels)


def test_data_without_any_box_are_refused(tmp_path: Path) -> None:
    root = detect_data.yolo(tmp_path / "y", 2)
    for file in (root / "labels").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="none of 2 photos has a box"):
        load_collection([str(root)], DataConfig(layout="yolo"), "detect", "train")
    with pytest.raises(UsageError, match=r"layout clean does not go with task\.name detect"):
        load_collection([str(root)], DataConfig(layout="clean"), "detect", "train")


def change(root: Path, how: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads((root / "instances.json").read_text())
    how(document)
    (root / "instances.json").write_text(json.dumps(document))


def first(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda document: document["annotations"][0].update(fields)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (first(bbox=[90, 1, 20, 9]), r"annotation 0: the box reaches out of the photo .*0\.938, 0\.016, 1\.146"),
        (first(bbox=[math.nan, 1, 2, 3]), r"annotation 0: the box holds NaN"),
        (first(bbox=[1, 2, 3]), r"annotation 0: bbox must be x, y, width, height"),
        (first(bbox="all"), r"bbox must be"),
        (first(category_id=99), r"annotation 0: there is no category 99"),
        (first(image_id=99), r"annotation 0: there is no image 99"),
        (lambda x: x["annotations"][0].pop("image_id"), r"has no image_id"),
        (lambda x: x.pop("categories"), r"has no list of categories"),
        (lambda x: x["categories"][1].update(name="red"), r"two of one name"),
        (lambda x: x["images"][1].update(file_name="gone.png"), r"1 of 3 photos do not exist, first .*gone.png"),
        (lambda x: x["images"][1].update(width=97), r"image 1: .*001.png is 96x64, the file says 97x64"),
        (lambda x: x["images"].clear(), r"lists no images"),
        (first(bbox=[10**400, 1, 2, 3]), r"annotation 0: the box holds NaN, infinity or far too large numbers"),
        (lambda x: x["annotations"][0].pop("bbox"), r"annotation 0: bbox must be x, y, width, height"),
        (lambda x: x["images"][1].update(id=0), r"image 0: another of the images has this id"),
        (lambda x: x["images"][1].update(width=10**400), r"image 1: its height and width are those of no photo"),
        (lambda x: x["images"][1].update(height=math.nan), r"image 1: its height and width are those of no photo"),
        (lambda x: x["images"][1].update(file_name="a" * 5000), r"1 of 3 photos do not exist, first"),
        (lambda x: x["images"][1].update(file_name="a\0b"), r"1 of 3 photos do not exist, first"),
        (lambda x: x["categories"][1].update(id=3), r"category 3: another of the categories has this id"),
        (lambda x: x["categories"][1].update(name=" "), r"category 7: the name of a class is empty"),
        (lambda x: x["categories"][1].update(name="a\ud800b"), r"category 7: the class 'a.*' holds characters"),
        (lambda x: x["categories"][1].update(name="a\nb"), r"category 7: the class 'a.*' holds characters"),
    ],
)
def test_faults_of_coco_are_named(how: Callable[[dict[str, Any]], Any], said: str, tmp_path: Path) -> None:
    root = detect_data.coco(tmp_path / "d", 3)
    change(root, how)
    with pytest.raises(DataError, match=said):
        read_coco(root, "train")


@pytest.mark.parametrize("text", ['{"images": [}', "[1, 2]", "\x00\xff", "9" * 5000, "[" * 10**5 + "]" * 10**5])
def test_broken_json_is_named_with_its_line(text: str, tmp_path: Path) -> None:
    root = detect_data.coco(tmp_path / "d", 1)
    (root / "instances.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(
        DataError, match=r"instances.json(, line 1)?: (is no JSON|is not of COCO's form|cannot be read)"
    ):
        read_coco(root, "train")


def test_crowds_and_boxes_without_area_are_left_out_with_a_note(tmp_path: Path) -> None:
    root = detect_data.coco(tmp_path / "d", 3)
    everything = sum(len(row.boxes or ()) for row in read_coco(root, "train")[0])
    change(root, first(iscrowd=1, bbox=None))
    change(root, lambda x: x["annotations"][1].update(bbox=[5, 5, 0, 9]))
    rows, notes = read_coco(root, "train")
    assert sum(len(row.boxes or ()) for row in rows) == everything - 2
    assert [note.split(" are left out")[0] for note in notes] == ["1 boxes of crowds", "1 boxes without an area"]


def test_a_small_file_is_read_with_little_memory(tmp_path: Path) -> None:
    root = detect_data.coco(tmp_path / "d", 1)
    tracemalloc.start()
    read_coco(root, "train")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_a_photo_that_is_listed_twice_with_other_boxes_is_told(tmp_path: Path) -> None:
    root = detect_data.coco(tmp_path / "d", 3)
    change(root, lambda x: x["images"][1].update(file_name="000.png"))
    found = load_collection([str(root)], DataConfig(layout="coco"), "detect", "train")
    assert found.notes == ("1 repeated images are left out, 1 of them with other labels: the first mention counts.",)


def test_of_several_json_files_that_of_the_split_is_read(tmp_path: Path) -> None:
    for split in ("train", "val"):
        detect_data.coco(tmp_path / split, 2 if split == "train" else 1)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / split / "instances.json").rename(tmp_path / "annotations" / f"instances_{split}2017.json")
        (tmp_path / split / "images").rename(tmp_path / f"{split}2017")
    assert [len(read_coco(tmp_path, split)[0]) for split in ("train", "val")] == [2, 1]
    assert len(read_coco(tmp_path / "annotations" / "instances_val2017.json", "train")[0]) == 1
    with pytest.raises(DataError, match="which JSON file has the boxes of test is not clear"):
        read_coco(tmp_path, "test")
    assert has_coco(tmp_path)
    assert not has_yolo(tmp_path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.5 0.5 nan 0.2", "line 2: the box holds NaN"),
        ("0 0.9 0.5 0.4 0.2", "line 2: the box reaches out of the photo"),
        ("2 0.5 0.5 0.1 0.1", "line 2: class 2 is none of the 2 that have names"),
        ("red 0.5 0.5 0.1 0.1", "line 2: class red is none"),
        ("0 0.5 0.5 0 0.1", "line 2: the box has no area"),
        ("0 0.5 0.5 0.1", "line 2: 4 columns"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3", "line 2: 7 columns"),
        ("0 a b c d", "line 2: a b c d are no numbers"),
        ("9" * 5000 + " 0.5 0.5 0.1 0.1", "line 2: class 99999999999999999999 is none of the 2"),
        ("0 1e308 1e308 1e308 1e308", r"line 2: the box reaches out of the photo .*: 5e\+307"),
        ("0,0.5,0.5,0.1,0.1", "line 2: 1 columns"),
    ],
)
def test_faults_of_yolo_are_named_by_file_and_line(line: str, said: str, tmp_path: Path) -> None:
    root = detect_data.yolo(tmp_path / "d", 2)
    (root / "labels" / "001.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(DataError, match=f"001.txt, {said}"):
        read_yolo(root, "train")


def test_names_of_yolo_stand_in_a_text_or_yaml_file(tmp_path: Path) -> None:
    root = detect_data.yolo(tmp_path / "d", 2)
    (root / "classes.txt").unlink()
    with pytest.raises(DataError, match="the classes have no names"):
        read_yolo(root, "train")
    for names, wanted in (("[red, blue]", "red blue"), ("{0: red, 1: blue}", "red blue"), ("[no, 1e3]", "no 1e3")):
        (root / "data.yaml").write_text(f"nc: 2\nnames: {names}\n")
        assert read_yolo(root, "train")[0][0].classes == tuple(wanted.split())
    for wrong, said in (
        ("{1: red, 2: blue}", "do not count from 0"),
        ("[red, red]", "one name"),
        ("[", "cannot be read"),
        ("{0: red, x: blue}", "do not count from 0"),
        ("[[red], blue]", "no list of names"),
        ("['', blue]", "the name of a class is empty"),
        ("[" * 5000, "cannot be read"),
    ):
        (root / "data.yaml").write_text(f"names: {wrong}\n")
        with pytest.raises(DataError, match=said):
            read_yolo(root, "train")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"red\n\nblue\n", "line 2: is empty"),
        (b"red\nred\n", "'red' stands twice"),
        (b"\xff\xfe", "as text"),
        (b"", "the classes have no names"),
    ],
)
def test_lists_of_names_that_are_none(text: bytes, said: str, tmp_path: Path) -> None:
    root = detect_data.yolo(tmp_path / "d", 1)
    (root / "classes.txt").write_bytes(b"\xef\xbb\xbfred\r\ne\xcc\x81\r\n\r\n")
    assert read_yolo(root, "train")[0][0].classes == ("red", "\xe9")
    (root / "classes.txt").write_bytes(text)
    (tmp_path / "other.yaml").write_text("no names: [\n")  # one folder above lie files of all kinds
    with pytest.raises(DataError, match=said):
        read_yolo(root, "train")
    (root / "classes.txt").rename(tmp_path / "classes.txt")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    assert read_yolo(root, "train")[0][0].classes == ("a", "b")


def test_photos_without_labels_are_samples_and_labels_without_photos_are_noted(tmp_path: Path) -> None:
    root = detect_data.yolo(tmp_path / "d", 3)
    (root / "labels" / "001.txt").unlink()
    (root / "labels" / "extra.txt").write_text("")
    rows, notes = read_yolo(root, "train")
    assert [len(row.boxes or ()) > 0 for row in rows] == [True, False, True]
    assert "1 label files" in notes[0]
    for split, folder in (("train", "train"), ("val", "valid")):
        for kind in ("images", "labels"):
            (root / kind / folder).mkdir()
            (root / kind / "000").with_suffix(".png" if kind == "images" else ".txt").rename(
                root / kind / folder / ("000.png" if kind == "images" else "000.txt")
            )
        assert len(read_yolo(root, split)[0]) == 1
        for kind, name in (("images", "000.png"), ("labels", "000.txt")):
            (root / kind / folder / name).rename(root / kind / name)


def test_a_turned_photo_has_the_size_that_is_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(detect_data.scene(0)[0]).save(tmp_path / "a.jpg", exif=exif)
    assert size_of(tmp_path / "a.jpg") == (96, 64)


def test_missing_folders_are_named(tmp_path: Path) -> None:
    for reader, said in ((read_yolo, "images/ and labels/"), (read_kitti_objects, "image_2/ and label_2/")):
        with pytest.raises(DataError, match=said):
            reader(tmp_path, "train")
        with pytest.raises(DataError, match="no such folder"):
            reader(tmp_path / "gone", "train")


@pytest.mark.skipif(not KITTI.is_dir(), reason="KITTI's frames are not here")
def test_the_frames_of_kitti_have_the_boxes_of_their_labels() -> None:
    rows, notes = read_kitti_objects(KITTI, "train")
    assert [[box[0] for box in row.boxes or ()] for row in rows] == [["Pedestrian"], ["Car", "Cyclist"]]
    image = np.asarray(Image.open(rows[0].path))
    sides = np.array((rows[0].boxes or ())[0][1:]) * np.tile(image.shape[1::-1], 2)
    np.testing.assert_allclose(sides, [712.40, 143.00, 810.73, 307.92], atol=0.01)
    assert "first Truck" in notes[0]
