"""What every reader of a layout gives: rows of files and label texts, and notes on what it left out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pocketvit.errors import DataError


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
