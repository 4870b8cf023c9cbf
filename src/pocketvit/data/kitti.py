"""KITTI: laser points seen by the camera (a sparse depth map), and the reader of its depth data sets.

Frames are ``<date>/<drive>/image_02/data/<number>.png`` (``image_03``: the right camera), their ground truth
``<drive>/proj_depth/groundtruth/image_02/<number>.png``: 16 bit, metres = value / 256, 0 = none (Uhrig et al. 2017).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.data.entries import Entry, Found, left_out, need_folder
from pocketvit.errors import DataError
from pocketvit.files import read_text

UNIT = 1 / 256
"""Metres of one step of a depth PNG."""
EIGEN_COUNTS = {"train": (45_200, 630), "val": (1_776, 30), "test": (697, 45)}
"""Files in the lists of the Eigen split, both cameras, and how many of them have no ground truth."""
_MOST_BYTES = 1 << 30
"""A scan has 2 MB."""
_NUMBERS = {"P2": 12, "R0_rect": 9, "Tr_velo_to_cam": 12}
_DRIVE = re.compile(r"\d{4}_\d\d_\d\d_drive_\d{4}_sync")
_PHOTO = re.compile(rf"({_DRIVE.pattern})/(image_0[23])/data/(\d+)\.(png|jpg)$")
_LIST = re.compile(r"(.*[_-])?(train|val|test)_files.*\.txt", re.IGNORECASE)
_PHOTO_PLACES = ("", "raw", "input")
_DEPTH_PLACES = ("", "train", "val", "data_depth_annotated/train", "data_depth_annotated/val", "gt_depth")
"""Folders of the root below which photos and drives with ``proj_depth`` are looked for."""


@dataclass(frozen=True)
class Calibration:
    """Of one frame: what takes a laser point to a pixel of the left colour camera."""

    p2: NDArray[np.float64]
    """(3, 4) projection of that camera, rectified."""
    r0_rect: NDArray[np.float64]
    """(3, 3) rectifying rotation."""
    tr_velo_to_cam: NDArray[np.float64]
    """(3, 4) from the laser's to the reference camera's coordinates, metres."""


def read_velodyne(path: Path) -> NDArray[np.float32]:
    """(N, 4) float32 of a ``.bin`` scan: x ahead, y to the left, z up, in metres, and reflectance 0 to 1.

    Raises:
        DataError: it is missing, empty or too large, or does not hold four finite numbers for each point.
    """
    todo = "Copy the scan again: a .bin file holds four 32-bit floats for each point."
    try:
        size = path.stat().st_size
        if not path.is_file() or size > _MOST_BYTES:
            raise DataError(f"{path}: is no scan ({size} bytes).", todo)
        values = np.fromfile(path, "<f4")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).", "Check the path.") from error
    if size == 0 or size % 16:
        raise DataError(f"{path}: {size} bytes are no whole number of points.", todo)
    if not np.isfinite(values).all():
        raise DataError(f"{path}: holds NaN or infinity.", todo)
    return values.reshape(-1, 4)


def read_calibration(path: Path) -> Calibration:
    """The matrices of a ``calib/NNNNNN.txt`` of KITTI object; other lines are passed over.

    Raises:
        DataError: it cannot be read, or a matrix is missing, given twice or not of finite numbers.
    """
    todo = f"It must hold the lines {', '.join(f'{name}: ({count} numbers)' for name, count in _NUMBERS.items())}."
    try:
        lines = read_text(path, 1_000_000).splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no text file.", todo) from error
    found: dict[str, NDArray[np.float64]] = {}
    for name, _, text in (line.partition(":") for line in lines):
        if (name := name.strip()) not in _NUMBERS:
            continue
        try:
            values = np.array([float(word) for word in text.split()])
        except ValueError:
            values = np.empty(0)
        if name in found or len(values) != _NUMBERS[name] or not np.isfinite(values).all():
            raise DataError(f"{path}: {name} is no matrix of {_NUMBERS[name]} numbers, given once.", todo)
        found[name] = values.reshape(3, -1)
    if missing := [name for name in _NUMBERS if name not in found]:
        raise DataError(f"{path}: {missing[0]} is missing.", todo)
    return Calibration(found["P2"], found["R0_rect"], found["Tr_velo_to_cam"])


def project(points: NDArray[Any], calibration: Calibration, size: tuple[int, int]) -> NDArray[np.float32]:
    """(H, W) float32 metres along the camera's axis of the laser points that it sees; 0 where there is none.

    w (u, v, 1) = P2 R0_rect Tr_velo_to_cam (x, y, z, 1), the formula of KITTI's object development kit (readme,
    "coordinate transformations"; Geiger et al. 2013, eq. 3 and 7 to 8); the map holds w. Points with w <= 0 lie behind
    the camera. u and v are rounded to the nearest pixel, and of several points in one the nearest counts.

    Args:
        points: (N, 3) or (N, 4), see :func:`read_velodyne`.
        calibration: of the same frame.
        size: height and width of the image.

    Raises:
        DataError: ``points`` has another shape.
    """
    if points.ndim != 2 or points.shape[1] not in (3, 4):
        raise DataError(f"points of shape {points.shape} cannot be projected.", "Give (N, 3) or (N, 4).")
    xyz1 = np.concatenate([points[:, :3].T.astype(np.float64), np.ones((1, len(points)))])
    rectified = calibration.r0_rect @ (calibration.tr_velo_to_cam @ xyz1)
    uvw = calibration.p2[:, :3] @ rectified + calibration.p2[:, 3:]
    u, v, w = uvw[:, uvw[2] > 0]
    columns, rows = np.floor(u / w + 0.5), np.floor(v / w + 0.5)
    height, width = size
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    depth = np.full(size, np.inf)
    np.minimum.at(depth, (rows[inside].astype(np.int64), columns[inside].astype(np.int64)), w[inside])
    return np.where(np.isfinite(depth), depth, 0).astype(np.float32)


@dataclass(frozen=True)
class _Frame:
    """A photo of a list."""

    photo: str
    """``<date>/<drive>/image_02/data/<number>.png``."""
    depth: str | None = ""
    """As the list has it; empty where it says nothing, ``None`` where it says that there is none."""

    @property
    def parts(self) -> tuple[str, str, int]:
        """Drive, camera and number."""
        found = _PHOTO.search(self.photo)
        assert found is not None  # lists are read by this pattern
        return found[1], found[2], int(found[3])

    @property
    def moment(self) -> tuple[str, int]:
        """Drive and number: both cameras saw the same."""
        drive, _, number = self.parts
        return drive, number

    def truth(self) -> str:
        """Where its ground truth is, from the folder of drives."""
        drive, camera, number = self.parts
        return self.depth or f"{drive}/proj_depth/groundtruth/{camera}/{number:010d}.png"


def read_kitti(root: Path, split: str) -> Found:
    """KITTI raw photos with the depth maps of KITTI's depth benchmark: by lists (the Eigen split), else by folders.

    Lists lie in the root or beside it (then with ``eigen`` or ``kitti`` in the name) and are called
    ``eigen_train_files.txt``, ``eigen_val_files.txt``, ``eigen_test_files.txt``, or much like it. A line is ``photo
    [depth or None] [focal length]``, ``left-photo right-photo``, or ``date/drive number l-or-r``. Without a list for
    ``split``, ``train/<drive>/proj_depth`` and ``val/...`` are read (``test`` reads ``val``).

    Files without ground truth are left out and counted. What shows a moment of the test list is an error in a list for
    training or validation: a list that breaks the split is not the one that was meant. Read by folders, all drives with
    test frames are left out, for their other frames show the same streets a tenth of a second away.

    Raises:
        DataError: no such folder, nothing in it that is KITTI's, a list that cannot be read, or test frames in it.
    """
    need_folder(root)
    lists = _lists(root)
    held = _read_list(lists["test"]) if "test" in lists and split != "test" else []
    disk = _Disk(root)
    if split in lists:
        frames = _read_list(lists[split])
        notes = _check_test(frames, held, lists[split], lists.get("test"))
        rows, more = _rows(frames, disk, lists[split], split)
    else:
        frames, notes = _by_folders(disk, split, {frame.parts[0] for frame in held})
        rows, more = _rows(frames, disk, root, "")
    return rows, notes + more


def _lists(root: Path) -> dict[str, Path]:
    """Split -> its list; those in the root go before those beside it."""
    for folder in (root, root.parent):
        found: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            match = _LIST.fullmatch(path.name)
            named = folder == root or re.search("eigen|kitti", path.name, re.IGNORECASE)
            if match is None or not named or not path.is_file():
                continue
            if found.setdefault(match[2].lower(), path) is not path:
                what = f"{found[match[2].lower()]} and {path.name} are both lists for {match[2].lower()}."
                raise DataError(what, "Move one of them elsewhere.")
        if found:
            return found
    return {}


def _read_list(file: Path) -> list[_Frame]:
    todo = "Write photo [depth or None] [focal length], left-photo right-photo, or date/drive number l-or-r."
    try:
        lines = read_text(file).splitlines()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error}).", "Check the list.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is no text file.", todo) from error
    frames: dict[str, _Frame] = {}
    for number, words in enumerate(map(str.split, lines), 1):
        try:
            for frame in _frames(words):
                frames.setdefault(frame.photo, frame)
        except ValueError as error:
            raise DataError(f"{file}, line {number}: {error} is no frame of KITTI.", todo) from error
    if not frames:
        raise DataError(f"{file}: the list is empty.", todo)
    return list(frames.values())


def _frames(words: list[str]) -> Iterator[_Frame]:
    """The photos of one line. Raises ValueError with what is none."""
    if not words:
        return
    first, *rest = words
    if _DRIVE.fullmatch(PurePosixPath(first).name):
        if len(rest) != 2 or not rest[0].isdecimal() or rest[1] not in ("l", "r"):
            raise ValueError(" ".join(words)[:200])
        yield _Frame(f"{first}/image_0{'lr'.index(rest[1]) + 2}/data/{int(rest[0]):010d}.png")
        return
    if not _PHOTO.search(first):
        raise ValueError(first[:200])
    second = rest[0] if rest else ""
    if _PHOTO.search(second):
        yield from (_Frame(first), _Frame(second))
    elif second.lower() == "none":
        yield _Frame(first, None)
    else:  # a line without a depth map may still have a focal length
        yield _Frame(first, second if second.lower().endswith(".png") else "")


def _check_test(frames: list[_Frame], held: list[_Frame], file: Path, test: Path | None) -> list[str]:
    """Raise ``DataError`` where a list holds a moment of the test list; a note on drives that both have."""
    moments = {frame.moment for frame in held}
    if shared := [frame.photo for frame in frames if frame.moment in moments]:
        what = f"{file}: {len(shared)} of {len(frames)} files show test frames of {test}, first {shared[0]}."
        raise DataError(what, "Take the published lists, or leave these lines out: a test on them proves nothing.")
    drives = sorted({frame.parts[0] for frame in frames} & {frame.parts[0] for frame in held})
    return [f"{len(drives)} drives of {file} are also test drives, first {drives[0]}."] if drives else []


class _Disk:
    """What lies below a root, each folder listed once: a split has 45,000 photos in a few dozen folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[str, frozenset[str]] = {}

    def has(self, path: str) -> bool:
        """Whether the root has such a file."""
        folder, _, name = path.rpartition("/")
        return name in self.names(folder)

    def names(self, folder: str) -> frozenset[str]:
        """Names in a folder of the root; none where there is no such folder."""
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(self.root / folder))
            except OSError:
                self._names[folder] = frozenset()
        return self._names[folder]

    def photo(self, frame: _Frame) -> Path | None:
        """The photo, also as the other of PNG and JPEG."""
        stem, suffix = frame.photo.rsplit(".", 1)
        names = (frame.photo, f"{stem}.{'jpg' if suffix == 'png' else 'png'}")
        return self._first(f"{place}/{name}".lstrip("/") for place in _PHOTO_PLACES for name in names)

    def truth(self, frame: _Frame) -> Path | None:
        """The depth map, if there is one."""
        if frame.depth is None:
            return None
        date = frame.parts[0][:10]
        return self._first(f"{place}/{frame.truth()}".lstrip("/") for place in (*_DEPTH_PLACES, date, f"raw/{date}"))

    def _first(self, paths: Iterator[str]) -> Path | None:
        return next((self.root / path for path in paths if self.has(path)), None)


def _by_folders(disk: _Disk, split: str, held: set[str]) -> tuple[list[_Frame], list[str]]:
    """All photos of the drives that KITTI's depth benchmark has for a split, without drives of ``held``."""
    part = "train" if split == "train" else "val"
    places = [place for place in (part, f"data_depth_annotated/{part}") if disk.names(place)]
    drives = sorted({name for place in places for name in disk.names(place) if _DRIVE.fullmatch(name)})
    if not drives:
        what = f"{disk.root}: holds neither a list ({split}_files.txt) nor {part}/<drive>/proj_depth."
        raise DataError(what, "Lay the files out as docs/depth-data.md says.")
    kept = [drive for drive in drives if drive not in held]
    if not kept:
        raise DataError(f"{disk.root}: all {len(drives)} drives of {part}/ have test frames.", "Get more drives.")
    frames = [frame for drive in kept for frame in _of_drive(disk, drive)]
    notes = left_out([drive for drive in drives if drive in held], f"drives of {part}/ that have test frames")
    if split == "test":
        notes.append(f"{disk.root}: there is no list of test files, so the drives of val/ are read.")
    return frames, notes


def _of_drive(disk: _Disk, drive: str) -> list[_Frame]:
    """Photos and depth maps of a drive, both cameras, each once."""
    found: set[str] = set()
    for camera in ("image_02", "image_03"):
        inner = f"{drive[:10]}/{drive}/{camera}/data"
        photos = (name for place in _PHOTO_PLACES for name in disk.names(f"{place}/{inner}".lstrip("/")))
        maps = f"{drive}/proj_depth/groundtruth/{camera}"
        truths = (name for place in _DEPTH_PLACES for name in disk.names(f"{place}/{maps}".lstrip("/")))
        stems = {name.rsplit(".", 1)[0] for name in (*photos, *truths)}
        found |= {photo for stem in stems if _PHOTO.search(photo := f"{inner}/{stem}.png")}
    return [_Frame(photo) for photo in sorted(found)]


def _rows(frames: list[_Frame], disk: _Disk, origin: Path, split: str) -> Found:
    """Photos with their ground truth; what lacks one of the two is counted in notes."""
    rows, missing, bare = list[Entry](), list[str](), list[str]()
    for frame in frames:
        photo, truth = disk.photo(frame), disk.truth(frame)
        if truth is None:
            bare.append(frame.photo)
        elif photo is None:
            missing.append(frame.photo)
        else:
            rows.append(Entry(photo, truth, unit=UNIT))
    if not rows:
        what = f"{origin}: of {len(frames)} photos {len(missing)} are not there and {len(bare)} have no depth map."
        raise DataError(what, "Lay the files out as docs/depth-data.md says.")
    notes = left_out(missing, f"photos of {origin} that are not there")
    if (len(frames), split) in {(count, name) for name, (count, _) in EIGEN_COUNTS.items()}:
        return rows, [*notes, _eigen_note(origin, len(frames), len(bare), len(rows), EIGEN_COUNTS[split][1])]
    return rows, notes + left_out(bare, f"files of {origin} without ground truth")


def _eigen_note(origin: Path, listed: int, bare: int, kept: int, known: int) -> str:
    first = f"{origin}: {listed} files as in the Eigen split, {bare} without ground truth are left out, {kept} stay"
    if bare == known:
        return f"{first}; {known} are known to have none."
    return f"{first}, but {known} are known to have none: look whether the depth maps are complete."
