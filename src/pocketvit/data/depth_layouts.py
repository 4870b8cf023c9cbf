"""Photos with depth maps beside them: 7-Scenes, and any folder of one's own."""

from __future__ import annotations

import re
from pathlib import Path

from pocketvit.data.entries import Entry, Found, left_out, need_folder
from pocketvit.errors import DataError
from pocketvit.spec.depth_files import SUFFIXES, read_depth
from pocketvit.spec.images import folders_below, list_images

MILLIMETRES = 0.001
TRAINED_SHARE = 0.8
"""Of the frames of a sequence; neighbours are nearly one picture, so that its end validates and never single frames."""
PHOTO_FOLDERS, DEPTH_FOLDERS = ("rgb", "image", "images"), ("depth", "depths")
_FRAME = re.compile(r"^(.*?)(\d+)\.color$")


def read_scenes7(root: Path, split: str) -> Found:
    """7-Scenes (Shotton et al. 2013): ``frame-NNNNNN.color.png`` (or .jpg) and ``frame-NNNNNN.depth.png``, 16-bit
    millimetres, in one folder or in a folder for each sequence.

    Of each sequence the first four fifths of the frames are for training, the rest for validation and test.
    """
    need_folder(root)
    sequences: dict[Path, list[tuple[int, Path]]] = {}
    for path in list_images(root):
        if match := _FRAME.match(path.stem):
            sequences.setdefault(path.parent, []).append((int(match[2]), path))
    if not sequences:
        what = f"{root}: holds no frame-NNNNNN.color.png or .jpg."
        raise DataError(what, "Name the folder of a sequence, or the one above it.")
    rows, lonely = list[Entry](), list[Path]()
    for frames in sequences.values():
        paths = [path for _, path in sorted(frames)]
        cut = round(TRAINED_SHARE * len(paths))
        for path in paths[:cut] if split == "train" else paths[cut:]:
            depth = path.with_name(f"{path.stem.removesuffix('.color')}.depth.png")
            if depth.is_file():
                rows.append(Entry(path, depth, unit=MILLIMETRES))
            else:
                lonely.append(path)
    return sorted(rows, key=lambda row: row.path), left_out(lonely, f"frames of {root} without a depth map")


def read_depth_folder(root: Path, split: str) -> Found:
    """Photos with depth maps of the same name: ``depth/`` beside ``rgb/``, ``image/`` or ``images/``, or each map
    beside its photo as ``<name>.png``, ``<name>_depth.png`` or ``.npy``. PNG is taken as 16-bit millimetres, .npy as
    metres.

    Photos without a map are left out.
    """
    need_folder(root)
    folders = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    photos, depths = (
        next((folders[name] for name in names if name in folders), None) for names in (PHOTO_FOLDERS, DEPTH_FOLDERS)
    )
    if photos and depths:
        found = {path: depths / path.relative_to(photos) for path in list_images(photos)}
    else:
        found = {path: path for path in list_images(root)}
    partners = {path: _partner(path, place) for path, place in found.items()}
    maps = {partner for partner in partners.values() if partner}
    rows = [Entry(path, depth, unit=_unit(depth)) for path, depth in partners.items() if depth and path not in maps]
    if not rows:
        what = f"{root}: holds no photo with a depth map."
        raise DataError(what, "Lay <name>_depth.png or <name>.npy beside <name>.jpg, or make folders rgb/ and depth/.")
    lonely = [path for path, depth in partners.items() if depth is None and path not in maps]
    return rows, left_out(lonely, f"photos of {root} without a depth map")


def _partner(photo: Path, place: Path) -> Path | None:
    """The depth map of a photo: a file of its name at ``place``, which is the photo itself where both lie together."""
    names = [place.with_name(f"{place.stem}{middle}{suffix}") for middle in ("_depth", "") for suffix in SUFFIXES]
    return next((name for name in names if name != photo and name.is_file()), None)


def _unit(depth: Path) -> float:
    return MILLIMETRES if depth.suffix.lower() == ".png" else 1.0


def has_frames(root: Path) -> bool:
    """Whether 7-Scenes' frames lie in ``root`` or in folders right below it."""
    return any(any(folder.glob("*.depth.png")) for folder in (root, *folders_below(root)))


def has_depth(root: Path) -> int:
    """How many photos below ``root`` have a depth map; a photo with another of its name beside it is none."""
    try:
        rows, _ = read_depth_folder(root, "train")
    except DataError:
        return 0
    return len(rows) if rows[0].clean and is_depth(rows[0].clean) else 0


def is_depth(path: Path) -> bool:
    """Whether a file is a depth map, by what it holds."""
    try:
        read_depth(path, 1.0)
    except DataError:
        return False
    return True
