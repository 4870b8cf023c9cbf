from __future__ import annotations

import builtins
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pocketvit.data import nyu
from pocketvit.data.layouts import READERS
from pocketvit.data.nyu import read_nyu
from pocketvit.errors import DataError, MissingDependencyError
from pocketvit.files import names_in

h5py = pytest.importorskip("h5py")
scipy_io = pytest.importorskip("scipy.io")

COUNT, HEIGHT, WIDTH = 5, 12, 16


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POCKETVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "nyu"


def content() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """(N, H, W, 3) photos and (N, H, W) metres, different at every pixel."""
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), dtype=np.uint8)
    return photos, rng.uniform(0.7, 9.9, (COUNT, HEIGHT, WIDTH)).astype(np.float32)


def mat_file(path: Path, **changes: Any) -> Path:
    """As MATLAB writes it: a user block in front, columns first, chunked and packed."""
    photos, depths = content()
    sets = {"images": photos.transpose(0, 3, 2, 1), "depths": depths.transpose(0, 2, 1), **changes}
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in sets.items():
            if values is not None:
                file.create_dataset(name, data=values, compression="gzip")
        file.create_dataset("names", data=np.arange(4))
    return path


def splits_file(path: Path, train: list[int], test: list[int]) -> None:
    scipy_io.savemat(path, {"trainNdxs": np.array(train)[:, None], "testNdxs": np.array(test)[:, None]})


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def read(root: Path, split: str = "train") -> list[tuple[str, str]]:
    rows, _ = read_nyu(root, split)
    assert all(row.unit == 1e-3 and not row.labels for row in rows)
    return [
        (row.path.relative_to(root).as_posix(), row.clean.relative_to(root).as_posix()) for row in rows if row.clean
    ]


def test_the_layout_is_known() -> None:
    assert READERS["nyu"] is read_nyu


def test_scenes_with_rgb_and_sync_depth(tmp_path: Path) -> None:
    root = tmp_path / "nyu"
    touch(root, "bath_1/rgb_00045.jpg", "bath_1/sync_depth_00045.png", "attic/RGB_00001.PNG")
    touch(root, "attic/sync_depth_00001.png", "attic/rgb_00002.jpg", "attic/notes.txt", "attic/.rgb_00003.jpg")
    assert read(root) == [
        ("attic/RGB_00001.PNG", "attic/sync_depth_00001.png"),
        ("bath_1/rgb_00045.jpg", "bath_1/sync_depth_00045.png"),
    ]
    note = f"1 files of {root} without their partner are left out, first {root / 'attic/rgb_00002.jpg'}."
    assert read_nyu(root, "train")[1] == [note]


def test_folders_rgb_and_depth(tmp_path: Path) -> None:
    root = tmp_path / "nyu"
    touch(root, "rgb/a.jpg", "depth/A.png", "scene/rgb/rgb_00001.png", "scene/depth/rgb_00001.png", "depth/lonely.png")
    touch(root, "depth/a.jpg")  # no depth map: JPEG has no 16 bits
    assert read(root) == [("rgb/a.jpg", "depth/A.png"), ("scene/rgb/rgb_00001.png", "scene/depth/rgb_00001.png")]
    assert read_nyu(root, "train")[1] == [
        f"1 files of {root} without their partner are left out, first {root / 'depth/lonely.png'}."
    ]


def test_the_folder_of_the_split_is_taken(tmp_path: Path) -> None:
    root = tmp_path / "nyu"
    for folder in ("sync", "official_splits/test"):
        touch(root, f"{folder}/room/rgb_00001.jpg", f"{folder}/room/sync_depth_00001.png")
    assert [row[0] for row in read(root)] == ["sync/room/rgb_00001.jpg"]
    for split in ("val", "test"):
        assert [row[0] for row in read(root, split)] == ["official_splits/test/room/rgb_00001.jpg"]
    shutil.move(root / "official_splits" / "test", root / "test")
    shutil.move(root / "sync", root / "train")
    touch(root, "val/rgb/x.png", "val/depth/x.png")
    firsts = [read(root, split)[0][0] for split in ("train", "val", "test")]
    assert firsts == ["train/room/rgb_00001.jpg", "val/rgb/x.png", "test/room/rgb_00001.jpg"]


def test_two_photos_of_one_map_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "rgb/a.jpg", "rgb/a.png", "depth/a.png")
    with pytest.raises(DataError, match=r"a\.jpg and a\.png claim the same pair"):
        read_nyu(tmp_path, "train")


def test_a_folder_without_pairs_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "x", "rgb_00001.jpg")
    with pytest.raises(DataError, match="holds no pair") as caught:
        read_nyu(tmp_path / "x", "train")
    assert "docs/depth-data.md" in caught.value.todo
    with pytest.raises(DataError, match="no such folder"):
        read_nyu(tmp_path / "no", "train")


@pytest.mark.parametrize("by_folder", [True, False])
def test_the_labelled_file_becomes_png_files(tmp_path: Path, cache: Path, by_folder: bool) -> None:
    mat = mat_file(tmp_path / "nyu" / "nyu_depth_v2_labeled.mat")
    rows, notes = read_nyu(mat.parent if by_folder else mat, "train")
    photos, depths = content()
    assert len(rows) == COUNT
    for row, photo, depth in zip(rows, photos, depths):
        assert cache in row.path.parents
        assert row.clean is not None
        assert row.unit == 1e-3
        assert (np.asarray(Image.open(row.path)) == photo).all()
        stored = np.asarray(Image.open(row.clean))
        assert stored.dtype == np.uint16
        assert (stored == np.rint(depth.astype(np.float64) * 1000)).all()
    assert notes[0] == f"{mat}: its 5 pairs are PNG files in {rows[0].path.parents[1]}."
    assert "there is no splits.mat beside it, so that all pairs are read for train" in notes[1]


def test_the_official_split_is_read_where_it_lies_beside(tmp_path: Path) -> None:
    mat = mat_file(tmp_path / "nyu" / "any name.mat")
    splits_file(mat.with_name("splits.mat"), [2, 5, 3], [1, 4])
    names = {split: [row.path.name for row in read_nyu(mat, split)[0]] for split in ("train", "val", "test")}
    assert names["train"] == ["00001.png", "00004.png", "00002.png"]
    assert names["val"] == names["test"] == ["00000.png", "00003.png"]
    assert len(read_nyu(mat, "train")[1]) == 1


@pytest.mark.parametrize(
    ("train", "test"), [([1, 2], [2, 3]), ([0, 1], [2]), ([1, 2], [6]), ([], [1]), ([1, 1], [2])], ids=str
)
def test_splits_that_do_not_part_the_pairs_are_refused(tmp_path: Path, train: list[int], test: list[int]) -> None:
    mat = mat_file(tmp_path / "nyu" / "a.mat")
    splits_file(mat.with_name("splits.mat"), train, test)
    with pytest.raises(DataError, match="do not part the pairs 1 to 5"):
        read_nyu(mat, "train")


@pytest.mark.parametrize("content", [b"", b"no mat", bytes(400)])
def test_damaged_splits_are_refused(tmp_path: Path, content: bytes) -> None:
    mat = mat_file(tmp_path / "nyu" / "a.mat")
    mat.with_name("splits.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"splits\.mat: cannot be read"):
        read_nyu(mat, "train")
    scipy_io.savemat(mat.with_name("splits.mat"), {"other": 1})
    with pytest.raises(DataError, match=r"splits\.mat: cannot be read \(KeyError"):
        read_nyu(mat, "train")


def test_it_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    mat = mat_file(tmp_path / "a.mat")
    before = read_nyu(mat, "train")[0]
    stamps = [row.path.stat().st_mtime_ns for row in before]
    without(monkeypatch, "h5py")  # a second time it is not needed
    assert read_nyu(mat, "train")[0] == before
    assert [row.path.stat().st_mtime_ns for row in before] == stamps
    monkeypatch.undo()
    monkeypatch.setenv("POCKETVIT_CACHE", str(cache.parent))
    mat_file(mat, images=np.zeros((COUNT, 3, WIDTH, HEIGHT), np.uint8))  # another file of that name
    os.utime(mat, ns=(1, 1))
    after = read_nyu(mat, "train")[0]
    assert after[0].path.parents[1] != before[0].path.parents[1]
    assert not np.asarray(Image.open(after[0].path)).any()


def test_what_was_lost_from_the_cache_is_made_again(tmp_path: Path) -> None:
    mat = mat_file(tmp_path / "a.mat")
    rows = read_nyu(mat, "train")[0]
    rows[2].path.unlink()
    assert read_nyu(mat, "train")[0] == rows
    assert rows[2].path.is_file()


def test_it_is_converted_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    mat = mat_file(tmp_path / "a.mat")
    write, written = nyu.write_depth_png, []

    def fail(path: Path, depth: NDArray[np.float32]) -> int:
        written.append(path)
        if len(written) == 3:
            raise OSError(28, os.strerror(28))
        return write(path, depth)

    monkeypatch.setattr(nyu, "write_depth_png", fail)
    with pytest.raises(DataError, match="No space left"):
        read_nyu(mat, "train")
    assert names_in(cache) == []
    monkeypatch.setattr(nyu, "write_depth_png", write)
    assert len(read_nyu(mat, "train")[0]) == COUNT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "holds no array images of its own"),
        ({"depths": None}, "holds no array depths of its own"),
        ({"images": np.zeros((COUNT, WIDTH, HEIGHT, 3), np.uint8)}, "instead of"),
        ({"images": np.zeros((COUNT, 3, WIDTH, HEIGHT), np.uint16)}, "instead of"),
        ({"images": np.zeros((COUNT - 1, 3, WIDTH, HEIGHT), np.uint8)}, "instead of"),
        ({"depths": np.zeros((COUNT, HEIGHT, WIDTH), np.float32)}, "instead of"),
        ({"depths": np.zeros((COUNT, WIDTH, HEIGHT), np.uint16)}, "instead of"),
        ({"depths": np.zeros((COUNT, WIDTH), np.float32)}, "instead of"),
        ({"depths": np.full((COUNT, WIDTH, HEIGHT), 1500, np.float32)}, "pair 1 has depths up to 1500"),
        ({"depths": np.full((COUNT, WIDTH, HEIGHT), np.nan, np.float32)}, "pair 1 has depths up to nan"),
        (
            {"images": np.zeros((1, 3, 0, 4), np.uint8), "depths": np.zeros((1, 0, 4), np.float32)},
            "too many pairs or pixels, or none",
        ),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, cache: Path, changes: dict[str, Any], message: str) -> None:
    if changes.get("depths") is not None and changes["depths"].size == 0:
        path = tmp_path / "a.mat"
        with h5py.File(path, "w") as file:
            for name, values in changes.items():
                file[name] = values
    else:
        path = mat_file(tmp_path / "a.mat", **changes)
    with pytest.raises(DataError, match=message) as caught:
        read_nyu(path, "train")
    assert "nyu_depth_v2_labeled.mat" in caught.value.todo
    assert names_in(cache) == []


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file" + bytes(500), b"\x89HDF\r\n\x1a\n" + bytes(2000)])
def test_files_that_are_no_hdf5_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.mat: (cannot be opened|holds no|images cannot)"):
        read_nyu(tmp_path / "a.mat", "train")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(tmp_path: Path, cache: Path, share: float) -> None:
    mat = mat_file(tmp_path / "a.mat")
    whole = mat.read_bytes()
    mat.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=r"a\.mat: "):
        read_nyu(mat, "train")
    assert names_in(cache) == []


def test_damaged_bytes_are_an_error_or_pixels_and_never_a_crash(tmp_path: Path) -> None:
    whole = mat_file(tmp_path / "whole.mat").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for k in range(40):
        damaged = bytearray(whole)
        for place in rng.integers(512, len(whole), 20):
            damaged[place] = int(rng.integers(0, 256))
        mat = tmp_path / f"{k}.mat"
        mat.write_bytes(damaged)
        try:
            assert len(read_nyu(mat, "train")[0]) == COUNT
        except DataError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("kind", ["external", "soft", "virtual", "storage"])
def test_arrays_that_point_elsewhere_are_refused(tmp_path: Path, kind: str) -> None:
    """HDF5 can read any file of the machine in the name of an array."""
    other = mat_file(tmp_path / "other.mat")
    mat = mat_file(tmp_path / "a.mat", images=None)
    shape = (COUNT, 3, WIDTH, HEIGHT)
    with h5py.File(mat, "a") as file:
        if kind == "external":
            file["images"] = h5py.ExternalLink(str(other), "/images")
        elif kind == "soft":
            file["copy"] = np.zeros(shape, np.uint8)
            file["images"] = h5py.SoftLink("/copy")
        elif kind == "virtual":
            layout = h5py.VirtualLayout(shape, np.uint8)
            layout[:] = h5py.VirtualSource(str(other), "images", shape)
            file.create_virtual_dataset("images", layout)
        else:
            secret = tmp_path / "secret"
            secret.write_bytes(bytes(int(np.prod(shape))))
            file.create_dataset("images", shape, np.uint8, external=[(str(secret), 0, int(np.prod(shape)))])
    with pytest.raises(DataError, match="holds no array images of its own"):
        read_nyu(mat, "train")


def test_groups_in_place_of_arrays_are_refused(tmp_path: Path) -> None:
    mat = mat_file(tmp_path / "a.mat", images=None)
    with h5py.File(mat, "a") as file:
        file.create_group("images")
    with pytest.raises(DataError, match="holds no array images of its own"):
        read_nyu(mat, "train")


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """As where ``package`` is not installed."""
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_missing_packages_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mat = mat_file(tmp_path / "a.mat")
    without(monkeypatch, "h5py")
    with pytest.raises(MissingDependencyError) as caught:
        read_nyu(mat, "train")
    assert caught.value.exit_code == 6
    assert str(caught.value) == 'h5py is not installed.\nRun: pip install "pocketvit[depth]"'
    monkeypatch.undo()
    monkeypatch.setenv("POCKETVIT_CACHE", str(tmp_path / "cache"))
    splits_file(tmp_path / "splits.mat", [1, 2], [3])
    read_nyu(mat, "train")
    without(monkeypatch, "scipy")
    with pytest.raises(MissingDependencyError, match="scipy is not installed"):
        read_nyu(mat, "train")


def test_the_extra_that_is_named_installs_them(repository: Path) -> None:
    import tomllib

    extras = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [line.partition(">")[0] for line in extras["depth"]] == ["h5py", "scipy"]
    assert all("depth" in extras[name][0] for name in ("dev", "all"))


def test_the_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mat = mat_file(tmp_path / "a.mat")
    (tmp_path / "file").touch()
    monkeypatch.setenv("POCKETVIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="file/nyu"):
        read_nyu(mat, "train")


def test_archives_of_another_kind_are_no_mat(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.mat", "w") as archive:
        archive.writestr("images", bytes(9))
    with pytest.raises(DataError, match="cannot be opened"):
        read_nyu(tmp_path / "a.mat", "train")
