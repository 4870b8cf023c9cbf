"""Which files hold the same bytes, without reading whole data sets: by size, then by both ends, then in full."""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

from pocketvit.progress import track

ENDS = 4096
"""Bytes at the beginning and at the end that tell nearly all files of one size apart."""


def first_of(files: Sequence[Path]) -> dict[Path, Path]:
    """For every file the first of ``files`` with the same bytes, most often itself.

    Read are the ends of files that share their size, and the whole of those that share size and ends. Empty and
    unreadable files are copies of nothing: whoever decodes them names them.
    """
    groups: Iterable[list[Path]] = [list(dict.fromkeys(files))]
    for key in (_size, _ends, _whole):
        groups = [part for group in groups for part in _parted(group, key)]
    first = {file: group[0] for group in groups for file in group}
    return {file: first.get(file, file) for file in files}


def _parted(files: Sequence[Path], key: Callable[[Path], Hashable]) -> list[list[Path]]:
    """The groups of two and more files with one key."""
    found: dict[Hashable, list[Path]] = defaultdict(list)
    with track("looking for copies of images", len(files)) as advance:
        for file in files:
            try:
                value = key(file)
            except OSError:
                value = None
            if value:
                found[value].append(file)
            advance()
    return [group for group in found.values() if len(group) > 1]


def _size(file: Path) -> int:
    return file.stat().st_size


def _ends(file: Path) -> bytes:
    return _digest(file, *_state(file), whole=False)


def _whole(file: Path) -> bytes:
    return _digest(file, *_state(file), whole=True)


def _state(file: Path) -> tuple[int, ...]:
    status = file.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=200_000)  # each split is looked through by itself, and then all together
def _digest(file: Path, device: int, inode: int, size: int, changed: int, whole: bool) -> bytes:
    with file.open("rb") as content:
        if whole:
            return hashlib.file_digest(content, "blake2b").digest()
        head = content.read(ENDS)
        content.seek(max(0, size - ENDS))
        return hashlib.blake2b(head + content.read(ENDS), digest_size=16).digest()
