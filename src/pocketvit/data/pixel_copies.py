"""Which photos hold the same pixels in whatever format they lie: by the size in their headers, then decoded.

Files of the same bytes are what ``copies`` finds; here a JPEG and the PNG that its pixels were written to are copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pocketvit.data.collections import Collection, Item
from pocketvit.errors import PocketvitError
from pocketvit.progress import track
from pocketvit.spec.images import digest_of, open_image, read_image

_Size = tuple[int, ...]
_T = TypeVar("_T")


def copied_items(part: Collection, held: Collection) -> frozenset[Item]:
    """Those of ``part`` of which a picture (the photo, or its clean one) holds the pixels of a picture of ``held``.

    Decoded are only pictures of a size that both have. Pictures that cannot be read are copies of nothing: whoever
    decodes them names them.
    """
    mine, theirs = (_sizes(file for item in each.items for file in _files(item)) for each in (part, held))
    shared = set(mine.values()) & set(theirs.values())
    known = set(_digests([file for file, size in theirs.items() if size in shared]).values())
    digests = _digests([file for file, size in mine.items() if size in shared]) if known else {}
    return frozenset(item for item in part.items if any(digests.get(file) in known for file in _files(item)))


def _files(item: Item) -> list[Path]:
    return [file for file in (item.path, item.clean) if file is not None]


def _sizes(files: Iterable[Path]) -> dict[Path, _Size]:
    return _each("looking at sizes of photos", files, _size)


def _digests(files: Iterable[Path]) -> dict[Path, str]:
    return _each("looking for copies of photos", files, lambda file: digest_of(read_image(file)))


def _each(label: str, files: Iterable[Path], ask: Callable[[Path], _T]) -> dict[Path, _T]:
    """What is known of each file, those left out that cannot be read."""
    found, asked = dict[Path, _T](), list(dict.fromkeys(files))
    with track(label, len(asked)) as advance:
        for file in asked:
            with suppress(PocketvitError):
                found[file] = ask(file)
            advance()
    return found


def _size(file: Path) -> _Size:
    """Both edges, the shorter one first: the header does not say how the photo is turned."""
    with open_image(file) as image:
        return tuple(sorted(image.size))
