from __future__ import annotations

import os
from pathlib import Path

import pytest

from pocketvit.data.kitti import EIGEN_COUNTS, UNIT, read_kitti
from pocketvit.data.layouts import READERS
from pocketvit.errors import DataError

DRIVE = "2011_09_26_drive_0001_sync"
OTHER = "2011_09_26_drive_0002_sync"


def photo(number: int, drive: str = DRIVE, camera: str = "image_02", suffix: str = "png") -> str:
    return f"{drive[:10]}/{drive}/{camera}/data/{number:010d}.{suffix}"


def depth(number: int, drive: str = DRIVE, camera: str = "image_02") -> str:
    return f"{drive}/proj_depth/groundtruth/{camera}/{number:010d}.png"


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def lines(file: Path, *text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(text) + "\n")


def read(root: Path, split: str = "train") -> list[tuple[str, str]]:
    rows, _ = read_kitti(root, split)
    assert all(row.unit == 1 / 256 and not row.labels for row in rows)
    return [
        (row.path.relative_to(root).as_posix(), row.clean.relative_to(root).as_posix()) for row in rows if row.clean
    ]


def test_the_layout_is_known() -> None:
    assert READERS["kitti"] is read_kitti


def test_folders_as_kitti_has_them(tmp_path: Path) -> None:
    for camera in ("image_02", "image_03"):
        touch(tmp_path, *(photo(i, camera=camera) for i in range(10)), *(photo(i, OTHER, camera) for i in range(10)))
        touch(tmp_path, *(f"train/{depth(i, camera=camera)}" for i in range(5, 9)))
        touch(tmp_path, *(f"val/{depth(i, OTHER, camera)}" for i in (5, 6)))
    cameras = ("image_02", "image_03")
    expected = [(photo(i, camera=c), f"train/{depth(i, camera=c)}") for c in cameras for i in range(5, 9)]
    assert read(tmp_path) == expected
    assert read_kitti(tmp_path, "train")[1] == [
        f"12 files of {tmp_path} without ground truth are left out, first {photo(0)}."
    ]
    assert read(tmp_path, "val") == [(photo(i, OTHER, c), f"val/{depth(i, OTHER, c)}") for c in cameras for i in (5, 6)]
    rows, notes = read_kitti(tmp_path, "test")
    assert len(rows) == 4
    assert "no list of test files, so the drives of val/ are read" in notes[0]


def test_photos_may_be_jpeg_and_lie_in_raw_and_drives_may_be_incomplete(tmp_path: Path) -> None:
    touch(tmp_path, f"raw/{photo(5, suffix='jpg')}", f"data_depth_annotated/train/{depth(5)}")
    touch(tmp_path, f"data_depth_annotated/train/{depth(6)}")
    assert read(tmp_path) == [(f"raw/{photo(5, suffix='jpg')}", f"data_depth_annotated/train/{depth(5)}")]
    assert read_kitti(tmp_path, "train")[1] == [
        f"1 photos of {tmp_path} that are not there are left out, first {photo(6)}."
    ]


def test_lists_with_depth_and_focal_length(tmp_path: Path) -> None:
    touch(tmp_path, *map(photo, range(6)), *(f"train/{depth(i)}" for i in (0, 1, 2, 5)))
    lines(
        tmp_path / "eigen_train_files_with_gt.txt",
        f"{photo(0)} {depth(0)} 721.5377",
        f"{photo(1)} 721.5377",
        f"{photo(2)} None 721.5377",  # the list says that there is none
        "",
        f"{photo(3)} {depth(3)} 721.5377",  # named, and not there
        photo(5),
        photo(5),
    )
    assert read(tmp_path) == [(photo(i), f"train/{depth(i)}") for i in (0, 1, 5)]
    list_file = tmp_path / "eigen_train_files_with_gt.txt"
    assert read_kitti(tmp_path, "train")[1] == [
        f"2 files of {list_file} without ground truth are left out, first {photo(2)}."
    ]


def test_lists_of_stereo_pairs_and_of_numbers(tmp_path: Path) -> None:
    pair = [photo(4, camera=camera) for camera in ("image_02", "image_03")]
    maps = [f"train/{depth(4, camera=camera)}" for camera in ("image_02", "image_03")]
    touch(tmp_path, *pair, *maps)
    jpg = [name.replace(".png", ".jpg") for name in pair]
    lines(tmp_path / "eigen_train_files.txt", " ".join(jpg))
    assert read(tmp_path) == list(zip(pair, maps))
    lines(tmp_path / "eigen_train_files.txt", f"2011_09_26/{DRIVE} 4 l", f"2011_09_26/{DRIVE} 0000000004 r")
    assert read(tmp_path) == list(zip(pair, maps))


def test_lists_may_lie_beside_the_root(tmp_path: Path) -> None:
    root = tmp_path / "data"
    touch(root, photo(1), f"val/{depth(1)}", photo(2), f"val/{depth(2)}")
    lines(tmp_path / "val_files.txt", photo(1))  # of some other data set, for all that is known
    assert len(read(root, "val")) == 2
    lines(tmp_path / "eigen_val_files.txt", photo(1))
    assert len(read(root, "val")) == 1
    lines(root / "val_files.txt", photo(2))
    assert read(root, "val") == [(photo(2), f"val/{depth(2)}")]


def test_merged_folders_are_found(tmp_path: Path) -> None:
    touch(tmp_path, f"input/{photo(1)}", f"gt_depth/{depth(1)}", photo(2), f"2011_09_26/{depth(2)}")
    lines(tmp_path / "eigen_train_files.txt", photo(1), photo(2))
    assert read(tmp_path) == [(f"input/{photo(1)}", f"gt_depth/{depth(1)}"), (photo(2), f"2011_09_26/{depth(2)}")]


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("camera", ["image_02", "image_03"])
def test_no_test_frame_is_in_another_list(tmp_path: Path, split: str, camera: str) -> None:
    """The other camera, too, has seen it."""
    touch(tmp_path, photo(1), photo(2), photo(2, camera="image_03"), f"train/{depth(1)}", f"train/{depth(2)}")
    lines(tmp_path / f"eigen_{split}_files.txt", photo(1), photo(2, camera=camera))
    lines(tmp_path / "eigen_test_files.txt", f"{photo(2)} {depth(2)} 721.5377")
    with pytest.raises(DataError, match="1 of 2 files show test frames of") as caught:
        read_kitti(tmp_path, split)
    assert photo(2, camera=camera) in caught.value.what
    assert read(tmp_path, "test") == [(photo(2), f"train/{depth(2)}")]


def test_drives_that_are_shared_with_the_test_are_told(tmp_path: Path) -> None:
    touch(tmp_path, photo(1), photo(2), f"train/{depth(1)}", f"train/{depth(2)}")
    lines(tmp_path / "eigen_train_files.txt", photo(1))
    lines(tmp_path / "eigen_test_files.txt", photo(2))
    rows, notes = read_kitti(tmp_path, "train")
    assert len(rows) == 1
    assert notes == [f"1 drives of {tmp_path / 'eigen_train_files.txt'} are also test drives, first {DRIVE}."]


def test_read_by_folders_whole_test_drives_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, *map(photo, range(3)), *(f"train/{depth(i)}" for i in range(3)))
    touch(tmp_path, photo(1, OTHER), f"train/{depth(1, OTHER)}")
    lines(tmp_path / "eigen_test_files.txt", photo(2))
    assert read(tmp_path) == [(photo(1, OTHER), f"train/{depth(1, OTHER)}")]
    assert read_kitti(tmp_path, "train")[1] == [
        f"1 drives of train/ that have test frames are left out, first {DRIVE}."
    ]
    lines(tmp_path / "eigen_test_files.txt", photo(2), photo(9, OTHER))
    with pytest.raises(DataError, match="all 2 drives of train/ have test frames"):
        read_kitti(tmp_path, "train")


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_counts_of_the_eigen_split_are_held_against_the_published_ones(tmp_path: Path, split: str) -> None:
    listed, bare = EIGEN_COUNTS[split]
    touch(tmp_path, *map(photo, range(listed)), *(f"train/{depth(i)}" for i in range(bare, listed)))
    file = tmp_path / f"eigen_{split}_files.txt"
    lines(file, *map(photo, range(listed)))
    rows, notes = read_kitti(tmp_path, split)
    kept = {"val": 1746, "test": 652}[split]
    assert len(rows) == kept
    first = f"{file}: {listed} files as in the Eigen split, {bare} without ground truth are left out, {kept} stay"
    assert notes == [f"{first}; {bare} are known to have none."]
    (tmp_path / f"train/{depth(bare)}").unlink()
    assert read_kitti(tmp_path, split)[1][0].endswith(
        f", but {bare} are known to have none: look whether the depth maps are complete."
    )


@pytest.mark.slow
def test_the_counts_of_the_eigen_training_files(tmp_path: Path) -> None:
    """45,200 lines of both cameras; 22,600 numbers of one drive."""
    cameras = ("image_02", "image_03")
    names = [(i, camera) for i in range(22_600) for camera in cameras]
    for camera in cameras:
        touch(tmp_path, f"{photo(0, camera=camera)}.part", f"train/{depth(0, camera=camera)}.part")
    root = str(tmp_path)
    for k, (i, camera) in enumerate(names):
        for path in (photo(i, camera=camera), *([f"train/{depth(i, camera=camera)}"] if k >= 630 else [])):
            os.close(os.open(f"{root}/{path}", os.O_CREAT | os.O_WRONLY))
    file = tmp_path / "eigen_train_files.txt"
    lines(file, *(f"2011_09_26/{DRIVE} {i} {'l' if camera == 'image_02' else 'r'}" for i, camera in names))
    lines(tmp_path / "eigen_test_files.txt", *(photo(i, OTHER) for i in range(697)))
    rows, notes = read_kitti(tmp_path, "train")
    assert len(rows) == 44_570
    first = f"{file}: 45200 files as in the Eigen split, 630 without ground truth are left out, 44570 stay"
    assert notes == [f"{first}; 630 are known to have none."]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("photos/a.png b.png 1", "line 2: photos/a.png is no frame of KITTI"),
        (f"2011_09_26/{DRIVE} x l", "line 2: .* x l is no frame"),
        (f"2011_09_26/{DRIVE} 3 m", "line 2: .* 3 m is no frame"),
        (f"2011_09_26/{DRIVE} 3", "line 2: .* is no frame"),
    ],
)
def test_lines_that_are_no_frames_are_refused(tmp_path: Path, line: str, message: str) -> None:
    lines(tmp_path / "eigen_train_files.txt", photo(1), line)
    with pytest.raises(DataError, match=message):
        read_kitti(tmp_path, "train")


def test_lists_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "eigen_train_files.txt"
    lines(file, "")
    with pytest.raises(DataError, match="the list is empty"):
        read_kitti(tmp_path, "train")
    file.write_bytes(b"\xff\xff")
    with pytest.raises(DataError, match="is no text file"):
        read_kitti(tmp_path, "train")
    lines(file, photo(1))
    with pytest.raises(DataError, match="of 1 photos 0 are not there and 1 have no depth map"):
        read_kitti(tmp_path, "train")
    lines(tmp_path / "train_files.txt", photo(1))
    with pytest.raises(DataError, match=r"eigen_train_files\.txt and train_files\.txt are both lists for train"):
        read_kitti(tmp_path, "train")


def test_a_root_without_kitti_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_kitti(tmp_path / "no", "train")
    (tmp_path / "root").mkdir()
    with pytest.raises(DataError, match="holds neither a list") as caught:
        read_kitti(tmp_path / "root", "val")
    assert "docs/depth-data.md" in caught.value.todo


def test_the_unit_is_that_of_the_benchmark() -> None:
    assert UNIT == 0.00390625
    assert {name: listed - bare for name, (listed, bare) in EIGEN_COUNTS.items()} == {
        "train": 44_570,
        "val": 1_746,
        "test": 652,
    }
