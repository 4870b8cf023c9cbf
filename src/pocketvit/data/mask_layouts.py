"""Photos with masks beside them: a class for every pixel, and the list that names the classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pocketvit.data.entries import Entry, Found, left_out, need_folder, read_names
from pocketvit.errors import DataError
from pocketvit.spec.images import CLASS_LIST, list_images
from pocketvit.spec.mask_files import IGNORED, MOST_CLASSES, SUFFIX, read_mask

PHOTO_FOLDERS = ("images", "image", "photos", "rgb", "jpegimages")
MASK_FOLDERS = ("masks", "mask", "segmentationclass", "annotations")
"""Names in any case, of one's own, PASCAL VOC's and ADE20K's."""


def read_masks(root: Path, split: str) -> Found:
    """Photos in ``images/`` and PNG masks of the same names in ``masks/``; ``classes.txt`` in the same folder, or in
    the one above it, names the classes. The folders of PASCAL VOC (``JPEGImages/``, ``SegmentationClass/``) and ADE20K
    (``annotations/``) are known too.

    Photos without a mask, and masks without a photo, are left out.
    """
    need_folder(root)
    photos, masks = _sides(root)
    if photos is None or masks is None:
        what = f"{root}: holds no folders images/ and masks/."
        raise DataError(what, "Lay photos into images/ and a PNG mask of the same name for each into masks/.")
    classes = read_classes(root)
    found = {path: masks / path.relative_to(photos).with_suffix(SUFFIX) for path in list_images(photos)}
    rows = [Entry(path, mask, classes=classes) for path, mask in found.items() if mask.is_file()]
    if not rows:
        what = f"{root}: no photo has a mask: there is no {next(iter(found.values()))}."
        raise DataError(what, f"A mask has the name of its photo and ends in {SUFFIX}.")
    lonely = [path for path, mask in found.items() if not mask.is_file()]
    used = {row.clean for row in rows}
    spare = [path for path in sorted(masks.rglob(f"*{SUFFIX}")) if path not in used]
    notes = left_out(lonely, f"photos of {root} without a mask")
    return rows, notes + left_out(spare, f"masks of {root} without a photo")


def _sides(root: Path) -> tuple[Path | None, Path | None]:
    """Folders of photos and masks."""
    folders = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    photos, masks = (
        next((folders[name] for name in names if name in folders), None) for names in (PHOTO_FOLDERS, MASK_FOLDERS)
    )
    return photos, masks


def read_classes(root: Path) -> tuple[str, ...]:
    """Names of the classes beside the photos or one folder above; empty where there is no such list.

    Raises:
        DataError: it is no text, a line in it is empty, a name stands twice, or there are fewer than two or too many.
    """
    file = next((path for path in (root / CLASS_LIST, root.absolute().parent / CLASS_LIST) if path.is_file()), None)
    if file is None:
        return ()
    names = read_names(file)
    check_count(len(names), str(file))
    return names


def check_count(count: int, where: str) -> None:
    """Raise ``DataError`` for a number of classes that masks cannot have."""
    if not 2 <= count <= MOST_CLASSES:
        what = f"{where}: names {count} class{'es' * (count != 1)}."
        todo = (
            f"Masks have 2 to {MOST_CLASSES}, and {IGNORED} for pixels of none; what is in no other class is one too."
        )
        raise DataError(what, todo)


def known_classes(rows: Sequence[Entry], where: str) -> tuple[str, ...]:
    """The classes that all rows name.

    Raises:
        DataError: some name others than the first, or none does.
    """
    found = {row.classes: row for row in reversed(rows)}
    if len(found) > 1:
        first, other = (row.clean for row in list(found.values())[::-1][:2])
        what = f"{where}: the classes of {other} are not those of {first}."
        raise DataError(what, f"Lay the same {CLASS_LIST} beside all of the data.")
    classes = rows[0].classes
    if not classes:
        what = f"{where}: there is no {CLASS_LIST} that names the classes of its masks."
        raise DataError(what, f"Write {CLASS_LIST}, one name a line, the first for index 0; or name data.class_names.")
    return classes


def has_masks(root: Path) -> int:
    """How many photos below ``root`` have a mask; 0 where the first one is none."""
    try:
        rows, _ = read_masks(root, "train")
        assert rows[0].clean is not None
        read_mask(rows[0].clean)
    except DataError:
        return 0
    return len(rows)
