"""Folders and list files -> a collection of samples with consistent labels, and a deterministic split in two.

Files are found by ``layouts`` and decoded later (``crops``, ``cases``); here several roots are joined, what the doctor
quarantined and what is repeated is left out, label texts become class numbers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pocketvit.data import box_labels, labels, layouts
from pocketvit.data.copies import first_of
from pocketvit.data.entries import Entry
from pocketvit.data.quarantine import quarantined
from pocketvit.errors import DataError, UsageError
from pocketvit.spec.images import not_looked_at
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.recipe import DataConfig
from pocketvit.spec.tasks import task_of


@dataclass(frozen=True)
class Item:
    """One sample on disk."""

    path: Path
    """The image as the model's user has it (pairs: the noisy one); in the ``clean`` layout the clean photo."""
    clean: Path | None = None
    """Ground truth of a pair."""
    labels: tuple[int, ...] = ()
    """Class at every level, coarsest first, where the task is labelled."""
    unit: float = 1.0
    """What one stored step of ``clean`` stands for, where that is a map: metres."""
    boxes: tuple[tuple[float, float, float, float, float], ...] | None = None
    """Class, left, top, right, bottom in shares of the photo, where the task's truth are boxes."""


@dataclass(frozen=True)
class Collection:
    """Samples of one split."""

    name: str
    """Short name for tables, from the last parts of the paths."""
    task: str
    layout: str
    items: tuple[Item, ...]
    """Sorted by path (``list``: in the order of the list)."""
    levels: tuple[LevelSpec, ...]
    """Label hierarchy, coarsest first; empty where the task is not labelled."""
    split: str
    roots: tuple[str, ...] = ()
    """The folders and lists it was read from."""
    notes: tuple[str, ...] = ()
    """What was left out or looks odd, one sentence each."""

    @property
    def degraded(self) -> bool:
        """Whether synthetic noise makes the inputs, of photos that are their own ground truth."""
        return self.layout == "clean" and task_of(self.task).degrades

    def counts(self) -> dict[str, int]:
        """Images per finest class (with a box of it, where there are boxes), classes without images included; empty
        where images have no labels."""
        if not self.levels or not all(item.labels or item.boxes is not None for item in self.items):
            return {}
        each = ({int(box[0]) for box in x.boxes} if x.boxes is not None else x.labels[-1:] for x in self.items)
        found = np.bincount([k for classes in each for k in classes], minlength=len(self.levels[-1].labels))
        return {name: int(count) for name, count in zip(self.levels[-1].labels, found, strict=True)}


@dataclass(frozen=True)
class Splits:
    """Training and validation samples with one label space, and test samples where the recipe names some."""

    train: Collection
    val: Collection
    test: Collection | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of all parts: what was left out, classes missing from one part, files that are in several."""
        parts = (self.train, self.val, self.test)
        return tuple(dict.fromkeys(note for part in parts if part for note in part.notes))


def load_splits(data: DataConfig, task: str) -> Splits:
    """Find the samples of ``data``; without ``data.val`` a stratified share of the training data is split off.

    No image stands in two parts, neither by a link nor as a copy under another name: test data keep it before
    validation data, these before training data, and a note counts what was taken out. A part that nothing were left of
    (``data.val`` names all of the training data) stays whole, which a note says too.
    Raises DataError: a folder or list is missing, empty or inconsistent; a validation class is unknown in training.
    UsageError: no training data is named, or the layout does not go with the task.
    """
    if not data.train:
        raise UsageError("data.train names no data.", "Name a folder or list file, e.g. --data.train photos/")
    train = load_collection(data.train, data, task, "train")
    val = load_collection(data.val, data, task, "val", train.levels) if data.val else None
    test = load_collection(data.test, data, task, "test", train.levels) if data.test else None
    if test:
        train, val = without(train, test), val and without(val, test)
    if val is None:
        splits = split_off(train, data.val_share)
    else:
        train = without(train, val)
        splits = Splits(train, replace(val, notes=(*val.notes, *_absent(train, val))))
    return replace(splits, test=test)


_WORDS = {"train": "training", "val": "validation", "test": "test"}


def without(part: Collection, held: Collection) -> Collection:
    """``part`` without the images of ``held`` and copies of them, unless none were left; a note says how many."""
    first = first_of([item.path.resolve() for item in (*held.items, *part.items)])
    theirs = {first[item.path.resolve()] for item in held.items}
    kept = tuple(item for item in part.items if first[item.path.resolve()] not in theirs)
    shared = [item.path for item in part.items if first[item.path.resolve()] in theirs]
    if not shared:
        return part
    mine, other = _WORDS[part.split], _WORDS[held.split]
    if kept:
        note = f"{len(shared)} {other} images are left out of the {mine} data, first {min(shared)}."
    else:
        note = f"all {mine} images are also {other} images: the metric says nothing about new ones."
    return replace(part, items=kept or part.items, notes=(*part.notes, note))


def load_collection(
    paths: Sequence[str], data: DataConfig, task: str, split: str, levels: Sequence[LevelSpec] = ()
) -> Collection:
    """Find the samples below ``paths``, folders or list files, joined; an image that is found twice counts once,
    and so does a file with the same bytes under another name.

    ``split`` (``train``, ``val``, ``test``) chooses the sub-folder where a data set's root was named (``gopro``).
    ``levels`` is the label space to use (that of the training data or of an artifact) instead of making one; by name.
    Raises as :func:`load_splits` does.
    """
    record, layout = task_of(task), data.layout_of(split)
    if layout not in record.layouts:
        todo = f"Take one of {', '.join(record.layouts)}."
        raise UsageError(f"data.layout {layout} does not go with task.name {task}.", todo)
    if layout == "clean" and data.noise == "none" and not data.blur.probability and record.degrades:
        what = f"data.layout clean with data.noise none and no data.blur leaves nothing to {task}."
        raise UsageError(what, "Take gaussian or poisson, a data.blur.probability, or a layout with pairs.")
    if split != "train":
        record.conditions(data.protocol, layout)  # unknown names are told before anything is read
    rows: dict[Path, Entry] = {}
    notes: list[str] = []
    excluded = repeated = contradicting = 0
    for root in paths:
        found, remarks = layouts.READERS[layout](Path(root), split)
        hidden = quarantined(Path(root))
        for row in found:
            file = row.path.resolve()
            if hidden and hidden & {file, row.clean.resolve() if row.clean else file}:
                excluded += 1
            elif rows.setdefault(file, row) is not row:
                repeated += 1
                contradicting += _differ(rows[file], row)
        notes += remarks
        if os.path.isdir(root) and record.geometry != "boxes":  # files of labels are no photos that somebody misses
            notes += [f"{root}: {line}." for line in not_looked_at(Path(root))]
    first = first_of(list(rows))
    copies = [file for file in rows if first[file] != file]
    repeated += len(copies)
    contradicting += sum(_differ(rows[file], rows[first[file]]) for file in copies)
    rows = {file: row for file, row in rows.items() if first[file] == file}
    if repeated:
        other = f", {contradicting} of them with other labels" if contradicting else ""
        notes.append(f"{repeated} repeated images are left out{other}: the first mention counts.")
    if excluded:
        notes.append(f"{excluded} quarantined images are left out.")
    if not rows:
        todo = "Name other data or look at pocketvit-quarantine.txt." if excluded else "Name other data."
        raise DataError(f"{', '.join(paths)}: no usable images are left.", todo)
    items, found_levels = _items(tuple(rows.values()), data, task, levels)
    notes += () if levels else labels.alike(found_levels)
    return Collection(_name(paths), task, layout, items, found_levels, split, tuple(paths), tuple(notes))


def _differ(one: Entry, other: Entry) -> bool:
    return (one.labels, one.boxes) != (other.labels, other.boxes)


def split_off(collection: Collection, share: float) -> Splits:
    """Divide a collection, each class by ``share`` (largest remainder), always in the same way for the same files.

    Every class with two or more images keeps at least one in training; a class with a single image stays in training.
    Raises DataError: fewer than two images.
    """
    count = len(collection.items)
    if count < 2:
        what = f"{collection.name}: {count} image cannot be split into training and validation."
        raise DataError(what, "Add images or name data.val.")
    rng = np.random.default_rng(0)
    classes = np.array([item.labels[-1] if item.labels else 0 for item in collection.items])
    members = [rng.permutation(np.flatnonzero(classes == c)) for c in np.unique(classes)]
    chosen = np.zeros(count, bool)
    for indices, take in zip(members, _allot([len(x) for x in members], share), strict=True):
        chosen[indices[:take]] = True
    kept, taken = (tuple(collection.items[i] for i in np.flatnonzero(mask)) for mask in (~chosen, chosen))
    train = replace(collection, items=kept, split="train")
    val = replace(collection, items=taken, split="val", notes=())
    return Splits(train, replace(val, notes=_absent(train, val)))


def _allot(sizes: Sequence[int], share: float) -> list[int]:
    total = max(1, round(sum(sizes) * share))
    taken = [min(int(size * share), size - 1) for size in sizes]
    # Classes with the largest remainder come first; if every one of them is full, the rest stays in training.
    for c in sorted(range(len(sizes)), key=lambda c: (taken[c] - sizes[c] * share, c)):
        if sum(taken) < total and taken[c] < sizes[c] - 1:
            taken[c] += 1
    if sum(taken) == 0:  # only classes of one image: take from the last ones, keep at least one image in training
        return [int(c >= len(sizes) - min(total, len(sizes) - 1)) for c in range(len(sizes))]
    return taken


def _absent(train: Collection, val: Collection) -> tuple[str, ...]:
    notes = []
    for part in (train, val):
        if empty := [name for name, count in part.counts().items() if count == 0]:
            names = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
            notes.append(f"{len(empty)} classes have no image in {part.split}: {names}.")
    return tuple(notes)


def _items(
    rows: Sequence[Entry], data: DataConfig, task: str, levels: Sequence[LevelSpec]
) -> tuple[tuple[Item, ...], tuple[LevelSpec, ...]]:
    record = task_of(task)
    if record.geometry == "boxes":
        boxes, classes = box_labels.encode(rows, levels)
        return tuple(Item(row.path, boxes=each) for row, each in zip(rows, boxes, strict=True)), classes
    named = data.class_names if record.labelled or record.names_parts else None
    known = labels.read_class_names(Path(named)) if named else None
    if not record.labelled:
        parts = labels.of_parts(rows, known, levels) if record.names_parts else ()
        return tuple(Item(row.path, row.clean, (), data.depth_unit or row.unit) for row in rows), parts
    codes, found = labels.encode(rows, known, levels)
    return tuple(Item(row.path, row.clean, code, row.unit) for row, code in zip(rows, codes, strict=True)), found


def _name(paths: Sequence[str]) -> str:
    """``shared/data/bsds500/train`` and ``.../grocery/val.txt`` become ``bsds500/train`` and ``grocery/val``."""
    parts = ([x for x in path.removesuffix(".txt").split("/") if x not in ("", ".", "..")][-2:] for path in paths)
    return "+".join("/".join(last) or "data" for last in parts)
