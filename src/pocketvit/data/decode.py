"""Decoding the files of a collection, with errors that say what to do, and a memory-bounded cache for training."""

from __future__ import annotations

from collections import OrderedDict

import psutil

from pocketvit.data.collections import Collection, Item
from pocketvit.errors import DataError
from pocketvit.spec.images import read_image
from pocketvit.spec.preprocess import Pixels, resize

Decoded = tuple[Pixels, Pixels | None]
"""The image of an item and, for pairs, its ground truth."""


def read_item(collection: Collection, item: Item) -> Decoded:
    """Decode an item: (image, clean image or ``None``), each (H, W, 3) uint8.

    Raises:
        DataError: a file cannot be decoded, with the command that lists it for exclusion; or a pair differs in size.
    """
    try:
        image = read_image(item.path)
        clean = read_image(item.clean) if item.clean is not None else None
    except DataError as error:
        first, *rest = collection.roots or (str(item.path.parent),)
        others = f" --others {' '.join(rest)}" if rest else ""
        raise DataError(
            error.what, f"Leave damaged files out with: pocketvit doctor {first}{others} --quarantine"
        ) from error
    if clean is not None and clean.shape != image.shape:
        sizes = [f"{pixels.shape[1]}x{pixels.shape[0]}" for pixels in (image, clean)]
        raise DataError(
            f"{item.path}: {sizes[0]}, but its clean partner {item.clean} is {sizes[1]}.",
            "Remove the pair or cut both to one size.",
        )
    return image, clean


class ImageCache:
    """Decoded images, the least recently used ones dropped at a byte limit. What is returned never depends on what is cached."""

    def __init__(self, limit_bytes: int | None = None) -> None:
        self.limit_bytes = limit_bytes if limit_bytes is not None else default_limit()
        self._entries: OrderedDict[tuple[Item, int | None], Decoded] = OrderedDict()
        self.bytes = 0

    def get(self, collection: Collection, item: Item, short_side: int | None = None) -> Decoded:
        """The decoded item; with ``short_side``, images more than half as large again are shrunk to it first."""
        key = (item, short_side)
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key]
        image, clean = read_item(collection, item)
        if short_side is not None:
            image = _shrink(image, short_side)
        entry = (image, clean)
        self._entries[key] = entry
        self.bytes += _size(entry)
        while self.bytes > self.limit_bytes and len(self._entries) > 1:
            self.bytes -= _size(self._entries.popitem(last=False)[1])
        return entry

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.bytes = 0


def default_limit(processes: int = 1) -> int:
    """A quarter of the free memory, at most 2 GiB, shared by the loader processes."""
    return int(min(2 << 30, psutil.virtual_memory().available // 4)) // max(1, processes)


def _shrink(image: Pixels, short_side: int) -> Pixels:
    height, width = image.shape[:2]
    if min(height, width) <= 1.5 * short_side:
        return image
    scale = short_side / min(height, width)
    return resize(image, (max(1, round(height * scale)), max(1, round(width * scale))), "bicubic")


def _size(entry: Decoded) -> int:
    return sum(image.nbytes for image in entry if image is not None)
