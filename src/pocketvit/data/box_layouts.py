"""Photos with boxes on disk: COCO's JSON, YOLO's text files, KITTI's object labels.

A reader gives for each photo its boxes in shares of it, and all classes that the layout names. Photos without a box are
samples too: they show what is not there.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from pocketvit.data.entries import Entry, Found, class_name, left_out, need_folder, read_names
from pocketvit.errors import DataError
from pocketvit.files import read_text
from pocketvit.spec.images import CLASS_LIST, list_images, size_of

Box = tuple[str, float, float, float, float]
OVERHANG = 0.01
"""Share of the photo by which a box may reach beyond it, from rounding; it is cut there. Further out it is an error."""
KITTI_CLASSES = ("Car", "Pedestrian", "Cyclist")
"""The three that KITTI scores (Geiger et al. 2012); others and DontCare are no classes here."""
MOST_JSON = 2_000_000_000
"""Bytes; that of COCO 2017 has 448 million."""
_MOST_SIDE = 1e9
_SINGULAR = {"images": "image", "categories": "category"}
_SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


def checked(label: str, sides: Sequence[float], where: str) -> Box:
    """A box of left, top, right, bottom in shares of the photo, cut at its edges.

    Raises:
        DataError: no numbers, no area, or it reaches out of the photo by more than ``OVERHANG``.
    """
    if not all(math.isfinite(x) for x in sides):
        raise DataError(f"{where}: the box holds NaN or infinity.", "Correct the label.")
    left, top, right, bottom = sides
    if not (left < right and top < bottom):
        raise DataError(f"{where}: the box has no area.", "Correct the label, or remove it.")
    if min(left, top) < -OVERHANG or max(right, bottom) > 1 + OVERHANG:
        shares = ", ".join(f"{x:.3f}" if abs(x) < 1e6 else f"{x:.3g}" for x in sides)
        what = f"{where}: the box reaches out of the photo (left, top, right, bottom in shares of it: {shares})."
        raise DataError(what, "Correct the label; has the photo been resized or turned since?")
    inside = [min(1.0, max(0.0, x)) for x in sides]
    if not (inside[0] < inside[2] and inside[1] < inside[3]):
        raise DataError(f"{where}: the box lies outside the photo.", "Correct the label, or remove it.")
    return (label, *inside)  # type: ignore[return-value]


def read_coco(root: Path, split: str) -> Found:
    """COCO (Lin et al. 2014): ``instances*.json`` with ``images``, ``annotations`` (``bbox``: x, y, width, height in
    pixels) and ``categories``.

    ``root`` is the JSON file, or the folder that holds it, or ``annotations/`` with it; of several files the one with
    the split's name is taken. Photos lie beside it, in ``images/``, or in a folder of the split's name. Boxes of crowds
    and those without an area are left out.
    """
    file = root if root.suffix.lower() == ".json" else _coco_file(root, split)
    document = _json(file)
    names = _categories(document, file)
    photos = {
        key: (_field(row, "file_name", str, f"{file}, image {key}"), row)
        for key, row in _by_id(document, "images", file).items()
    }
    base = _photo_folder(file, root, split, [name for name, _ in photos.values()])
    sizes = {key: _stated_size(base / name, row, f"{file}, image {key}") for key, (name, row) in photos.items()}
    found: dict[Any, list[Box]] = {key: [] for key in photos}
    crowds, empty = list[str](), list[str]()
    for number, row in enumerate(_list(document, "annotations", file)):
        where = f"{file}, annotation {row.get('id', number)}"
        photo, category = (_field(row, key, (int, str), where) for key in ("image_id", "category_id"))
        if photo not in photos:
            raise DataError(f"{where}: there is no image {photo}.", "Copy the file again.")
        if category not in names:
            raise DataError(f"{where}: there is no category {category}.", "Copy the file again.")
        if row.get("iscrowd"):
            crowds.append(where)
            continue
        x, y, wide, tall = _numbers(row.get("bbox"), where)
        if wide <= 0 or tall <= 0:
            empty.append(where)
        else:
            height, width = sizes[photo]
            sides = (x / width, y / height, (x + wide) / width, (y + tall) / height)
            found[photo].append(checked(names[category], sides, where))
    classes = tuple(dict.fromkeys(names[key] for key in sorted(names, key=lambda k: (str(type(k)), k))))
    rows = [
        Entry(base / name, origin=str(file), classes=classes, boxes=tuple(found[key]))
        for key, (name, _) in photos.items()
    ]
    notes = left_out(crowds, "boxes of crowds") + left_out(empty, "boxes without an area")
    return sorted(rows, key=lambda row: row.path), notes


def _coco_file(root: Path, split: str) -> Path:
    need_folder(root)
    files = sorted(path for folder in (root, root / "annotations") for path in folder.glob("*.json"))
    instances = [path for path in files if path.stem.startswith("instances") or "coco" in path.stem] or files
    mine = [path for path in instances if any(name in path.stem.lower() for name in _SPLITS[split])]
    chosen = mine if len(instances) > 1 else instances
    if len(chosen) != 1:
        names = ", ".join(path.name for path in chosen or instances) or "none"
        what = f"{root}: which JSON file has the boxes of {split} is not clear (there is {names})."
        raise DataError(what, "Name the JSON file itself, or the layout that the data have (yolo, kitti-objects).")
    return chosen[0]


def _photo_folder(file: Path, root: Path, split: str, names: Sequence[str]) -> Path:
    """The folder below which all photos lie. Raises DataError: there is none, with the first photo that is missing."""
    tops = list(dict.fromkeys((file.parent, file.parent.parent if file.parent.name == "annotations" else file.parent)))
    own = file.stem.removeprefix("instances_")
    folders = [top / inner for top in tops for inner in ("", "images", own, f"images/{own}", *_SPLITS[split])]
    missing = {
        folder: [name for name in names if not os.path.isfile(folder / name)] for folder in folders if folder.is_dir()
    }
    best = min(missing, key=lambda folder: len(missing[folder]))
    if not names:
        raise DataError(f"{file}: lists no images.", "Name another file.")
    if lost := missing[best]:
        what = f"{file}: {len(lost)} of {len(names)} photos do not exist, first {str(best / lost[0])[:300]}."
        raise DataError(what, "Lay the photos beside the JSON file or in images/.")
    return best


def _stated_size(photo: Path, row: dict[str, Any], where: str) -> tuple[int, int]:
    """Height and width as the JSON states them. Raises DataError: they are none, or the photo has others."""
    stated = tuple(_field(row, key, (int, float), where) for key in ("height", "width"))
    if not all(0 < side < _MOST_SIDE for side in stated):
        raise DataError(f"{where}: its height and width are those of no photo.", "Correct them.")
    try:
        real = size_of(photo)
    except DataError:
        real = stated  # a damaged photo is told by whoever decodes it, and may be in a quarantine list
    if real != stated:
        what = f"{where}: {photo} is {real[1]}x{real[0]}, the file says {stated[1]}x{stated[0]}."
        raise DataError(what, "The boxes are of another version of the photo: take that one.")
    return stated


def _json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_text(file, MOST_JSON))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error}).", "Check the path.") from error
    except (ValueError, RecursionError) as error:  # of nesting without end, and of numbers
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(f"{file}{line}: is no JSON ({error}).", "Copy the file again.") from error
    if not isinstance(document, dict):
        raise DataError(f"{file}: is not of COCO's form.", "Give a file with images, annotations and categories.")
    return document


def _list(document: dict[str, Any], key: str, file: Path) -> list[dict[str, Any]]:
    rows = document.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        what = f"{file}: has no list of {key}."
        raise DataError(what, "Give a file with images, annotations and categories.")
    return rows


def _field(row: dict[str, Any], key: str, kinds: Any, where: str) -> Any:
    value = row.get(key)
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise DataError(f"{where}: has no {key} that can be used.", "Copy the file again.")
    return value


def _by_id(document: dict[str, Any], key: str, file: Path) -> dict[Any, dict[str, Any]]:
    """Rows of a list by their ids. Raises DataError: one has none, or that of another."""
    rows: dict[Any, dict[str, Any]] = {}
    for number, row in enumerate(_list(document, key, file)):
        where = f"{file}, {_SINGULAR[key]} {row.get('id', number)}"
        if rows.setdefault(_field(row, "id", (int, str), where), row) is not row:
            raise DataError(f"{where}: another of the {key} has this id.", "Give every one an id of its own.")
    return rows


def _numbers(value: Any, where: str) -> list[float]:
    if not isinstance(value, list) or len(value) != 4 or not all(type(x) in (int, float) for x in value):
        todo = "Correct the annotation; outlines without a box are not read."
        raise DataError(f"{where}: bbox must be x, y, width, height.", todo)
    if not all(-_MOST_SIDE < x < _MOST_SIDE for x in value):
        raise DataError(f"{where}: the box holds NaN, infinity or far too large numbers.", "Correct the annotation.")
    return [float(x) for x in value]


def _categories(document: dict[str, Any], file: Path) -> dict[Any, str]:
    names = {
        key: class_name(_field(row, "name", str, f"{file}, category {key}"), f"{file}, category {key}")
        for key, row in _by_id(document, "categories", file).items()
    }
    if len(set(names.values())) != len(names) or not names:
        raise DataError(f"{file}: has no categories, or two of one name.", "Give every category a name of its own.")
    return names


def read_yolo(root: Path, split: str) -> Found:
    """YOLO: ``images/`` and ``labels/`` with a text file of the same name, in each line ``class cx cy width height`` in
    shares of the photo; the classes' names in ``classes.txt`` (one a line) or ``data.yaml`` (``names``).

    Below both there may be a folder for each split, or both may lie in one. A photo without a text file has no box.
    """
    need_folder(root)
    base = next((root / name for name in _SPLITS[split] if (root / name / "images").is_dir()), root)
    photos, labels = base / "images", base / "labels"
    if not photos.is_dir() or not labels.is_dir():
        raise DataError(f"{root}: has no images/ and labels/ side by side.", "Name the folder that holds both.")
    part = next((name for name in _SPLITS[split] if (photos / name).is_dir()), "")
    photos, labels = photos / part, labels / part
    classes = _class_names(root, base)
    files = list_images(photos)
    rows, used = [], set[Path]()
    for path in files:
        label = (labels / path.relative_to(photos)).with_suffix(".txt")
        used.add(label)
        boxes = tuple(_yolo_boxes(label, classes)) if label.is_file() else ()
        rows.append(Entry(path, origin=str(label), classes=classes, boxes=boxes))
    lonely = [path for path in sorted(labels.rglob("*.txt")) if path not in used and path.name != CLASS_LIST]
    return rows, left_out(lonely, f"label files of {labels} without a photo")


def _class_names(root: Path, base: Path) -> tuple[str, ...]:
    """Names in ``root`` or ``base``, or in the two files of the usual names one folder above."""
    inside = [
        file
        for folder in dict.fromkeys((root, base))
        for file in (folder / CLASS_LIST, *sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]))
    ]
    above = root.absolute().parent
    for file in (*inside, above / CLASS_LIST, above / "data.yaml"):
        if file.is_file() and (names := read_names(file) if file.suffix == ".txt" else _names_in(file)):
            return names
    what = f"{root}: the classes have no names."
    raise DataError(what, "Write them into classes.txt, one a line, or into data.yaml as names.")


def _names_in(file: Path) -> tuple[str, ...]:
    """Names of a YAML file; none where it holds none."""
    try:
        document = yaml.load(read_text(file), yaml.BaseLoader)  # text alone: `no` is a name, and tags make nothing
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read ({' '.join(str(error).split())[:200]}).", "Correct it.") from error
    names = document.get("names") if isinstance(document, dict) else None
    if isinstance(names, dict):
        if names.keys() != {str(k) for k in range(len(names))}:
            raise DataError(f"{file}: names do not count from 0.", "Number the classes 0, 1, ...")
        names = [names[str(k)] for k in range(len(names))]
    if not isinstance(names, list):
        return ()
    if not all(isinstance(name, str) for name in names):
        raise DataError(f"{file}: names are no list of names.", "Write names: [first, second].")
    found = tuple(class_name(name, f"{file}, names") for name in names)
    if len(set(found)) != len(found):
        raise DataError(f"{file}: two classes have one name.", "Give every class a name of its own.")
    return found


def _lines(file: Path) -> Iterator[tuple[str, list[str]]]:
    """Where each line that is not blank stands, and its words."""
    try:
        text = read_text(file)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error}).", "Copy it again.") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if words := line.split():
            yield f"{file}, line {number}", words


def _floats(words: Sequence[str], where: str) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise DataError(f"{where}: {' '.join(words)[:80]} are no numbers.", "Correct the label.") from error


def _yolo_boxes(file: Path, classes: Sequence[str]) -> Iterator[Box]:
    for where, words in _lines(file):
        if len(words) != 5:
            what = f"{where}: {len(words)} columns, not class, centre x, centre y, width, height."
            comma = "Write spaces between the columns, no commas."
            todo = "Outlines and points of other YOLO tasks are not read: write boxes."
            raise DataError(what, comma if "," in words[0] else todo)
        if not words[0].isdecimal() or len(words[0]) > 9 or int(words[0]) >= len(classes):
            known = f"the {len(classes)} that have names (0 to {len(classes) - 1})"
            what = f"{where}: class {words[0][:20]} is none of {known}."
            raise DataError(what, "Correct the label, or the list of names.")
        x, y, wide, tall = _floats(words[1:], where)
        sides = (x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2)
        yield checked(classes[int(words[0])], sides, where)


def read_kitti_objects(root: Path, split: str) -> Found:
    """KITTI's object data (Geiger et al. 2012): ``image_2/NNNNNN.png`` and ``label_2/NNNNNN.txt``; its two-dimensional
    boxes of cars, pedestrians and cyclists. ``root`` holds both, or ``training/`` with both.
    """
    need_folder(root)
    base = next((folder for folder in (root, root / "training") if (folder / "label_2").is_dir()), root)
    if not (base / "label_2").is_dir() or not (base / "image_2").is_dir():
        raise DataError(f"{root}: has no image_2/ and label_2/ side by side.", "Name the folder that holds both.")
    rows, others, lonely, unread = [], list[str](), list[Path](), list[Path]()
    for path in list_images(base / "image_2"):
        label = (base / "label_2" / path.name).with_suffix(".txt")
        if not label.is_file():
            lonely.append(path)
            continue
        try:
            height, width = size_of(path)
        except DataError:
            unread.append(path)
            continue
        boxes = []
        for where, words in _lines(label):
            if words[0] not in KITTI_CLASSES:
                others.append(f"{words[0]} ({where})")
                continue
            if len(words) < 8:
                raise DataError(f"{where}: {len(words)} columns; the box is in columns 5 to 8.", "Copy the file again.")
            x0, y0, x1, y1 = _floats(words[4:8], where)
            boxes.append(checked(words[0], (x0 / width, y0 / height, x1 / width, y1 / height), where))
        rows.append(Entry(path, origin=str(label), classes=KITTI_CLASSES, boxes=tuple(boxes)))
    if not rows:
        raise DataError(f"{root}: holds no photo with labels.", "Name the folder that holds image_2/ and label_2/.")
    notes = left_out(others, f"boxes of other classes than {', '.join(KITTI_CLASSES)}")
    notes += left_out(lonely, f"photos of {root} without labels") + left_out(unread, "photos that cannot be read")
    return rows, notes


def has_yolo(root: Path) -> bool:
    """Whether labels that look like YOLO's lie beside photos, in ``root`` or in folders of splits below it."""
    bases = [root, *(root / name for name in _SPLITS["train"])]
    return any((base / "images").is_dir() and any((base / "labels").rglob("*.txt")) for base in bases)


def has_coco(root: Path) -> bool:
    """Whether a JSON file is named as COCO's are."""
    folders = (root, root / "annotations")
    return any(os.path.isfile(file) for folder in folders for file in folder.glob("*instances*.json")) or any(
        root.glob("*coco*.json")
    )
