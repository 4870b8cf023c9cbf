"""Decoding the files of a collection, with errors that say what to do, and a memory-bounded cache for training."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path

import numpy as np
import psutil

from pocketvit.data.collections import Collection, Item
from pocketvit.errors import DataError
from pocketvit.spec.images import read_image
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.tasks import task_of
from pocketvit.spec.tasks.base import Truth

Decoded = tuple[Pixels, Truth | None]
"""The image of an item and, for pairs, what its partner holds; or its boxes."""


def read_item(collection: Collection, item: Item) -> Decoded:
    """Decode an item: an (H, W, 3) uint8 image, and its partner as the task reads it or ``None``.

    Raises DataError: a file cannot be decoded, with the command that lists it for exclusion; or the sizes of a pair do
    not go together.
    """
    partner = task_of(collection.task).partner
    try:
        image = read_image(item.path)
        clean = partner.read(item.clean, item.unit) if item.clean is not None else None
    except DataError as error:
        raise DataError(error.what, _left_out(collection, item, error.todo)) from error
    if clean is not None and not partner.fits(image.shape[:2], clean.shape[:2]):
        sizes = [f"{pixels.shape[1]}x{pixels.shape[0]}" for pixels in (image, clean)]
        what = f"{item.path}: {sizes[0]}, but its {partner.name} {item.clean} is {sizes[1]}."
        turned = "Turn it: of a photo that EXIF turns the size is that which is shown."
        todo = turned if image.shape[:2] == clean.shape[1::-1] else "Remove the pair or cut both to one size."
        raise DataError(what, todo)
    if clean is not None and (fault := partner.fault(clean, collection.levels)):
        raise DataError(f"{item.clean}: {fault}.", f"Correct the {partner.name}, or the list of classes.")
    if item.boxes is not None:
        return image, np.asarray(item.boxes, np.float32).reshape(-1, 5)
    return image, clean


def _left_out(collection: Collection, item: Item, todo: str) -> str:
    """What to do about a file that cannot be used: what its reader says, and how to leave out all such files."""
    first, *rest = collection.roots or (str(item.path.parent),)
    others = f" --others {' '.join(rest)}" if rest else ""
    also = task_of(collection.task).partner.doctor.format(layout=collection.layout) if item.clean is not None else ""
    own = "" if "pocketvit doctor" in todo else f"{todo} "
    return f"{own}Leave damaged files out with: pocketvit doctor {first}{others}{also} --quarantine"


class ImageCache:
    """Decoded images, the least recently used ones dropped at a byte limit; nothing returned depends on what is kept.

    An entry belongs to the file as it was: after a change of the file it is decoded again.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        self.limit_bytes = limit_bytes if limit_bytes is not None else default_limit()
        self._entries: OrderedDict[Hashable, Decoded] = OrderedDict()
        self.bytes = 0

    def get(
        self,
        collection: Collection,
        item: Item,
        change: Callable[[Decoded], Decoded] | None = None,
        tag: Hashable = None,
    ) -> Decoded:
        """The decoded item through ``change``, a pure function; the result is kept.

        ``tag`` tells the results of different changes of one file apart.
        """
        key = (collection.task, _identity(item.path), item.clean and _identity(item.clean), item.unit, item.boxes, tag)
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key]
        found = read_item(collection, item)
        entry = self._entries[key] = change(found) if change else found
        self.bytes += _size(entry)
        while self.bytes > self.limit_bytes and len(self._entries) > 1:
            self.bytes -= _size(self._entries.popitem(last=False)[1])
        return entry


def default_limit(processes: int = 1) -> int:
    """A quarter of the free memory, at most 2 GiB, shared by the loader processes."""
    return int(min(2 << 30, psutil.virtual_memory().available // 4)) // max(1, processes)


def _identity(path: Path) -> tuple[str | int, ...]:
    """Which file in which state: absolute path, file on its disk, bytes, time of the last change."""
    try:
        status = path.stat()
        return str(path.absolute()), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    except OSError:  # decoding names the reason
        return (str(path.absolute()),)


def _size(entry: Decoded) -> int:
    return sum(image.nbytes for image in entry if image is not None)
