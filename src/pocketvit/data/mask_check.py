"""What is wrong with the masks of a data set, and how its classes share its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.data.entries import Entry
from pocketvit.data.mask_layouts import read_masks
from pocketvit.errors import DataError, MissingDependencyError
from pocketvit.progress import track
from pocketvit.spec.images import size_of
from pocketvit.spec.mask_files import IGNORED, read_mask, unknown_class
from pocketvit.terminal import shown

FEW = 0.001
"""A class with a smaller share of the known pixels is hardly learnt."""


@dataclass(frozen=True)
class MaskReport:
    """What was found in all masks."""

    masks: int
    classes: dict[str, float]
    """Name, or index where no list names it -> share of the known pixels, 0 to 1."""
    ignored: float
    """Share of all pixels that are in no class."""
    faults: dict[str, str]
    """Mask -> why readers stumble over it."""
    notes: tuple[str, ...] = ()
    """What was left out."""

    @property
    def errors(self) -> tuple[Path, ...]:
        """Masks that readers stumble over."""
        return tuple(map(Path, self.faults))

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def lines(self, most: int) -> list[str]:
        """Lines for people, at most ``most`` masks and classes."""
        shares = sorted(self.classes.items(), key=lambda each: -each[1])
        text = ", ".join(f"{shown(name)} {100 * share:.1f} %" for name, share in shares[:most])
        more = f", and {len(shares) - most} more (--json lists all)" if len(shares) > most else ""
        lines = [
            f"{self.masks} masks, {100 * self.ignored:.1f} % of the pixels in no class; of the others {text}{more}"
        ]
        rare = [name for name, share in self.classes.items() if share < FEW]
        if rare:
            lines.append(f"warning: {len(rare)} classes have hardly a pixel: {shown(', '.join(rare[:most]))}")
        present = [name for name, share in self.classes.items() if share]
        if self.ignored and len(present) == 1 < len(self.classes):
            what = f"no class but {shown(present[0])} has a pixel, and {IGNORED} is no class"
            lines.append(f"warning: {what}: masks of 0 and {IGNORED} must be written with 0 and 1")
        if self.faults:
            lines.append(f"error: masks that cannot be used: {len(self.faults)}")
            lines += [f"  {shown(path)}: {shown(reason)}" for path, reason in list(self.faults.items())[:most]]
        return [*lines, *map(shown, self.notes)]


def mask_entries(roots: Sequence[Path]) -> tuple[list[Entry], tuple[str, ...]]:
    """Photos with masks in ``roots``, or in the folders right below them where parts lie there, and what is left out.

    Raises:
        DataError: a root holds no masks.
    """
    rows, notes = list[Entry](), list[str]()
    for root in roots:
        parts = [path for path in sorted(root.iterdir()) if path.is_dir()] if root.is_dir() else []
        try:
            found = [read_masks(root, "train")]
        except DataError:
            found = []
            for part in parts:
                with suppress(DataError):
                    found.append(read_masks(part, "train"))
            if not found:
                raise
        for part_rows, part_notes in found:
            rows += part_rows
            notes += part_notes
    return rows, tuple(notes)


def check_masks(entries: Sequence[Entry], workers: int = 1, notes: tuple[str, ...] = ()) -> MaskReport:
    """Read every mask and hold it against its photo and its classes; never raises for what is wrong with one."""
    names = max((row.classes for row in entries), key=len, default=())
    total, faults = np.zeros(256, np.int64), dict[str, str]()
    with ThreadPoolExecutor(workers) as pool, track("masks", len(entries)) as advance:
        for row, (counts, fault) in zip(entries, pool.map(partial(_look_at, names=names), entries), strict=True):
            total += counts
            faults |= {str(row.clean): fault} if fault else {}
            advance()
    known = total[:IGNORED]
    used = range(len(names)) if names else np.flatnonzero(known)
    shares = {names[k] if names else str(k): float(known[k] / max(1, known.sum())) for k in used}
    ignored = float(total[IGNORED] / max(1, total.sum()))
    return MaskReport(len(entries), shares, ignored, dict(sorted(faults.items())), notes)


def _look_at(row: Entry, names: Sequence[str]) -> tuple[NDArray[np.int64], str]:
    """Pixels of each value of a mask, and what is wrong with it."""
    nothing = np.zeros(256, np.int64)
    assert row.clean is not None
    try:
        mask = read_mask(row.clean)
    except DataError as error:
        return nothing, error.what.removeprefix(f"{row.clean}").lstrip(": ").rstrip(".")
    if names and (fault := unknown_class(mask, len(names))):
        return nothing, fault
    with suppress(DataError, MissingDependencyError):  # of a damaged photo the doctor says so elsewhere
        height, width = size_of(row.path)
        if mask.shape != (height, width):
            return nothing, f"{mask.shape[1]}x{mask.shape[0]}, but its photo {row.path.name} is {width}x{height}"
    return np.bincount(mask.ravel(), minlength=256).astype(np.int64), ""
