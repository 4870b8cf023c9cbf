"""Where ``predict`` writes: names that meet no input, no other answer, and nothing that is there already."""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pocketvit.errors import UsageError
from pocketvit.files import numbered
from pocketvit.spec.images import IMAGE_SUFFIXES

DEFAULT_OUT, COMPARE = "predictions", ".compare.png"
TABLE_SUFFIXES = (".csv", ".json")
_OTHER_PICTURES = frozenset({".gif", ".heic", ".heif", ".hif", ".jp2", ".jxl", ".svg", ".pdf", ".tga", ".dng", ".mp4"})
_OTHER_TABLES = frozenset({".txt", ".tsv", ".jsonl", ".xls", ".xlsx", ".html", ".xml", ".yaml", ".npy", ".npz", ".zip"})
NOT_WRITTEN = _OTHER_PICTURES | _OTHER_TABLES
"""Kinds of files that somebody may ask for by the name of ``out``; a folder of such a name would be a surprise.

GIF is read only: it holds 256 colours, and an answer would lose the others.
"""


def plan_outputs(files: Sequence[Path], out: str | None, overwrite: bool = False) -> dict[Path, Path]:
    """Where each picture goes: ``<out>/<stem>.png``, numbered where names meet, the same for the same files each time.

    Names meet also where only case or the form of an accent tells them apart: other file systems make one of them.
    Inputs are never written to, and what is there already only with ``overwrite``.

    Raises:
        UsageError: ``out`` is a file although there are several images, is an input or there already, or has the
            suffix of a table or of ``NOT_WRITTEN``.
    """
    folder = Path(out or DEFAULT_OUT)
    if os.path.isdir(folder):
        return _plan_folder(files, folder, overwrite)
    _check_kind(folder)
    if folder.suffix.lower() in IMAGE_SUFFIXES:
        if len(files) != 1:
            raise UsageError(f"out {out} is one file, but there are {len(files)} images.", "Name a folder.")
        return {files[0]: _named(folder, files, overwrite)}
    if folder.suffix.lower() in TABLE_SUFFIXES or os.path.lexists(folder):
        raise UsageError(f"out {out} is a file without an image suffix.", "Name a folder, or a file ending in .png.")
    return _plan_folder(files, folder, overwrite)


def _check_kind(out: Path) -> None:
    if out.suffix.lower() in NOT_WRITTEN:
        todo = "Name a folder, a .png file for a picture, or a .csv or .json file for answers."
        raise UsageError(f"out {out}: {out.suffix} files are not written.", todo)


def _named(path: Path, files: Sequence[Path], overwrite: bool) -> Path:
    """A file that ``out`` names: no input, and not there already unless ``overwrite``."""
    if os.path.realpath(path) in map(os.path.realpath, files):
        raise UsageError(f"out {path} is the input itself.", "Name another file; inputs are never overwritten.")
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"out {path} is there already.", "Name another file, or replace it with --overwrite.")
    return path


def _plan_folder(files: Sequence[Path], folder: Path, overwrite: bool) -> dict[Path, Path]:
    return _free({path: folder / f"{path.stem}.png" for path in files}, overwrite)


def plan_beside(
    places: Mapping[Path, Path], suffixes: Sequence[str], overwrite: bool = False
) -> dict[Path, dict[str, Path]]:
    """Where else something of each answer goes, by ``suffixes``: ``<name>.compare.png`` beside ``<name>.png``, under
    the same rules."""
    plan: dict[Path, dict[str, Path]] = {path: {} for path in places}
    taken = list(places.values())
    for suffix in suffixes:
        wanted = {path: place.with_name(f"{place.stem}{suffix}") for path, place in places.items()}
        for path, file in _free(wanted, overwrite, taken).items():
            plan[path][suffix] = file
            taken.append(file)
    return plan


def _free(wanted: Mapping[Path, Path], overwrite: bool, others: Iterable[Path] = ()) -> dict[Path, Path]:
    """Input to output: the name that is wanted (all in one folder), numbered where it is an input's or taken."""
    inputs = set(map(os.path.realpath, wanted))
    taken = {_same(other.name) for other in others}
    if not overwrite:
        taken |= {name for folder in {place.parent for place in wanted.values()} for name in _names_in(folder)}
    plan: dict[Path, Path] = {}
    numbers: dict[str, int] = {}  # the number to begin with: a thousand equal stems should not take a million looks
    for path, place in wanted.items():
        stem = _same(place.stem)
        for number in itertools.count(numbers.get(stem, 1)):
            output = numbered(place, number)
            if _same(output.name) not in taken and os.path.realpath(output) not in inputs:
                break
        numbers[stem] = number + 1
        taken.add(_same(output.name))
        plan[path] = output
    return plan


def _names_in(folder: Path) -> set[str]:
    try:
        return set(map(_same, os.listdir(folder)))
    except OSError:  # not there yet, or not to be listed: what cannot be written is said when it is
        return set()


def _same(name: str) -> str:
    """What names have in common that are one file on some file system."""
    return unicodedata.normalize("NFC", name).casefold()


def table_path(files: Sequence[Path], out: str | None, csv: bool, overwrite: bool) -> Path | None:
    """The file for the answers; in a folder it gets a number where one is there already."""
    if out is None and not csv:
        return None
    path = Path(out or DEFAULT_OUT)
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        what = f"out {out} is a picture, but the answers of this artifact are a table."
        raise UsageError(what, "Name a folder, a .csv or a .json file.")
    if csv and suffix == ".json":
        raise UsageError(f"out {out} is JSON, but csv is on.", "Leave one of them out.")
    if suffix in TABLE_SUFFIXES and not os.path.isdir(path):
        return _named(path, files, overwrite)
    if not os.path.isdir(path):
        _check_kind(path)
    taken = set() if overwrite else _names_in(path)
    names = (numbered(path / f"predictions.{'csv' if csv else 'json'}", number) for number in itertools.count(1))
    return next(name for name in names if _same(name.name) not in taken)
