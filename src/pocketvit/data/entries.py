"""What every reader of a layout gives: rows of files and label texts, and notes on what it left out."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pocketvit.errors import DataError
from pocketvit.files import read_text


@dataclass(frozen=True)
class Entry:
    """A sample as found on disk."""

    path: Path
    clean: Path | None = None
    labels: tuple[str, ...] = ()
    """Label texts, coarsest first."""
    origin: str = ""
    """Where the labels stand, for error messages."""
    unit: float = 1.0
    """What one stored step of ``clean`` stands for, where that is a map: metres."""
    classes: tuple[str, ...] = ()
    """Names of the classes that parts of the photo can have, by their index in ``clean``, where its data name them."""
    boxes: tuple[tuple[str, float, float, float, float], ...] | None = None
    """Class, left, top, right, bottom in shares of the photo; None in layouts without boxes."""


Found = tuple[list[Entry], list[str]]


def need_folder(root: Path) -> None:
    """Raise ``DataError`` where there is no folder."""
    if not os.path.isdir(root):
        raise DataError(f"{root}: no such folder.", "Check the path.")


def left_out(things: Sequence[object], what: str) -> list[str]:
    """One note that counts ``things`` and names the first, or none."""
    return [f"{len(things)} {what} are left out, first {things[0]}."] if things else []


def class_name(text: str, where: str) -> str:
    """A class's name as manifests hold it: composed (NFC), without spaces around it.

    Raises:
        DataError: it is empty, or holds line ends, other controls or halves of characters.
    """
    name = unicodedata.normalize("NFC", text.strip())
    if not name:
        raise DataError(f"{where}: the name of a class is empty.", "Give every class a name.")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        raise DataError(f"{where}: the class {name[:60]!a} holds characters that are no text.", "Give it a plain name.")
    return name


def read_names(file: Path) -> tuple[str, ...]:
    """Names of classes, one a line, the first for index 0; none in an empty file.

    Raises:
        DataError: it is no text, a line before the last one is empty, or a name stands twice or is none.
    """
    try:
        lines = re.split("\r\n|\r|\n", read_text(file))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as text ({error}).", "Write UTF-8, one class a line.") from error
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            what = f"{file}, line {number}: is empty, and the names behind it would mean other classes."
            raise DataError(what, "Name every class, the first line for index 0.")
    names = tuple(class_name(line, f"{file}, line {number}") for number, line in enumerate(lines, start=1))
    if twice := [name for name, uses in Counter(names).items() if uses > 1]:
        raise DataError(f"{file}: class {twice[0][:60]!r} stands twice.", "Give every class its own name.")
    return names
