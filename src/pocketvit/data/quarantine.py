"""The list of files that readers leave out: ``pocketvit-quarantine.txt`` by the doctor, one relative path a line.

A path that a line cannot hold as it is (line breaks, bytes that are no UTF-8, ``#`` in front) is a JSON string there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from pocketvit.errors import DataError
from pocketvit.files import read_text, write_text
from pocketvit.spec.images import OWN_LIST

FILE_NAME = OWN_LIST


def folder_of(root: Path) -> Path:
    """The folder whose quarantine list belongs to ``root`` (a folder, a list file or an image)."""
    return root if os.path.isdir(root) else root.parent


def quarantined(root: Path) -> set[Path]:
    """Absolute paths listed in the quarantine files of the folder, of the folders above it and of those below it.

    The doctor may have been run on a whole data set and training on one of its parts, or the other way round.
    """
    folder = Path(os.path.realpath(folder_of(root)))
    lists = [above / FILE_NAME for above in folder.parents] + sorted(folder.rglob(FILE_NAME))
    return {path for file in lists if os.path.isfile(file) for path in read_list(file)}


def read_list(file: Path) -> list[Path]:
    """Absolute paths of one quarantine file; empty lines and lines starting with ``#`` are skipped."""
    try:
        lines = read_text(file).replace("\r\n", "\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        what = f"{file}: cannot be read ({error})."
        raise DataError(what, "Write it again with `pocketvit doctor DATA --quarantine`.") from error
    names = [_unquote(line) for line in lines if line.strip() and not line.startswith("#")]
    return [Path(os.path.realpath(file.parent / name)) for name in names if "\0" not in name]


def write_list(folder: Path, files: Sequence[Path]) -> Path:
    """Add ``files`` to the folder's quarantine list and return its path; entries that are there stay.

    Raises DataError: the list cannot be read or written.
    """
    target = folder / FILE_NAME
    entries = set(read_list(target)) if target.exists() else set()
    entries |= {Path(os.path.realpath(file)) for file in files}
    names = sorted(Path(os.path.relpath(path, os.path.realpath(folder))).as_posix() for path in entries)
    head = "# Files that pocketvit leaves out; delete a line to use the file again."
    write_text(target, "\n".join([head, *map(_quote, names), ""]))
    return target


def _quote(name: str) -> str:
    plain = name.isprintable() and name == name.strip() and not name.startswith(("#", '"'))
    return name if plain else json.dumps(name)


def _unquote(line: str) -> str:
    try:
        name = json.loads(line) if line.startswith('"') else line
    except ValueError:  # a quotation mark that is part of the name
        return line
    return str(name)
