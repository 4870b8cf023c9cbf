"""What the doctor says of boxes."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from pocketvit.data.box_check import check_boxes
from pocketvit.data.doctor import doctor
from pocketvit.data.entries import Entry
from pocketvit.errors import DataError, UsageError
from tests import detect_data


def test_the_doctor_counts_boxes_and_finds_odd_ones(tmp_path: Path) -> None:
    root = detect_data.yolo(tmp_path / "d", 4)
    labels = root / "labels"
    (labels / "001.txt").write_text("0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.2 0.2\n")
    (labels / "002.txt").write_text("1 0.5 0.5 0.01 0.2\n")
    (labels / "003.txt").unlink()
    report = doctor(str(root), boxes="yolo")
    assert report.exit_code == 0
    assert report.boxes is not None
    first = len(detect_data.scene(0)[1])
    assert (report.boxes.photos, report.boxes.boxes, report.boxes.empty) == (4, first + 4, 1)
    assert sum(report.boxes.classes.values()) == first + 4
    assert [Path(path).name for path in report.boxes.twice] == ["001.png"]
    assert [Path(path).name for path in report.boxes.small] == ["002.png"]
    assert report.to_dict()["boxes"]["layout"] == "yolo"
    text = report.render()
    assert f"{first + 4} boxes on 4 photos, 1 without any" in text
    assert "boxes by class: red " in text
    assert "warning: a box drawn twice: 1" in text
    assert doctor(str(root)).boxes is None


def test_a_json_file_alone_can_be_named(tmp_path: Path) -> None:
    root = detect_data.coco(tmp_path / "d", 3)
    report = doctor(str(root / "instances.json"), boxes="coco")
    assert report.images == 3
    assert report.boxes is not None
    assert report.boxes.classes.keys() == {"red", "blue"}


def test_what_is_wrong_is_an_error(tmp_path: Path) -> None:
    root = detect_data.yolo(tmp_path / "d", 2)
    with pytest.raises(UsageError, match="boxes jolo: no such layout of boxes") as error:
        doctor(str(root), boxes="jolo")
    assert "yolo" in error.value.todo
    (root / "labels" / "000.txt").write_text("0 0.5 0.5 2 0.2\n")
    with pytest.raises(DataError, match=r"000\.txt, line 1: the box reaches out"):
        doctor(str(root), boxes="yolo")


def test_thousands_of_boxes_are_held_against_each_other_with_little_memory() -> None:
    sides = [(k / 3000, 0.1, (k + 1) / 3000, 0.9) for k in range(3000)]
    readers = {"x": lambda root, split: ([Entry(root, boxes=tuple(("a", *box) for box in sides))], [])}
    tracemalloc.start()
    assert check_boxes([Path("1.png")], "x", readers).twice == ()
    sides.append(sides[700])
    assert check_boxes([Path("1.png")], "x", readers).twice == ("1.png",)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6
