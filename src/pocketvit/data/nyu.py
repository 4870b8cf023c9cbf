"""NYU Depth v2 (Silberman et al. 2012): photos with depth maps in millimetres, in folders or as MATLAB's labelled file.

The labelled file (``nyu_depth_v2_labeled.mat``, HDF5) is converted once into PNG files in the cache folder
(``POCKETVIT_CACHE``): everything else here reads image files, and damaged ones have a name.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.data.entries import Entry, Found, left_out, need_folder
from pocketvit.errors import DataError, MissingDependencyError
from pocketvit.files import make_folder, names_in, need_space
from pocketvit.progress import track
from pocketvit.spec.artifact import CACHE_VARIABLE, cache_root, new_folder
from pocketvit.spec.depth_pictures import write_depth_png
from pocketvit.spec.images import MAX_PIXELS, folders_below, write_image

UNIT = 1e-3
"""Metres of one step of a depth PNG."""
LABELLED, SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"
_SPLIT_NAMES = {"train": "trainNdxs", "val": "testNdxs", "test": "testNdxs"}
_PLACES = {
    "train": ("sync", "official_splits/train", "train"),
    "val": ("val", "official_splits/test", "test"),
    "test": ("official_splits/test", "test"),
}
"""Folders of the root that hold a split, where there are any."""
_RGB, _DEPTH = _SIDES = ("rgb", "depth")
"""Folders of photos and of depth maps with the same names."""
_EXTRA = "depth"
_MOST_PAIRS = 100_000
_MOST_CHUNK_BYTES = 1 << 30
_PHOTO = re.compile(r"rgb_(\d+)\.(jpg|jpeg|png)", re.IGNORECASE)
_MAP = re.compile(r"sync_depth_(\d+)\.png", re.IGNORECASE)
_IMAGE, _PNG = (re.compile(rf"(.+)\.({kinds})", re.IGNORECASE) for kinds in ("jpg|jpeg|png", "png"))
_MAT_TODO = f"Copy it again: it is to be NYU's {LABELLED} (MATLAB 7.3, which is HDF5)."


def read_nyu(root: Path, split: str) -> Found:
    """NYU Depth v2: a folder of photos and depth maps, or the labelled ``.mat`` (or the folder that holds it).

    In folders a pair is ``rgb_00045.jpg`` and ``sync_depth_00045.png`` in one folder, or files of one name in ``rgb/``
    and ``depth/``; depth is 16 bit, in millimetres. Where the root holds ``train`` and ``test`` (or ``sync`` and
    ``official_splits/test``), the one that goes with ``split`` is read, for ``val`` that of the test. Of the labelled
    file the official split is read where ``splits.mat`` lies beside it, else all pairs, which a note says.

    Raises:
        DataError: nothing there, or a file that is damaged or something else.
        MissingDependencyError: h5py (for the ``.mat``) or SciPy (for ``splits.mat``) is not installed.
    """
    if root.suffix.lower() == ".mat" and os.path.isfile(root):
        return _labelled(root, split)
    need_folder(root)
    if os.path.isfile(root / LABELLED):
        return _labelled(root / LABELLED, split)
    base = next((root / place for place in _PLACES.get(split, ()) if os.path.isdir(root / place)), root)
    rows, lonely = list[Entry](), list[Path]()
    for folder in folders_below(base):
        found, without = _pairs(folder)
        rows += found
        lonely += without
    if not rows:
        what = f"{base}: holds no pair rgb_*.jpg and sync_depth_*.png, and no rgb/ and depth/ with files of one name."
        raise DataError(what, "Lay the files out as docs/depth-data.md says.")
    return sorted(rows, key=lambda row: row.path), left_out(sorted(lonely), f"files of {base} without their partner")


def _pairs(folder: Path) -> tuple[list[Entry], list[Path]]:
    """Pairs of one folder, and files that lack their partner."""
    names = names_in(folder)
    sides = [(_keyed(folder, names, _PHOTO), _keyed(folder, names, _MAP))]
    if set(_SIDES) <= set(names):
        photos, maps = folder / _RGB, folder / _DEPTH
        sides.append((_keyed(photos, names_in(photos), _IMAGE), _keyed(maps, names_in(maps), _PNG)))
    elif folder.name in _SIDES and set(_SIDES) <= set(names_in(folder.parent)):
        return [], []  # read with the folder above
    rows, lonely = list[Entry](), list[Path]()
    for left, right in sides:
        rows += [Entry(left[key], right[key], unit=UNIT) for key in sorted(left.keys() & right.keys())]
        lonely += [(left | right)[key] for key in left.keys() ^ right.keys()]
    return rows, lonely


def _keyed(folder: Path, names: Sequence[str], pattern: re.Pattern[str]) -> dict[str, Path]:
    """Files of a folder by what ``pattern`` takes of their names, without case."""
    found: dict[str, Path] = {}
    for name in names:
        match = None if name.startswith(".") else pattern.fullmatch(name)
        if match and found.setdefault(match[1].lower(), path := folder / name) is not path:
            raise DataError(f"{found[match[1].lower()]} and {name} claim the same pair.", "Rename one of them.")
    return found


def _labelled(mat: Path, split: str) -> Found:
    folder = _converted(mat)
    photos = names_in(folder / _RGB)
    rows = [Entry(folder / _RGB / name, folder / _DEPTH / name, unit=UNIT) for name in photos]
    notes = [f"{mat}: its {len(rows)} pairs are PNG files in {folder}."]
    splits = mat.with_name(SPLITS)
    if not splits.is_file():
        return rows, [*notes, f"{mat}: there is no {SPLITS} beside it, so that all pairs are read for {split}."]
    return [rows[i] for i in _indices(splits, _SPLIT_NAMES[split], len(rows))], notes


def _indices(file: Path, name: str, count: int) -> list[int]:
    """Numbers, from 0, of the pairs that a ``splits.mat`` lists."""
    try:
        import scipy.io
    except ImportError as error:
        raise MissingDependencyError.of("scipy", _EXTRA) from error
    todo = "Copy it again from NYU's page, or move it elsewhere to read all pairs."
    names = sorted(set(_SPLIT_NAMES.values()))
    try:
        content = scipy.io.loadmat(file, variable_names=names)
        listed = {each: np.asarray(content[each]).astype(np.int64).ravel().tolist() for each in names}
    except Exception as error:  # SciPy raises nearly everything for damaged files
        what = f"{file}: cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})."
        raise DataError(what, todo) from error
    every = [number for numbers in listed.values() for number in numbers]
    if not listed[name] or min(every) < 1 or max(every) > count or len(set(every)) != len(every):
        what = f"{file}: {', '.join(names)} do not part the pairs 1 to {count}, each of them once."
        raise DataError(what, todo)
    return [number - 1 for number in listed[name]]


def _converted(mat: Path) -> Path:
    """The folder with ``rgb/`` and ``depth/`` made of a labelled file; made once for each state of the file."""
    status = mat.stat()
    state = f"{mat.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    key = hashlib.blake2b(os.fsencode(state), digest_size=12).hexdigest()
    todo = f"Set {CACHE_VARIABLE} to a folder that can be written and has space for some gigabytes."
    folder = cache_root(mat, todo) / "nyu" / key
    if (photos := names_in(folder / _RGB)) and photos == names_in(folder / _DEPTH):
        return folder
    with _opened(mat) as (images, depths):
        make_folder(folder.parent)
        need_space(folder.parent, images.size + 2 * depths.size)
        with new_folder(folder, replace=True) as partial, track(f"pairs of {mat.name}", len(images)) as advance:
            for i in range(len(images)):
                photo, depth = _pair(mat, images, depths, i)
                write_image(partial / _RGB / f"{i:05d}.png", photo)
                write_depth_png(partial / _DEPTH / f"{i:05d}.png", depth)
                advance()
    return folder


@contextmanager
def _opened(mat: Path) -> Iterator[tuple[Any, Any]]:
    """The data sets ``images`` (N, 3, W, H) uint8 and ``depths`` (N, W, H) float, opened and not read."""
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError.of("h5py", _EXTRA) from error
    try:
        file = h5py.File(mat, "r")
    except OSError as error:
        what = f"{mat}: cannot be opened ({' '.join(str(error).split())[:200]})."
        raise DataError(what, _MAT_TODO) from error
    with file:
        images, depths = (_dataset(h5py, file, mat, name) for name in ("images", "depths"))
        shapes = f"images {images.shape} {images.dtype} and depths {depths.shape} {depths.dtype}"
        count, width, height = depths.shape if depths.ndim == 3 else (0, 0, 0)
        if images.shape != (count, 3, width, height) or images.dtype != np.uint8 or depths.dtype.kind != "f":
            what = f"{mat}: {shapes}, instead of (N, 3, W, H) uint8 and (N, W, H) floats."
            raise DataError(what, _MAT_TODO)
        if not 0 < count <= _MOST_PAIRS or not 0 < width * height <= MAX_PIXELS:
            raise DataError(f"{mat}: {shapes} are too many pairs or pixels, or none.", _MAT_TODO)
        yield images, depths


def _dataset(h5py: Any, file: Any, mat: Path, name: str) -> Any:
    """A data set that lies in the file itself: HDF5 can have it point to any other file of this machine."""
    try:
        found: Any = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
        inside = isinstance(found, h5py.Dataset) and not found.is_virtual and not found.external
        chunk = int(np.prod(found.chunks)) * found.dtype.itemsize if inside and found.chunks else 0
    except Exception as error:  # damaged files raise nearly everything
        what = f"{mat}: {name} cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})."
        raise DataError(what, _MAT_TODO) from error
    if not inside or chunk > _MOST_CHUNK_BYTES:
        raise DataError(f"{mat}: holds no array {name} of its own.", _MAT_TODO)
    return found


def _pair(mat: Path, images: Any, depths: Any, i: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """(H, W, 3) uint8 and (H, W) metres of one pair: MATLAB counts columns first."""
    try:
        photo = np.ascontiguousarray(np.asarray(images[i]).transpose(2, 1, 0))
        depth = np.ascontiguousarray(np.asarray(depths[i], np.float32).T)
    except Exception as error:
        what = f"{mat}: pair {i + 1} cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})."
        raise DataError(what, _MAT_TODO) from error
    if not np.isfinite(depth).all() or depth.max() > 65.0:
        what = f"{mat}: pair {i + 1} has depths up to {depth.max():g}, which are no metres of a room."
        raise DataError(what, _MAT_TODO)
    return photo, depth
