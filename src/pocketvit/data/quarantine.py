"""The list of files that readers leave out: ``pocketvit-quarantine.txt`` by the doctor, one relative path a line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pocketvit.errors import DataError
from pocketvit.files import write_text
from pocketvit.spec.images import OWN_LIST

FILE_NAME = OWN_LIST


def folder_of(root: Path) -> Path:
    """The folder whose quarantine list belongs to ``root`` (a folder, a list file or an image)."""
    return root if root.is_dir() else root.parent


def quarantined(root: Path) -> set[Path]:
    """Absolute paths listed in the quarantine files of the folder, of the folders above it and of those below it.

    The doctor may have been run on a whole data set and training on one of its parts, or the other way round.
    """
    folder = folder_of(root).resolve()
    lists = [above / FILE_NAME for above in folder.parents] + sorted(folder.rglob(FILE_NAME))
    return {path for file in lists if file.is_file() for path in read_list(file)}


def read_list(file: Path) -> list[Path]:
    """Absolute paths of one quarantine file; empty lines and lines starting with ``#`` are skipped."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        what = f"{file}: cannot be read ({error})."
        raise DataError(what, "Write it again with `pocketvit doctor DATA --quarantine`.") from error
    return [(file.parent / line).resolve() for line in lines if line.strip() and not line.startswith("#")]


def write_list(folder: Path, files: Sequence[Path]) -> Path:
    """Add ``files`` to the folder's quarantine list and return its path; entries that are there stay.

    Raises DataError: the list cannot be read or written.
    """
    target = folder / FILE_NAME
    entries = set(read_list(target)) if target.exists() else set()
    entries |= {file.resolve() for file in files}
    lines = sorted(Path(os.path.relpath(path, folder.resolve())).as_posix() for path in entries)
    head = "# Files that pocketvit leaves out; delete a line to use the file again."
    write_text(target, "\n".join([head, *lines, ""]))
    return target
