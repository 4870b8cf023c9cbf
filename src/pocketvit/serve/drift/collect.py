"""Corrections that clients send, kept as data sets that training reads: a list of classes, or folders of pairs.

A photo is stored as the pixels that were read, without what cameras write beside them (place, time, owner). Each
correction is there whole or not at all; at a kill in between a file may lie there that no list names.
"""

from __future__ import annotations

import csv
import io
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pocketvit.errors import DataError
from pocketvit.files import make_folder, writing
from pocketvit.serve.http.refusal import Refusal
from pocketvit.serve.http.served import Served
from pocketvit.spec.artifact import new_folder
from pocketvit.spec.hierarchy import leaf_paths
from pocketvit.spec.images import digest_of, write_image
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.tasks import TASKS

LIST, LOG, IMAGES, PAIRS = "corrections.txt", "log.csv", "images", "pairs"
MOST, MOST_BYTES = 5000, 2_000_000_000
"""Corrections, and bytes of their files."""


class Collection:
    """A folder of corrections, one folder in it for each model name."""

    def __init__(self, folder: Path, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        """Raises DataError: the folder cannot be made or written."""
        self.folder, self._most, self._most_bytes = folder, most, most_bytes
        make_folder(folder)
        files = [path for path in folder.rglob("*.png") if path.is_file()]
        self._count = sum(path.name != "photo_clean.png" for path in files)
        self._bytes = sum(path.stat().st_size for path in files)
        self._under_way: dict[tuple[Path, str], int] = {}
        """Corrections that are being written, and the room that is held for them."""
        self._lock = threading.Lock()

    def check(self, served: Served, label: str | None) -> None:
        """Refuse what cannot be kept before its body is read.

        Raises:
            Refusal: 400 for a task whose corrections are not taken, a label that is not there, or none where one is
                needed; 409 where the collection is full.
        """
        if self._count >= self._most or self._bytes >= self._most_bytes:
            raise _full()
        task = TASKS[served.task]
        if not task.labelled and task.geometry != "pixels":
            raise Refusal(
                400, f"corrections of {served.name} are not taken: its answers are neither class nor picture."
            )
        if task.labelled != (label is not None):
            raise Refusal(400, "say the right class with ?label=." if task.labelled else "label goes with classes.")
        if label is not None:
            self._path(served, label)

    def add(self, served: Served, pictures: Mapping[str, Pixels], label: str | None) -> dict[str, Any]:
        """Keep a correction; ``pictures`` are (H, W, 3) uint8 by the name of their field.

        Raises:
            Refusal: 400 for a picture too few or too many, or of another size; 409 where this photo has a correction.
            DataError: the disk is full.
        """
        wanted = {"image"} if label is not None else {"image", "target"}
        if set(pictures) != wanted:
            raise Refusal(400, f"send {' and '.join(sorted(wanted))}, each as a file of a form, and nothing else.")
        photo = pictures["image"]
        if any(each.shape != photo.shape for each in pictures.values()):
            raise Refusal(400, "image and target have different sizes.")
        name, labels = digest_of(photo)[:20], self._path(served, label) if label is not None else ()
        root, size = self.folder / served.name, sum(each.nbytes for each in pictures.values())
        with self._reserved(root, name, size):  # encoding takes long, and others need not wait for it
            files = _write_pair(root, name, pictures) if label is None else _write_photo(root, name, photo)
            with self._lock:
                if label is not None:  # the photo first, then its line: a photo that no line names is not read
                    # As the layout "list" has it: finest first where there are up to two levels, else coarsest first.
                    order = labels[::-1] if len(labels) <= 2 else labels
                    _append(root / LIST, (f"{IMAGES}/{name}.png", *order))
                self._count, count = self._count + 1, self._count + 1
                self._bytes += sum(path.stat().st_size for path in files)
                row = (name, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), served.version, served.digest, *labels)
                _append(root / LOG, row)
        return {"stored": name, "model": served.name, "version": served.version, "corrections": count}

    @contextmanager
    def _reserved(self, root: Path, name: str, size: int) -> Iterator[None]:
        """Room for a correction while it is written: ``size`` bytes of pixels, more than their files will have.

        Raises:
            Refusal: 409, there is no room left, or this photo has a correction or is getting one.
        """
        with self._lock:
            if (root, name) in self._under_way or _is_kept(root, name):
                raise Refusal(409, "there is a correction of this photo already.")
            wanted = self._bytes + sum(self._under_way.values()) + size
            if self._count + len(self._under_way) >= self._most or wanted > self._most_bytes:
                raise _full()
            self._under_way[root, name] = size
        try:
            yield
        finally:
            with self._lock:
                del self._under_way[root, name]

    def _path(self, served: Served, label: str) -> tuple[str, ...]:
        """Labels from the coarsest level to the finest, from a path or from the finest alone.

        Raises:
            Refusal: 400, there is no such class.
        """
        levels = served.model.manifest.levels
        paths = [tuple(level.labels[i] for level, i in zip(levels, row, strict=True)) for row in leaf_paths(levels)]
        found = [path for path in paths if label in (path[-1], "/".join(path))]
        if len(found) != 1:
            known = "several classes" if found else "no class"
            raise Refusal(400, f"{label[:80]!r} is {known} of {served.name}; give a label or a path of its labels.")
        return found[0]


def _full() -> Refusal:
    return Refusal(409, "the collection is full; somebody must empty it.")


def _is_kept(root: Path, name: str) -> bool:
    """Whether training would read a correction of this photo."""
    listed = (root / IMAGES / f"{name}.png").is_file() and f"{IMAGES}/{name}.png" in _text(root / LIST)
    return listed or (root / PAIRS / name).exists()


def _write_photo(root: Path, name: str, photo: Pixels) -> list[Path]:
    file = root / IMAGES / f"{name}.png"
    make_folder(file.parent)
    write_image(file, photo)
    return [file]


def _write_pair(root: Path, name: str, pictures: Mapping[str, Pixels]) -> list[Path]:
    """Both pictures in a folder of their own, which is renamed last."""
    place = root / PAIRS / name
    make_folder(place.parent)
    with new_folder(place) as folder:
        write_image(folder / "photo_noisy.png", pictures["image"])
        write_image(folder / "photo_clean.png", pictures["target"])
    return list(place.iterdir())


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _append(path: Path, cells: tuple[str, ...]) -> None:
    """Add a line with one write, behind a line end where a full disk has left half of a line."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    with writing(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size, line = os.fstat(descriptor).st_size, buffer.getvalue().encode()
            if os.write(descriptor, line) != len(line):
                os.ftruncate(descriptor, size)
                raise DataError(f"{path}: cannot be written (No space left).", "Free some space.")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
