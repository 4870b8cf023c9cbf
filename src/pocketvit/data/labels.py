"""Label texts -> class numbers in one hierarchy that is checked for consistency."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pocketvit.data.entries import Entry
from pocketvit.data.layouts import read_lines, same_name
from pocketvit.data.mask_layouts import check_count, known_classes
from pocketvit.errors import DataError
from pocketvit.spec.manifest import LevelSpec

Codes = list[tuple[int, ...]]
_NUMBER = re.compile("-?[0-9]{1,18}")
"""A class that is called by a number: neither other scripts' digits nor more of them than a number has."""


@dataclass(frozen=True)
class ClassNames:
    """A class list: the hierarchy and, per level, which text (name or id) means which class."""

    levels: tuple[LevelSpec, ...]
    tables: tuple[dict[str, int], ...]
    file: Path


def level_names(count: int) -> list[str]:
    """``label`` for flat labels, ``coarse`` and ``fine`` for two levels, else ``level1`` ..."""
    return {1: ["label"], 2: ["coarse", "fine"]}.get(count, [f"level{k + 1}" for k in range(count)])


def read_class_names(file: Path) -> ClassNames:
    """Read a CSV with fine name, fine id, coarse name, coarse id, by position; only two columns are flat labels.

    A header line (no number in the second column) is skipped; further columns are ignored. Classes are ordered by id.
    Raises DataError: unreadable, too few columns, an id that is no number or stands for two names, a class with two
    parents.
    """
    rows = read_lines(file)
    if len(rows[0][1]) < 2 or not _NUMBER.fullmatch(rows[0][1][1]):
        rows = rows[1:]
    if not rows:
        raise DataError(f"{file}: holds no class.", "Write fine name, fine id, coarse name, coarse id in each line.")
    count = 2 if len(rows[0][1]) >= 4 else 1
    names: list[dict[int, str]] = [{} for _ in range(count)]
    parent_ids: dict[int, int] = {}
    for number, columns in rows:
        where = f"{file}, line {number}"
        ids = []
        for k in range(count):
            try:
                name, identity = same_name(columns[2 * k]), int(columns[2 * k + 1])
            except (IndexError, ValueError) as error:
                what = f"{where}: expected name and number in columns {2 * k + 1} and {2 * k + 2}."
                raise DataError(what, "Write fine name, fine id, coarse name, coarse id.") from error
            if names[k].setdefault(identity, name) != name:
                what = f"{where}: id {identity} stands for {names[k][identity]!r} and {name!r}."
                raise DataError(what, "Give every class its own id.")
            ids.append(identity)
        if count == 2 and parent_ids.setdefault(ids[0], ids[1]) != ids[1]:
            what = f"{where}: class {columns[0]!r} has two coarse classes."
            raise DataError(what, "Give every fine class one coarse class.")
    return _class_names(file, names[::-1], parent_ids)


def encode(
    rows: Sequence[Entry], known: ClassNames | None, levels: Sequence[LevelSpec] = ()
) -> tuple[Codes, tuple[LevelSpec, ...]]:
    """Class numbers of every row, coarsest first, and the hierarchy they refer to.

    ``known`` is a class list that translates ids and names; without it the classes are those found, sorted (numbers by
    value). ``levels`` is a hierarchy to encode into, matched by class name.
    Raises DataError: an unknown class, a class with two parents, or differing numbers of levels; the line is named.
    """
    depth = len(rows[0].labels)
    for row in rows:
        if len(row.labels) != depth:
            what = f"{row.origin}: {len(row.labels)} labels where others have {depth}."
            raise DataError(what, "Label all images at the same levels.")
    if known is not None:
        codes = _look_up(rows, known.tables, known.levels, str(known.file))
        if not levels:
            return codes, known.levels
        # Ids mean what the class list says; the names then decide which class of the given hierarchy it is.
        texts = [tuple(level.labels[code] for level, code in zip(known.levels, path, strict=True)) for path in codes]
        rows = [Entry(row.path, row.clean, text, row.origin) for row, text in zip(rows, texts, strict=True)]
    source = "the known classes" if levels else "the classes found"
    levels = tuple(levels) or _make_levels(rows, depth)
    tables = [_table(level, levels[k - 1] if k else None) for k, level in enumerate(levels)]
    return _look_up(rows, tables, levels, source), levels


def of_parts(
    rows: Sequence[Entry], known: ClassNames | None, levels: Sequence[LevelSpec] = ()
) -> tuple[LevelSpec, ...]:
    """The one level of the classes that parts of photos have, by their index: of a class list, else as the data say.

    ``levels`` are those of training data or of an artifact, which data that name none mean, and others must equal.
    Raises DataError: no classes are named, or others; a class list with two levels, or with other ids than 0, 1, ...
    """
    if known is None and levels and not any(row.classes for row in rows):
        return tuple(levels)
    where = str(known.file) if known else str(rows[0].path.parent.parent)
    names = _by_index(known) if known else list(known_classes(rows, where))
    check_count(len(names), where)
    if levels and names != list(levels[-1].labels):
        odd = next((name for name in names if name not in levels[-1].labels), "")
        reason = (
            f"names the class {odd!r}, which is" if odd else "lists its classes in another order, or not all, which is"
        )
        raise DataError(f"{where}: {reason} not so among the known classes.", "Use data with the same classes.")
    return tuple(levels) or (LevelSpec(name=level_names(1)[0], labels=names),)


def _by_index(known: ClassNames) -> list[str]:
    """Names in the order of their ids, which are 0, 1, ..."""
    if len(known.levels) != 1:
        raise DataError(f"{known.file}: parts of a photo have classes of one level.", "Leave the coarse ones out.")
    names = list(known.levels[0].labels)
    if any(known.tables[0].get(str(index)) != index for index in range(len(names))):
        raise DataError(f"{known.file}: the ids are not 0 to {len(names) - 1}.", "An id is the value in the masks.")
    return names


def alike(levels: Sequence[LevelSpec]) -> list[str]:
    """A sentence for classes of one level whose names differ in case and spaces alone: most often meant as one."""
    notes = []
    for level in levels:
        groups: dict[str, list[str]] = {}
        for label in level.labels:
            groups.setdefault("".join(label.casefold().split()), []).append(label)
        notes += [f"taken as different classes: {', '.join(same)}." for same in groups.values() if len(same) > 1]
    return notes


def _look_up(
    rows: Sequence[Entry], tables: Sequence[dict[str, int]], levels: Sequence[LevelSpec], source: str
) -> Codes:
    codes: Codes = []
    for row in rows:
        if len(row.labels) != len(tables):
            what = f"{row.origin}: {len(row.labels)} levels of labels, but {source} have {len(tables)}."
            raise DataError(what, "Use data with the same levels.")
        for text, table, level in zip(row.labels, tables, levels, strict=True):
            if text not in table:
                what = f"{row.origin}: {level.name} class {text!r} is not among {source}."
                raise DataError(what, "Correct the label or the class list.")
        path = tuple(table[text] for text, table in zip(row.labels, tables, strict=True))
        for k in range(1, len(path)):
            parents = levels[k].parents
            if parents is not None and parents[path[k]] != path[k - 1]:
                below = " and ".join(repr(levels[k - 1].labels[p]) for p in (parents[path[k]], path[k - 1]))
                what = f"{row.origin}: {levels[k].name} class {row.labels[k]!r} lies below {below}."
                raise DataError(what, "Give every class one parent.")
        codes.append(path)
    return codes


def _make_levels(rows: Sequence[Entry], depth: int) -> tuple[LevelSpec, ...]:
    made: list[LevelSpec] = []
    for k, name in enumerate(level_names(depth)):
        found: dict[str, str | None] = {}
        for row in rows:
            found.setdefault(row.labels[k], row.labels[k - 1] if k else None)
        numeric = all(_NUMBER.fullmatch(text) for text in found)
        texts = sorted(found, key=lambda text: (int(text) if numeric else 0, text))
        parents = [_table(made[-1], made[-2] if k > 1 else None)[str(found[text])] for text in texts] if k else None
        made.append(LevelSpec(name=name, labels=_shorten(found, texts), parents=parents))
    return tuple(made)


def _shorten(parents: Mapping[str, str | None], texts: Sequence[str]) -> list[str]:
    """Drop the parent's name where the remaining one is unique: ``Fruit/Apple`` below ``Fruit`` is ``Apple``."""
    short = [text.removeprefix(f"{parents[text]}/") for text in texts]
    uses = Counter(short)
    return [text if uses[name] > 1 else name for text, name in zip(texts, short, strict=True)]


def _table(level: LevelSpec, above: LevelSpec | None) -> dict[str, int]:
    """Texts that mean a class of ``level``: its label, and ``parent/label`` as the folders are called."""
    # Hierarchies made before names were normalised may hold another spelling.
    table = {same_name(label): index for index, label in enumerate(level.labels)}
    if above is not None and level.parents is not None:
        paths = (f"{above.labels[p]}/{label}" for label, p in zip(level.labels, level.parents, strict=True))
        table |= {same_name(path): index for index, path in enumerate(paths)}
    return table


def _class_names(file: Path, names: Sequence[dict[int, str]], parent_ids: dict[int, int]) -> ClassNames:
    levels, tables = [], []
    ids = [sorted(level) for level in names]
    for k, (name, identities) in enumerate(zip(level_names(len(names)), ids, strict=True)):
        parents = [ids[k - 1].index(parent_ids[identity]) for identity in identities] if k else None
        labels = [names[k][identity] for identity in identities]
        if twice := [label for label, uses in Counter(labels).items() if uses > 1]:
            raise DataError(f"{file}: the {name} class {twice[0]!r} has two ids.", "Give every class its own name.")
        levels.append(LevelSpec(name=name, labels=labels, parents=parents))
        # An id wins over a class that happens to be called by that number.
        tables.append({text: i for texts in (labels, map(str, identities)) for i, text in enumerate(texts)})
    return ClassNames(tuple(levels), tuple(tables), file)
