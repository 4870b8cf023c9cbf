"""What lies beside photos and is looked at with them: depth maps, masks and boxes, where the doctor is asked to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pocketvit.data import layouts
from pocketvit.data.box_check import BoxReport, check_boxes
from pocketvit.data.depth_check import DepthReport, check_depths, depth_entries
from pocketvit.data.entries import Entry
from pocketvit.data.mask_check import MaskReport, check_masks, mask_entries
from pocketvit.data.quarantine import quarantined


@dataclass(frozen=True)
class Truths:
    """Reports, each where it was asked for."""

    depth: DepthReport | None
    masks: MaskReport | None
    boxes: BoxReport | None

    @property
    def errors(self) -> list[Path]:
        """Depth maps and masks that cannot be used."""
        return [path for each in (self.depth, self.masks) if each for path in each.errors]


@dataclass(frozen=True)
class Asked:
    """What is to be looked at; quarantined files are left out."""

    roots: Sequence[Path]
    depth: str
    """A layout of depth maps, or empty."""
    boxes: str
    """A layout of boxes, or empty."""
    maps: Sequence[Entry]
    """Photos with depth maps."""
    masks: Sequence[Entry] | None
    """Photos with masks."""
    notes: Sequence[str]
    """Of the folders with masks."""

    @property
    def depth_files(self) -> set[Path]:
        """The depth maps, resolved: files whose values are no colours."""
        return {row.clean.resolve() for row in self.maps if row.clean}

    def check(self, workers: int) -> Truths:
        """Read them. Raises DataError: a label of a box that no reader can use. UsageError: no such layout."""
        readers = {name: layouts.READERS[name] for name in layouts.BOX_LAYOUTS}
        return Truths(
            depth=check_depths(list(self.maps), workers, self.depth) if self.depth else None,
            masks=None if self.masks is None else check_masks(list(self.masks), workers, tuple(self.notes)),
            boxes=check_boxes(self.roots, self.boxes, readers) if self.boxes else None,
        )


def asked(roots: Sequence[Path], depth: str, masks: bool, boxes: str) -> Asked:
    """Find what there is. Raises UsageError: no such layout of depth maps. DataError: none are there."""
    readers = {name: layouts.READERS[name] for name in layouts.DEPTH_LAYOUTS}
    maps = _used(roots, depth_entries(roots, depth, readers)) if depth else []
    found, notes = mask_entries(roots) if masks else ([], [])
    return Asked(roots, depth, boxes, maps, _used(roots, found) if masks else None, notes)


def _used(roots: Sequence[Path], entries: Sequence[Entry]) -> list[Entry]:
    hidden = {path for root in roots for path in quarantined(root)}
    return [row for row in entries if row.clean and not hidden & {row.path.resolve(), row.clean.resolve()}]
