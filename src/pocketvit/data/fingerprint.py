"""Which files a run was begun with: their names, sizes, classes and parts, and what is different now."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

from pocketvit.data.collections import Collection, Item, Splits

Fingerprint = dict[str, Any]
"""``labels``: label names at each level; and for each part name -> [bytes, class at each level], with boxes
[bytes, checksum of them]."""


def fingerprint(splits: Splits) -> Fingerprint:
    """Names are relative to the folder above all of the data, so that data may be moved; files are not read."""
    parts = [part for part in (splits.train, splits.val, splits.test) if part is not None]
    roots = [os.path.abspath(root) for part in parts for root in part.roots]
    top = os.path.commonpath(roots) if roots else os.curdir
    labels = [list(level.labels) for level in splits.train.levels]
    return {"labels": labels, **{part.split: _part(part, top) for part in parts}}


def differences(old: Fingerprint, new: Fingerprint) -> list[str]:
    """What changed between two fingerprints, a few words each with an example; nothing where they are equal."""
    if old == new:
        return []
    labels = old["labels"] == new["labels"]
    told = [] if labels else _label_changes(old["labels"], new["labels"])
    before, after = _by_name(old), _by_name(new)
    both = sorted(before.keys() & after.keys())
    kinds = {
        "added": sorted(after.keys() - before.keys()),
        "gone": sorted(before.keys() - after.keys()),
        "now in another part (training, validation, test)": [x for x in both if before[x][0] != after[x][0]],
        "of another size": [x for x in both if before[x][1] != after[x][1]],
        "of another class": [x for x in both if labels and before[x][2:] != after[x][2:]],
    }
    for how, names in kinds.items():
        if names:
            told.append(f"{len(names)} photo{'s are' if len(names) > 1 else ' is'} {how}, e.g. {names[0]}")
    return told or ["its files are listed in another way"]


def _label_changes(old: list[list[str]], new: list[list[str]]) -> list[str]:
    before, after = ({name for level in levels for name in level} for levels in (old, new))
    more = [f"class {name!r} was added" for name in sorted(after - before)]
    return (more + [f"class {name!r} is gone" for name in sorted(before - after)])[:5] or ["the classes are others"]


def _by_name(document: Fingerprint) -> dict[str, list[Any]]:
    parts = ((part, files) for part, files in document.items() if part != "labels")
    return {name: [part, *entry] for part, files in parts for name, entry in files.items()}


def _part(part: Collection, top: str) -> dict[str, list[int]]:
    return {os.path.relpath(item.path, top): _entry(item) for item in sorted(part.items, key=lambda item: item.path)}


def _entry(item: Item) -> list[int]:
    boxes = [] if item.boxes is None else [zlib.crc32(repr(item.boxes).encode())]
    return [sum(_size(path) for path in (item.path, item.clean) if path is not None), *item.labels, *boxes]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # decoding names the reason
        return -1
