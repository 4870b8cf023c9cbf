"""Boxes with label texts -> boxes with class numbers, in one list of classes."""

from __future__ import annotations

from collections.abc import Sequence

from pocketvit.data.entries import Entry
from pocketvit.errors import DataError
from pocketvit.spec.manifest import LevelSpec

LEVEL = "label"
Coded = tuple[tuple[float, float, float, float, float], ...]


def encode(rows: Sequence[Entry], levels: Sequence[LevelSpec] = ()) -> tuple[list[Coded], tuple[LevelSpec, ...]]:
    """The boxes of every row with class numbers, and the one level that they refer to.

    ``levels`` are the classes to encode into, by name; without them they are those that the layouts name, in their
    order, whether there is a box of them or not.

    Raises:
        DataError: a box of a class that ``levels`` do not have, or there is no box at all.
    """
    names = list(levels[-1].labels) if levels else list(dict.fromkeys(name for row in rows for name in row.classes))
    table = {name: index for index, name in enumerate(names)}
    found = []
    for row in rows:
        boxes = row.boxes or ()
        if unknown := next((box[0] for box in boxes if box[0] not in table), None):
            what = f"{row.origin or row.path}: class {unknown!r} is not among {', '.join(names)[:200]}."
            raise DataError(what, "Correct the label, or use data with the same classes.")
        found.append(tuple((float(table[label]), *sides) for label, *sides in boxes))
    if not any(found):
        what = f"{rows[0].path.parent}: none of {len(rows)} photos has a box."
        raise DataError(what, "Name data with boxes, or look at the labels' folder.")
    return found, tuple(levels) or (LevelSpec(name=LEVEL, labels=names),)  # type: ignore[return-value]
