"""The ``predict`` command: an artifact on files, folders and globs; pictures, CSV or JSON out."""

from __future__ import annotations

import csv as csv_format
import glob
import io
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvit.errors import DataError, UsageError, within_memory
from pocketvit.files import make_folder, plain, write_json, write_text
from pocketvit.progress import track
from pocketvit.runtimes.model import Model, load
from pocketvit.spec.images import IMAGE_SUFFIXES, list_images, read_image, write_image
from pocketvit.spec.tasks import TASKS

if TYPE_CHECKING:
    from rich.console import RenderableType

DEFAULT_OUT = "predictions"
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
        from rich.table import Column, Table
        from rich.text import Text

        columns = ("image", "written to" if any(row.output for row in self.predictions) else "answer", "ms")
        table = Table(*(Column(name, overflow="fold") for name in columns), box=None, pad_edge=False)
        for row in self.predictions[:TABLE_ROWS]:
            table.add_row(str(row.image), str(row.output or row.line), f"{row.ms:.1f}")
        lines = [f"... and {len(self.predictions) - TABLE_ROWS} more"] if len(self.predictions) > TABLE_ROWS else []
        written = f", all answers in {self.table}" if self.table else ""
        how = f"{self.seconds:.1f} s with {self.artifact} ({self.variant})"
        lines.append(f"{len(self.predictions)} images in {how}{written}.")
        if self.failures:
            lines.append(f"{len(self.failures)} images were skipped:")
            lines += [f"  {failure.reason}" for failure in self.failures]
        return Group(table, Text("\n".join(lines)))


def predict(
    artifact: str,
    images: Sequence[str],
    *,
    out: str | None = None,
    target: str | None = None,
    csv: bool = False,
    top: int = 5,
) -> PredictReport:
    """Run an artifact on images.

    Tasks whose answer is a picture (restoration) write one for each image; others (classification) print the answers
    and write them to a JSON or CSV file where ``out`` or ``csv`` asks for it. An image that cannot be used is reported
    and skipped; the exit code is then 3. Input files are never overwritten.

    Args:
        artifact: artifact folder, run folder, .pvit file or the name of a shipped artifact.
        images: files, folders (searched through) and globs.
        out: folder to write to, ``predictions`` by default; or a file: .png and the like for one image, .csv or .json
            for answers.
        target: runtime:precision[:threads]; by default the artifact's own.
        csv: write answers as CSV instead of JSON (classification).
        top: how many of the most probable classes of each level are listed (classification).

    Raises:
        DataError: no image was found, the only image cannot be used, or the output cannot be written.
        UsageError: no such artifact or variant, or options that do not go together.
    """
    model = load(artifact, target)
    if top < 1:
        raise UsageError(f"top must be at least 1, not {top}.", "5 is usual.")
    task = TASKS[model.manifest.task]
    if csv and task.writes == "picture":
        raise UsageError(f"csv goes with answers in a table; this artifact {task.purpose}.", "Leave it out.")
    files, failures = expand(images)
    if not files and len(failures) == 1:
        raise DataError(failures[0].reason, "Check the path.")
    alone = len(files) == 1 and not failures
    began = time.perf_counter()
    # Before the work: a wrong name should not cost hours.
    places = plan_outputs(files, out) if task.writes == "picture" else {}
    table = _table_path(out, csv) if task.writes == "table" else None
    for folder in {path.parent for path in (*places.values(), *([table] if table else []))}:
        make_folder(folder)
    done, failed = _run_all(model, files, places, top, alone)
    if table is not None and table.suffix.lower() == ".csv":
        write_text(table, _to_csv(done))
    elif table is not None:
        write_json(table, plain(done))
    who, seconds = (model.manifest.name, model.target.key, task.name), time.perf_counter() - began
    return PredictReport(*who, tuple(done), (*failures, *failed), table, seconds)


def expand(images: Sequence[str]) -> tuple[list[Path], list[Failure]]:
    """Image files that ``images`` name, in order and without repeats, and the entries that name nothing.

    Raises:
        UsageError: nothing is named at all.
    """
    if isinstance(images, str | os.PathLike):
        images = [os.fspath(images)]
    if not images:
        raise UsageError("no images are named.", "Name files, folders or globs.")
    files: dict[Path, None] = {}
    failures = []
    for entry in images:
        path = Path(entry)
        try:
            if path.is_dir():
                files |= dict.fromkeys(list_images(path))
            elif not path.exists() and glob.has_magic(str(entry)):
                found = sorted(map(Path, glob.glob(str(entry), recursive=True)))
                matches = [path for path in found if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES]
                files |= dict.fromkeys(matches)
                if not matches:
                    what = f"{entry}: matches no image files."
                    raise DataError(what, "Check the pattern; quote it so that the shell leaves it alone.")
            else:
                files[path] = None
        except DataError as error:
            failures.append(Failure(str(entry), error.what))
    return list(files), failures


def _run_all(
    model: Model, files: Sequence[Path], places: dict[Path, Path], top: int, alone: bool
) -> tuple[list[Prediction], list[Failure]]:
    """Answer for every file; ``places`` says where a picture goes. A bad image is noted, unless it is ``alone``."""
    done: list[Prediction] = []
    failed: list[Failure] = []
    by_tile = model.tiled and len(files) == 1
    with track(f"predict with {model.manifest.name}", None if by_tile else len(files)) as advance:
        for path in files:
            try:
                done.append(_answer(model, path, places.get(path), top, advance if by_tile else None))
            except DataError as error:
                what = error.what if str(path) in error.what else f"{path}: {error.what}"
                if alone:
                    raise type(error)(what, error.todo) from error
                failed.append(Failure(str(path), what))
            if not by_tile:
                advance()
    return done, failed


def _answer(model: Model, path: Path, place: Path | None, top: int, on_tile: Callable[[], None] | None) -> Prediction:
    """Answer for one file. Its pixels live no longer than they are needed: of large photos every copy counts."""
    with within_memory(str(path)):
        pixels = read_image(path)
        start = time.perf_counter()
        result = model(pixels, on_tile)
        ms = (time.perf_counter() - start) * 1e3
        row = Prediction(path, result.to_dict(top), place, ms, result.line, result.cells(top))
        if place is not None:
            picture = result.draw(pixels)
            del pixels, result
            write_image(place, picture)
    return row


def plan_outputs(files: Sequence[Path], out: str | None) -> dict[Path, Path]:
    """Where each picture goes: ``<out>/<stem>.png``, numbered where stems meet, never onto an input.

    Raises:
        UsageError: ``out`` is a file although there are several images, is an input, or has an unknown suffix.
    """
    inputs = {path.resolve() for path in files}
    folder = Path(out or DEFAULT_OUT)
    if folder.suffix.lower() in IMAGE_SUFFIXES and not folder.is_dir():
        if len(files) != 1:
            raise UsageError(f"out {out} is one file, but there are {len(files)} images.", "Name a folder.")
        if folder.resolve() in inputs:
            raise UsageError(f"out {out} is the input itself.", "Name another file; inputs are never overwritten.")
        return {files[0]: folder}
    if folder.is_file():
        raise UsageError(f"out {out} is a file without an image suffix.", "Name a folder, or a file ending in .png.")
    taken: set[Path] = set()
    plan = {}
    for path in files:
        number, output = 1, folder / f"{path.stem}.png"
        while output.resolve() in inputs or output in taken:
            number += 1
            output = folder / f"{path.stem}_{number}.png"
        taken.add(output)
        plan[path] = output
    return plan


def _table_path(out: str | None, csv: bool) -> Path | None:
    """The file for the answers."""
    if out is None and not csv:
        return None
    path = Path(out or DEFAULT_OUT)
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        what = f"out {out} is a picture, but the answers of this artifact are a table."
        raise UsageError(what, "Name a folder, a .csv or a .json file.")
    if csv and suffix == ".json":
        raise UsageError(f"out {out} is JSON, but csv is on.", "Leave one of them out.")
    if suffix not in (".csv", ".json"):
        path = path / f"predictions.{'csv' if csv else 'json'}"
    return path


def _to_csv(predictions: Sequence[Prediction]) -> str:
    """One line for each image, with a heading."""
    buffer = io.StringIO()
    columns = dict.fromkeys(("image", *(name for row in predictions for name in row.cells)))
    writer = csv_format.DictWriter(buffer, list(columns), lineterminator="\n")
    if predictions:
        writer.writeheader()
    writer.writerows({"image": str(row.image), **row.cells} for row in predictions)
    return buffer.getvalue()
