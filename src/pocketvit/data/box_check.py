"""What the boxes of a data set are like: how many of each class, how large, and which look like mistakes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pocketvit.data.entries import Entry
from pocketvit.errors import UsageError, did_you_mean
from pocketvit.spec.boxes import overlaps
from pocketvit.terminal import shown

SMALL = 0.02
"""Of the photo's side: a smaller box is one or two cells of an answer, or less."""
SAME = 0.95
"""Overlap from which two boxes of one class are taken as one that was drawn twice."""
_AT_ONCE = 256
"""Boxes that are held against all others: thousands on a photo would ask for gigabytes."""


@dataclass(frozen=True)
class BoxReport:
    """The boxes of all photos."""

    layout: str
    photos: int
    boxes: int
    classes: dict[str, int]
    """Boxes of each class that the layout names."""
    empty: int
    """Photos without a box."""
    middle: tuple[float, float]
    """Median width and height in shares of the photo; 0 where there is no box."""
    small: tuple[str, ...]
    """Photos with a box of which a side is less than ``SMALL`` of the photo's."""
    twice: tuple[str, ...]
    """Photos with two boxes of one class in one place."""
    notes: tuple[str, ...] = ()
    """What the reader left out."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)

    def lines(self, most: int) -> list[str]:
        """Lines for people, at most ``most`` files of each kind of finding."""
        size = f", in the middle {100 * self.middle[0]:.0f} by {100 * self.middle[1]:.0f} % of the photo"
        lines = [f"{self.boxes} boxes on {self.photos} photos, {self.empty} without any" + size * bool(self.boxes)]
        lines.append("boxes by class: " + ", ".join(f"{shown(name)} {count}" for name, count in self.classes.items()))
        warnings = {f"a side below {100 * SMALL:.0f} % of the photo": self.small, "a box drawn twice": self.twice}
        for kind, files in warnings.items():
            if files:
                lines += [f"warning: {kind}: {len(files)}", *(f"  {shown(path)}" for path in files[:most])]
            lines += [f"  ... and {len(files) - most} more (--json lists all)"] if len(files) > most else []
        return [*lines, *self.notes]


def check_boxes(
    roots: Sequence[Path], layout: str, readers: Mapping[str, Callable[[Path, str], tuple[list[Entry], list[str]]]]
) -> BoxReport:
    """Read the boxes below all roots.

    Raises:
        UsageError: there is no such layout. DataError: a label that no reader can use, by file and line.
    """
    if layout not in readers:
        todo = did_you_mean(layout, readers, f"Take one of {', '.join(readers)}.")
        raise UsageError(f"boxes {shown(layout)}: no such layout of boxes.", todo)
    rows, notes = list[Entry](), list[str]()
    for root in roots:
        found, told = readers[layout](root, "train")
        rows, notes = [*rows, *found], [*notes, *told]
    every = [box for row in rows for box in row.boxes or ()]
    sides = np.array([(x1 - x0, y1 - y0) for _, x0, y0, x1, y1 in every]).reshape(-1, 2)
    middle = np.median(sides, axis=0) if len(sides) else np.zeros(2)
    counts = Counter(box[0] for box in every)
    names = dict.fromkeys(name for row in rows for name in row.classes)
    return BoxReport(
        layout=layout,
        photos=len(rows),
        boxes=len(every),
        classes={name: counts[name] for name in names},
        empty=sum(not row.boxes for row in rows),
        middle=(float(middle[0]), float(middle[1])),
        small=tuple(
            str(row.path) for row in rows if any(min(x[3] - x[1], x[4] - x[2]) < SMALL for x in row.boxes or ())
        ),
        twice=tuple(str(row.path) for row in rows if _twice(row)),
        notes=tuple(notes),
    )


def _twice(row: Entry) -> bool:
    by_class: dict[str, list[tuple[float, ...]]] = {}
    for label, *sides in row.boxes or ():
        by_class.setdefault(label, []).append(tuple(sides))
    for rows in by_class.values():
        boxes = np.array(rows)
        for start in range(0, len(boxes), _AT_ONCE):
            shared = overlaps(boxes[start : start + _AT_ONCE], boxes[start:])
            if np.triu(shared >= SAME, 1).any():
                return True
    return False
