"""What each layout looks like on disk: one reader per layout, from a root to rows of paths and label texts."""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pocketvit.data.box_layouts import read_coco, read_kitti_objects, read_yolo
from pocketvit.data.depth_layouts import read_depth_folder, read_scenes7
from pocketvit.data.entries import Entry, Found, left_out, need_folder
from pocketvit.data.kitti import read_kitti
from pocketvit.data.mask_layouts import read_masks
from pocketvit.data.nyu import read_nyu
from pocketvit.errors import DataError
from pocketvit.files import read_text
from pocketvit.spec.images import IMAGE_SUFFIXES, folders_below, list_images

PAIR_WORDS = {"noisy": "clean", "real": "mean", "blur": "sharp"}
"""Word in the name of a degraded image or of its folder -> word for its ground truth."""
_WORD = re.compile(rf"^(.*?)[_-]?({'|'.join([*PAIR_WORDS, *PAIR_WORDS.values()])})(\d*)$")


def same_name(text: str) -> str:
    """A name in composed form (NFC): macOS writes an accent as a character of its own, others do not."""
    return unicodedata.normalize("NFC", text)


def read_clean(root: Path, split: str) -> Found:
    """Clean photos: a folder (with all folders below), a single image, or a text file with one path a line."""
    if os.path.isdir(root):
        return [Entry(path) for path in list_images(root)], []
    if root.suffix.lower() in IMAGE_SUFFIXES:
        return [Entry(path) for path in _present([root], root)], []
    return [Entry(path) for path in _present([root.parent / columns[0] for _, columns in read_lines(root)], root)], []


def read_pairs(root: Path, split: str) -> Found:
    """``noisy/`` and ``clean/`` with files of the same name, or ``*_real`` and ``*_mean`` side by side (any case)."""
    files = list_images(root)
    folders = {path.name.lower(): path for path in root.iterdir() if path.is_dir()}
    for word, partner in PAIR_WORDS.items():
        if word in folders and partner in folders:
            sides = folders[word], folders[partner]
            others = [path for path in files if not any(side in path.parents for side in sides)]
            notes = left_out(others, f"images of {root} outside {sides[0].name}/ and {sides[1].name}/")
            return _match(_keyed(files, sides[0]), _keyed(files, sides[1]), root), notes
    degraded: dict[Any, Path] = {}
    truth: dict[Any, Path] = {}
    for path in files:
        match = _WORD.match(path.stem.lower())
        if match is None:
            what = f"{path}: not part of a pair."
            raise DataError(what, "Use folders noisy/ and clean/, or names ending in _real and _mean.")
        key = (str(path.parent).lower(), match[1], match[3])
        side = degraded if match[2] in PAIR_WORDS else truth
        if key in side:
            raise DataError(f"{path} and {side[key].name} claim the same pair.", "Rename one of them.")
        side[key] = path
    return _match(degraded, truth, root), []


def read_sidd(root: Path, split: str) -> Found:
    """SIDD sRGB (Abdelhamed et al. 2018): ``Data/<scene>/GT_SRGB_0xx.PNG`` and ``NOISY_SRGB_0xx.PNG``.

    Scenes without both are left out, and so is a photo without its partner.
    """
    need_folder(root)
    data = root / "Data" if (root / "Data").is_dir() else root
    rows, incomplete, lonely = [], [], list[Path]()
    for scene in sorted(path for path in data.iterdir() if path.is_dir()):
        files = {path.name.upper(): path for path in scene.iterdir()}
        partners = {name: name.replace("GT_", "NOISY_", 1) for name in sorted(files) if name.startswith("GT_SRGB_")}
        pairs = [Entry(files[noisy], files[clean]) for clean, noisy in partners.items() if noisy in files]
        rows += pairs
        if not pairs:
            incomplete.append(scene.name)
            continue
        paired = {path for row in pairs for path in (row.path, row.clean)}
        photos = (files[name] for name in sorted(files) if name.startswith(("GT_SRGB_", "NOISY_SRGB_")))
        lonely += [path for path in photos if path not in paired]
    if not rows:
        what = f"{root}: holds no SIDD scene with GT_SRGB_*.PNG and NOISY_SRGB_*.PNG."
        raise DataError(what, "Name the folder that holds Data/.")
    notes = left_out(incomplete, "scene folders without a pair")
    return rows, notes + left_out(lonely, f"photos of {root} without their partner")


def read_gopro(root: Path, split: str) -> Found:
    """GoPro (Nah et al. 2016): ``[train|test/]<sequence>/{blur,blur_gamma,sharp}/NNNNNN.png``.

    ``blur`` is taken, else ``blur_gamma``.
    Where the root holds ``train`` and ``test``, the one that goes with ``split`` is read (``val`` reads ``test``).
    """
    need_folder(root)
    part = root / ("train" if split == "train" else "test")
    base = part if part.is_dir() else root
    rows: list[Entry] = []
    for sharp in sorted(path for path in folders_below(base) if path.name == "sharp"):
        blur = [folder for folder in (sharp.parent / "blur", sharp.parent / "blur_gamma") if folder.is_dir()]
        if not blur:
            what = f"{sharp.parent}: has sharp/ but neither blur/ nor blur_gamma/."
            raise DataError(what, "Copy the sequence again or remove it.")
        rows += _match(_keyed(list_images(blur[0]), blur[0]), _keyed(list_images(sharp), sharp), sharp.parent)
    if not rows:
        what = f"{base}: holds no sequence folder with blur/ and sharp/."
        raise DataError(what, "Name the folder that holds train/ and test/, or one of them.")
    return rows, []


def read_classes(root: Path, split: str) -> Found:
    """One folder per class; if every image lies exactly two folders deep, they are ``coarse/fine``.

    Deeper images belong to the first folder.
    """
    files = list_images(root)
    parts = [tuple(map(same_name, path.relative_to(root).parts[:-1])) for path in files]
    loose = [path for path, folders in zip(files, parts, strict=True) if not folders]
    if loose:
        what = f"{loose[0]}: lies in no class folder ({len(loose)} such files)."
        raise DataError(what, "Put every image into the folder of its class.")
    for path, folders in zip(files, parts, strict=True):
        if not all(map(_is_text, folders)):  # a label is text in manifests
            raise DataError(f"{path.parent}: the name of a class folder is not UTF-8.", "Rename the folder.")
    two = all(len(folders) == 2 for folders in parts)
    # Fine names may repeat below other coarse ones, so the fine label is the path; `labels` shortens it where it can.
    texts = [(p[0], f"{p[0]}/{p[1]}") if two else (p[0],) for p in parts]
    used = {folder for path in files for folder in path.parents}
    places = (path for path in folders_below(root) if path.parent == root or (two and path.parent.parent == root))
    empty = [path for path in places if path not in used]
    notes = left_out(empty, f"class folders of {root} without images")
    return [Entry(path, None, text, str(path)) for path, text in zip(files, texts, strict=True)], notes


def read_list(root: Path, split: str) -> Found:
    """Lines ``path, fine, coarse`` or ``path, label``; three and more labels are coarsest first (Yoga-82).

    Paths are relative to the list. Files that do not exist are an error that names the first and their number.
    """
    lines = read_lines(root)
    width = len(lines[0][1])
    rows = []
    for number, columns in lines:
        if len(columns) != width or width < 2 or not all(columns):
            what = f"{root}, line {number}: {len(columns)} columns instead of {max(width, 2)}, or an empty one."
            raise DataError(what, "Write every line as path, fine, coarse or path, label.")
        levels = tuple(map(same_name, columns[:0:-1] if width == 3 else columns[1:]))
        rows.append(Entry(root.parent / columns[0], None, levels, f"{root}, line {number}"))
    _present([row.path for row in rows], root)
    return rows, []


READERS: dict[str, Callable[[Path, str], Found]] = {
    "clean": read_clean,
    "pairs": read_pairs,
    "classes": read_classes,
    "list": read_list,
    "sidd": read_sidd,
    "gopro": read_gopro,
    "scenes7": read_scenes7,
    "depth": read_depth_folder,
    "kitti": read_kitti,
    "nyu": read_nyu,
    "masks": read_masks,
    **{"coco": read_coco, "yolo": read_yolo, "kitti-objects": read_kitti_objects},
}

DEPTH_LAYOUTS = ("depth", "scenes7", "kitti", "nyu")
"""Layouts whose partner files are depth maps."""
BOX_LAYOUTS = ("coco", "yolo", "kitti-objects")
"""Layouts whose photos have boxes."""
SPLIT_THEMSELVES = ("scenes7",)
"""Layouts whose root holds all parts: the reader gives those of training, or those of validation and test."""


def read_lines(file: Path) -> list[tuple[int, list[str]]]:
    """Number and columns of every line of a CSV file that is not blank.

    Raises DataError: the file cannot be read, is no text, holds a quotation mark that is not closed, or no line.
    """
    lines: list[tuple[int, list[str]]] = []
    begins = 1
    try:
        # Lines as CSV has them: splitlines() also splits at characters that names may hold.
        # Strict: a mark that is not closed would make one text of all the lines behind it.
        reader = csv.reader(io.StringIO(read_text(file), newline=""), skipinitialspace=True, strict=True)
        for columns in reader:
            stripped = [column.strip() for column in columns]
            lines += [(reader.line_num, stripped)] if any(stripped) else []
            begins = reader.line_num + 1
    except OSError as error:
        what = f"{file}: cannot be read ({error.strerror})."
        raise DataError(what, "Name an existing folder or list file.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is no text file.", "Name a folder or a list file, UTF-8.") from error
    except csv.Error as error:
        what = f"{file}, line {begins}: cannot be read ({error})."
        raise DataError(what, "Name a folder or a list file, UTF-8, with every quotation mark closed.") from error
    if not lines:
        raise DataError(f"{file}: the list is empty.", "Write one line for each entry.")
    return lines


def _present(paths: list[Path], origin: Path) -> list[Path]:
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        what = f"{origin}: {len(missing)} of {len(paths)} files do not exist, first {missing[0]}."
        raise DataError(what, f"Paths are relative to {origin.parent}.")
    return paths


def _is_text(name: str) -> bool:
    """Whether a name is more than bytes that the file system's encoding has not."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _keyed(files: list[Path], base: Path) -> dict[str, Path]:
    """Files below ``base`` by their path from there, without suffix and case."""
    found: dict[str, Path] = {}
    for path in (path for path in files if base in path.parents):
        key = same_name(path.relative_to(base).with_suffix("").as_posix()).lower()
        if found.setdefault(key, path) is not path:
            raise DataError(f"{found[key]} and {path.name} claim the same pair.", "Rename one of them.")
    return found


def _match(degraded: dict[Any, Path], truth: dict[Any, Path], root: Path) -> list[Entry]:
    lonely = [path for key, path in (degraded | truth).items() if (key in degraded) != (key in truth)]
    if lonely:
        what = f"{root}: {len(lonely)} images lack their partner, first {lonely[0]}."
        raise DataError(what, "Every degraded image needs a clean one of the same name.")
    return [Entry(path, truth[key]) for key, path in sorted(degraded.items(), key=lambda entry: entry[1])]
