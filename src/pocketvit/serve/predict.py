"""The ``predict`` command: an artifact on files, folders and globs; pictures, CSV or JSON out."""

from __future__ import annotations

import csv as csv_format
import glob
import io
import itertools
import os
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvit.errors import DataError, MissingDependencyError, UsageError, VerificationError
from pocketvit.files import make_folder, numbered, plain, write_json, write_text
from pocketvit.progress import track
from pocketvit.runtimes.model import Model, load
from pocketvit.spec.images import IMAGE_SUFFIXES, list_images, not_looked_at, read_image, readable_suffixes, write_image
from pocketvit.spec.tasks import TASKS
from pocketvit.terminal import cell, shown, table

if TYPE_CHECKING:
    from rich.console import RenderableType

DEFAULT_OUT = "predictions"
TABLE_SUFFIXES = (".csv", ".json")
_OTHER_PICTURES = frozenset({".gif", ".heic", ".heif", ".hif", ".jp2", ".jxl", ".svg", ".pdf", ".tga", ".dng", ".mp4"})
_OTHER_TABLES = frozenset({".txt", ".tsv", ".jsonl", ".xls", ".xlsx", ".html", ".xml", ".yaml", ".npy", ".npz", ".zip"})
NOT_WRITTEN = _OTHER_PICTURES | _OTHER_TABLES
"""Kinds of files that somebody may ask for by the name of ``out``; a folder of such a name would be a surprise.

GIF is read only: it holds 256 colours, and an answer would lose the others.
"""
TABLE_ROWS = 50
"""Rows printed at most; the files hold all."""


@dataclass(frozen=True)
class Prediction:
    """The answer for one image."""

    image: Path
    answer: dict[str, Any]
    """The result's JSON form."""
    output: Path | None
    """The picture that was written."""
    ms: float
    """Preprocessing, inference and postprocessing."""
    line: str = ""
    """The answer in a few words."""
    cells: dict[str, str] = field(default_factory=dict)
    """The answer as a row of the table."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return plain({"image": self.image, "output": self.output, "ms": self.ms, **self.answer})


@dataclass(frozen=True)
class Failure:
    """An image that could not be used, and why."""

    image: str
    reason: str


@dataclass(frozen=True)
class PredictReport:
    """What was answered, what was written and what was skipped."""

    artifact: str
    variant: str
    task: str
    predictions: tuple[Prediction, ...]
    failures: tuple[Failure, ...]
    table: Path | None
    """The CSV or JSON file that was written."""
    seconds: float
    notes: tuple[str, ...] = ()
    """What else there is to say: files in the folders that are no images."""

    @property
    def exit_code(self) -> int:
        """0, or 3 where an image could not be used."""
        return DataError.exit_code if self.failures else 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return plain(vars(self))

    def render(self) -> RenderableType:
        """A table of answers, then what was skipped."""
        from rich.console import Group
        from rich.table import Column

        columns = ("image", "written to" if any(row.output for row in self.predictions) else "answer", "ms")
        cells = [(shown(p.image), shown(p.output or p.line), f"{p.ms:.1f}") for p in self.predictions[:TABLE_ROWS]]
        lines = [f"... and {len(self.predictions) - TABLE_ROWS} more"] if len(self.predictions) > TABLE_ROWS else []
        written = f", all answers in {self.table}" if self.table else ""
        how = f"{self.seconds:.1f} s with {self.artifact} ({self.variant})"
        lines.append(f"{_images(len(self.predictions))} in {how}{written}.")
        if self.failures:
            lines.append(f"{_images(len(self.failures))} {'was' if len(self.failures) == 1 else 'were'} skipped:")
            lines += [f"  {shown(failure.reason)}" for failure in self.failures]
        lines += self.notes
        return Group(table((Column(name, overflow="fold") for name in columns), cells), cell("\n".join(lines)))


def predict(
    artifact: str,
    images: Sequence[str],
    *,
    out: str | None = None,
    target: str | None = None,
    csv: bool = False,
    top: int = 5,
    overwrite: bool = False,
    trust: bool = False,
    memory_mb: float | None = None,
) -> PredictReport:
    """Run an artifact on images.

    Tasks whose answer is a picture (restoration) write one for each image; others (classification) print the answers
    and write them to a JSON or CSV file where ``out`` or ``csv`` asks for it. An image that cannot be used is reported
    and skipped; the exit code is then 3. Input files are never overwritten, and files that are there already only with
    ``overwrite``: names that are taken get a number. In JSON and CSV a byte of a name that is no UTF-8 is an escape,
    ``\\udce9`` for 0xE9.

    Args:
        artifact: artifact folder, run folder, .pvit file or the name of a shipped artifact.
        images: files, folders (searched through) and globs.
        out: folder to write to, ``predictions`` by default; or a file: .png and the like for one image, .csv or .json
            for answers.
        target: runtime:precision[:threads]; by default the artifact's own.
        csv: write answers as CSV instead of JSON (classification).
        top: how many of the most probable classes of each level are listed (classification).
        overwrite: replace files of those names that were there before, but never an input.
        trust: also run files that are programs (TorchScript), which may do anything on this machine.
        memory_mb: MB that a photo may take above the idle process (restoration); beyond it, it runs in tiles that are
            as large as it allows. 1000 by default.

    Raises:
        DataError: no image was found, the only image cannot be used, or the output cannot be written.
        UsageError: no such artifact or variant, or options that do not go together.
    """
    model = load(artifact, target, trust=trust, memory_mb=memory_mb)
    most = max((len(level.labels) for level in model.manifest.levels), default=0)
    if not 1 <= top <= max(most, 5):
        raise UsageError(f"top must be at least 1 and at most {max(most, 5)}, not {top}.", "5 is usual.")
    task = TASKS[model.manifest.task]
    if csv and task.writes == "picture":
        raise UsageError(f"csv goes with answers in a table; this artifact {task.purpose}.", "Leave it out.")
    images = _entries(images)
    files, failures = expand(images)
    if not files and len(failures) == 1:
        raise DataError(failures[0].reason, "Check the path.")
    alone = len(files) == 1 and not failures
    began = time.perf_counter()
    # Before the work: a wrong name should not cost hours.
    places = plan_outputs(files, out, overwrite) if task.writes == "picture" else {}
    answers = _table_path(files, out, csv, overwrite) if task.writes == "table" else None
    for folder in {path.parent for path in (*places.values(), *([answers] if answers else []))}:
        make_folder(folder)
    done, failed = _run_all(model, files, places, top, alone, overwrite)
    if answers is not None and answers.suffix.lower() == ".csv":
        write_text(answers, _to_csv(done), overwrite=overwrite)
    elif answers is not None:
        write_json(answers, plain(done), overwrite=overwrite)
    notes = tuple(f"{entry}: {line}" for entry in images for line in _not_looked_at(entry)) + _compiling(model)
    inputs = {os.path.realpath(entry) for entry in images if os.path.isdir(entry)}
    if inputs & {os.path.realpath(place.parent) for place in places.values()}:
        notes += ("the answers lie among the inputs: the next predict on that folder takes them too",)
    who, seconds = (model.manifest.name, model.target.key, task.name), time.perf_counter() - began
    return PredictReport(*who, tuple(done), (*failures, *failed), answers, seconds, notes)


def _compiling(model: Model) -> tuple[str, ...]:
    """How long an engine that compiles for each size took to, where that is worth saying."""
    times = getattr(model.session, "compiled", ())
    said = len(times) > 1 or sum(times) > 1
    return (f"of that {sum(times):.1f} s for compiling for {len(times)} sizes of images",) * said


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def expand(images: Sequence[str]) -> tuple[list[Path], list[Failure]]:
    """Image files that ``images`` name, in order and without repeats, and the entries that name nothing.

    Raises:
        UsageError: nothing is named at all.
    """
    images = _entries(images)
    if not images:
        raise UsageError("no images are named.", "Name files, folders or globs.")
    files: dict[Path, None] = {}
    failures = []
    for entry in images:
        try:
            if os.path.isdir(entry):
                files |= dict.fromkeys(list_images(Path(entry)))
            elif not os.path.lexists(entry) and glob.has_magic(entry):
                found = sorted(map(Path, glob.glob(entry, recursive=True)))
                matches = [
                    path for path in found if os.path.isfile(path) and path.suffix.lower() in readable_suffixes()
                ]
                files |= dict.fromkeys(matches)
                if not matches:
                    what = f"{entry}: matches no image files."
                    raise DataError(what, "Check the pattern; quote it so that the shell leaves it alone.")
            else:
                os.stat(entry)
                files[Path(entry)] = None
        except FileNotFoundError:
            if entry.isdecimal():
                what = f"{entry}: predict reads no cameras, and there is no file of that name."
                raise UsageError(what, "Name files, folders or globs; save the camera's picture first.") from None
            failures.append(Failure(entry, f"{entry}: no such file."))
        except (OSError, ValueError) as error:  # a name too long, links in a circle, a NUL in a name
            failures.append(Failure(entry, f"{entry}: cannot be read ({getattr(error, 'strerror', '') or error})."))
        except DataError as error:
            failures.append(Failure(entry, error.what))
    return list(files), failures


def _entries(images: Sequence[str]) -> list[str]:
    """Names as text; one that stands alone is one name and not its letters.

    Raises:
        UsageError: something else than names.
    """
    try:
        given: Any = [images] if isinstance(images, str | bytes | os.PathLike) else images or ()
        return [os.fsdecode(entry) for entry in given]
    except TypeError as error:
        todo = "For pictures in memory load the artifact: pocketvit.load(ARTIFACT)(picture)."
        raise UsageError(f"images are named by text or paths ({error}).", todo) from error


def _not_looked_at(entry: str) -> list[str]:
    """What :func:`expand` left out of a folder or glob, in words."""
    if os.path.isdir(entry):
        return not_looked_at(Path(entry))
    if os.path.lexists(entry) or not glob.has_magic(entry):
        return []
    return not_looked_at([Path(name) for name in glob.glob(entry, recursive=True) if not os.path.isdir(name)])


def _run_all(
    model: Model, files: Sequence[Path], places: dict[Path, Path], top: int, alone: bool, overwrite: bool
) -> tuple[list[Prediction], list[Failure]]:
    """Answer for every file; ``places`` says where a picture goes. A bad image is noted, unless it is ``alone``."""
    done: list[Prediction] = []
    failed: list[Failure] = []
    by_tile = model.tiled and len(files) == 1
    with track(f"predict with {model.manifest.name}", None if by_tile else len(files)) as advance:
        for path in files:
            try:
                on_tile = advance if by_tile else None
                done.append(_answer(model, path, places.get(path), top, on_tile, overwrite))
            # An engine may fail on one image and not on the next.
            except (DataError, MissingDependencyError, VerificationError) as error:
                if alone:
                    raise
                failed.append(Failure(str(path), error.what))
            if not by_tile:
                advance()
    return done, failed


def _answer(
    model: Model, path: Path, place: Path | None, top: int, on_tile: Callable[[], None] | None, overwrite: bool
) -> Prediction:
    """Answer for one file. A function of its own, so that no picture outlives it while the next one is decoded."""
    try:
        pixels = read_image(path)
        start = time.perf_counter()
        result = model(pixels, on_tile)
        ms = (time.perf_counter() - start) * 1e3
        if place is not None:
            picture = result.draw(pixels)
            del pixels  # encoding needs a copy of the picture; the input is not needed any more
            write_image(place, picture, overwrite=overwrite)
    except MemoryError as error:
        raise DataError(f"{path}: needs more memory than there is.", "Cut it into parts.") from error
    except (DataError, VerificationError) as error:
        known = str(path) in error.what or (place is not None and str(place) in error.what)
        raise type(error)(error.what if known else f"{path}: {error.what}", error.todo) from error
    return Prediction(path, result.to_dict(top), place, ms, result.line, result.cells(top))


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
    inputs = set(map(os.path.realpath, files))
    taken = _names_in(folder) if not overwrite else set()
    plan: dict[Path, Path] = {}
    numbers: dict[str, int] = {}  # the number to begin with: a thousand equal stems should not take a million looks
    for path in files:
        stem = _same(path.stem)
        for number in itertools.count(numbers.get(stem, 1)):
            output = numbered(folder / f"{path.stem}.png", number)
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


def _table_path(files: Sequence[Path], out: str | None, csv: bool, overwrite: bool) -> Path | None:
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


def _to_csv(predictions: Sequence[Prediction]) -> str:
    """One line for each image, with a heading."""
    buffer = io.StringIO()
    columns = dict.fromkeys(("image", *(name for row in predictions for name in row.cells)))
    writer = csv_format.DictWriter(buffer, list(columns), lineterminator="\n")
    if predictions:
        writer.writeheader()
    writer.writerows({"image": str(row.image), **row.cells} for row in predictions)
    return buffer.getvalue()
