"""The ``predict`` command: an artifact on files, folders and globs; pictures, CSV or JSON out."""

from __future__ import annotations

import csv as csv_format
import glob
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvit.errors import DataError, MissingDependencyError, UsageError, VerificationError
from pocketvit.files import make_folder, plain, replacing, write_json, write_text
from pocketvit.progress import track
from pocketvit.runtimes.model import Model, load
from pocketvit.runtimes.strength import check_strength
from pocketvit.serve.compare import compare_picture
from pocketvit.serve.places import COMPARE, plan_beside, plan_outputs, table_path
from pocketvit.serve.remote import RemoteModel, answering
from pocketvit.spec.images import list_images, not_looked_at, read_image, readable_suffixes, write_image
from pocketvit.spec.manifest import Manifest
from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.base import Extra, Wishes
from pocketvit.terminal import cell, shown, table

if TYPE_CHECKING:
    from rich.console import RenderableType

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
    compare: Path | None = None
    """The picture of before and after, where one was asked for."""
    files: tuple[Path, ...] = ()
    """What else was written of the answer."""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        more = {key: value for key in ("compare", "files") if (value := getattr(self, key))}
        return plain({"image": self.image, "output": self.output, **more, "ms": self.ms, **self.answer})


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
    strength: float | None = None
    """What was asked for; None is as trained."""

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
        knob = "" if self.strength is None else f", strength {self.strength:g}"
        how = f"{self.seconds:.1f} s with {self.artifact} ({self.variant}{knob})"
        lines.append(f"{_images(len(self.predictions))} in {how}{written}.")
        if extras := [str(file) for p in self.predictions for file in p.files]:
            others = f" and {len(extras) - 1} more" if len(extras) > 1 else ""
            lines.append(f"Also written: {shown(extras[0])}{others}")
        if compared := [str(p.compare) for p in self.predictions if p.compare]:
            others = f" and {len(compared) - 1} more" if len(compared) > 1 else ""
            lines.append(f"Before and after: {shown(compared[0])}{others}")
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
    strength: float | None = None,
    compare: bool = False,
    overwrite: bool = False,
    trust: bool = False,
    memory_mb: float | None = None,
    npy: bool = False,
    ply: bool = False,
    fov: float | None = None,
    intrinsics: tuple[float, float, float, float] | None = None,
    server: str | None = None,
    token_file: str | None = None,
    timeout: float = 30.0,
) -> PredictReport:
    """Run an artifact on images.

    Tasks whose answer is a picture (restoration) or a map (depth, masks) or boxes write a picture for each image, of a
    map its values beside it (for depth 16-bit PNG in millimetres, for masks 8-bit PNG of class indices), of boxes a
    JSON file; others (classification) print the answers and write them to a JSON or CSV file where ``out`` or ``csv``
    asks for it. An image that cannot be used is reported and skipped; the exit code is then 3. Input files are never
    overwritten, and files that are there already only with ``overwrite``: names that are taken get a number. In JSON
    and CSV a byte of a name that is no UTF-8 is an escape, ``\\udce9`` for 0xE9.

    Args:
        artifact: artifact folder, run folder, .pvit file or the name of a shipped artifact.
        images: files, folders (searched through) and globs.
        out: folder to write to, ``predictions`` by default; or a file: .png and the like for one image, .csv or .json
            for answers.
        target: runtime:precision[:threads]; by default the artifact's own.
        csv: write answers as CSV instead of JSON (classification).
        top: how many of the most probable classes of each level are listed (classification).
        strength: how strongly a photo is restored, 0 to 2: 0 is the input, 1 as trained (the default), between them a
            blend; above 1 the model runs once more on its own answer, which takes twice the time.
        compare: also write <name>.compare.png beside each picture: before on the left, after on the right, and below
            them details, enlarged.
        overwrite: replace files of those names that were there before, but never an input.
        trust: also run files that are programs (TorchScript), which may do anything on this machine.
        memory_mb: MB that a photo may take above the idle process (restoration); beyond it, it runs in tiles that are
            as large as it allows. 1000 by default.
        npy: write the values of a map as a NumPy file (float32) instead of PNG.
        ply: also write <name>.ply, the points that a depth map stands for, in metres with the photo's colours.
        fov: horizontal field of view of the camera in degrees, for ply; 60 by default.
        intrinsics: of the camera in the photo's pixels, fx fy cx cy, for ply instead of fov.
        server: of the head of a split model: address of a server of its tail, to which its features are sent.
        token_file: file with the bearer token of that server.
        timeout: seconds that the server may take for an answer.

    Raises:
        DataError: no image was found, the only image cannot be used, or the output cannot be written.
        UsageError: no such artifact or variant, or options that do not go together.
    """
    model = load(artifact, target, trust=trust, memory_mb=memory_mb)
    task = TASKS[model.manifest.task]
    answerer = answering(model, server, token_file, timeout, top)
    _check_options(model.manifest, csv, compare, top, strength)
    extras = task.extras(Wishes(npy, ply, fov, intrinsics), model.manifest.config)
    images = _entries(images)
    files, failures = expand(images)
    if not files and len(failures) == 1:
        raise DataError(failures[0].reason, "Check the path.")
    alone = len(files) == 1 and not failures
    began = time.perf_counter()
    places = plan_outputs(files, out, overwrite) if task.writes == "picture" else {}  # now: a wrong name costs hours
    beside = plan_beside(places, [*([COMPARE] if compare else []), *extras], overwrite)
    answers = table_path(files, out, csv, overwrite) if task.writes == "table" else None
    _make_folders([*places.values(), *([answers] if answers else [])])
    job = _Job(answerer, places, beside, extras, top, overwrite, strength)
    done, failed = _run_all(job, files, alone)
    if answers is not None:
        _write_table(answers, done, overwrite)
    notes = tuple(_notes(job, images, done))
    who, seconds = (model.manifest.name, model.target.key, task.name), time.perf_counter() - began
    return PredictReport(*who, tuple(done), (*failures, *failed), answers, seconds, notes, strength)


def _make_folders(files: Sequence[Path]) -> None:
    for folder in {file.parent for file in files}:
        make_folder(folder)


def _check_options(manifest: Manifest, csv: bool, compare: bool, top: int, strength: float | None) -> None:
    """Raise ``UsageError`` for options that do not go with the answers of this artifact."""
    check_strength(manifest, strength)
    most, task = max((len(level.labels) for level in manifest.levels), default=0), TASKS[manifest.task]
    if not 1 <= top <= (1000 if manifest.is_head else max(most, 5)):
        raise UsageError(f"top must be at least 1 and at most {max(most, 5)}, not {top}.", "5 is usual.")
    if csv and task.writes == "picture":
        raise UsageError(f"csv goes with answers in a table; this artifact {task.purpose}.", "Leave it out.")
    if compare and task.writes != "picture":
        raise UsageError(f"compare goes with answers that are pictures; this artifact {task.purpose}.", "Leave it out.")


def _notes(job: _Job, images: Sequence[str], done: Sequence[Prediction]) -> Iterator[str]:
    """What else there is to say."""
    yield from (f"{entry}: {line}" for entry in images for line in _not_looked_at(entry))
    yield from _compiling(job.model)
    yield from dict.fromkeys(note for one in done for note in one.notes if note)
    inputs = {os.path.realpath(entry) for entry in images if os.path.isdir(entry)}
    if inputs & {os.path.realpath(place.parent) for place in job.places.values()}:
        yield "the answers lie among the inputs: the next predict on that folder takes them too"
    if job.strength is not None and (job.strength == 0 or job.strength > 1):
        how = "twice on each image" if job.strength else "on no image"
        yield f"strength {job.strength:g}: the model ran {how}"


def _compiling(model: Model | RemoteModel) -> tuple[str, ...]:
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
                raise UsageError(what, "Name files, folders or globs; `pocketvit stream` reads cameras.") from None
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


@dataclass(frozen=True)
class _Job:
    """How every file is answered, and where the pictures go."""

    model: Model | RemoteModel
    places: Mapping[Path, Path]
    beside: Mapping[Path, Mapping[str, Path]]
    """Where else something of an image's answer goes, by the end of the name."""
    extras: Mapping[str, Extra]
    top: int
    overwrite: bool
    strength: float | None


def _run_all(job: _Job, files: Sequence[Path], alone: bool) -> tuple[list[Prediction], list[Failure]]:
    """Answer for every file. A bad image is noted, unless it is ``alone``."""
    done: list[Prediction] = []
    failed: list[Failure] = []
    by_tile = job.model.tiled and len(files) == 1
    with track(f"predict with {job.model.manifest.name}", None if by_tile else len(files)) as advance:
        for path in files:
            try:
                done.append(_answer(job, path, advance if by_tile else None))
            # An engine may fail on one image and not on the next.
            except (DataError, MissingDependencyError, VerificationError) as error:
                if alone:
                    raise
                failed.append(Failure(str(path), error.what))
            if not by_tile:
                advance()
    return done, failed


def _answer(job: _Job, path: Path, on_tile: Callable[[], None] | None) -> Prediction:
    """Answer for one file. A function of its own, so that no picture outlives it while the next one is decoded."""
    place, others = job.places.get(path), dict(job.beside.get(path, {}))
    beside, notes = others.pop(COMPARE, None), list[str]()
    try:
        pixels = read_image(path)
        start = time.perf_counter()
        result = job.model(pixels, on_tile, strength=job.strength)
        ms = (time.perf_counter() - start) * 1e3
        if place is not None:
            picture = result.draw(pixels)
            both = compare_picture(pixels, picture) if beside is not None else None
            for suffix, file in others.items():
                with replacing(file, overwrite=job.overwrite) as partial:
                    notes.append(job.extras[suffix](partial, result, pixels))
            del pixels  # encoding needs a copy of the picture; the input is not needed any more
            write_image(place, picture, overwrite=job.overwrite)
            if beside is not None and both is not None:
                write_image(beside, both, overwrite=job.overwrite)
    except MemoryError as error:
        raise DataError(f"{path}: needs more memory than there is.", "Cut it into parts.") from error
    except (DataError, VerificationError) as error:
        known = any(str(name) in error.what for name in (path, place, beside, *others.values()) if name is not None)
        raise type(error)(error.what if known else f"{path}: {error.what}", error.todo) from error
    answer, cells = result.to_dict(job.top), result.cells(job.top)
    return Prediction(path, answer, place, ms, result.line, cells, beside, tuple(others.values()), tuple(notes))


def _write_table(place: Path, done: Sequence[Prediction], overwrite: bool) -> None:
    if place.suffix.lower() == ".csv":
        write_text(place, _to_csv(done), overwrite=overwrite)
    else:
        write_json(place, plain(done), overwrite=overwrite)


def _to_csv(predictions: Sequence[Prediction]) -> str:
    """One line for each image, with a heading."""
    buffer = io.StringIO()
    columns = dict.fromkeys(("image", *(name for row in predictions for name in row.cells)))
    writer = csv_format.DictWriter(buffer, list(columns), lineterminator="\n")
    if predictions:
        writer.writeheader()
    writer.writerows({"image": str(row.image), **row.cells} for row in predictions)
    return buffer.getvalue()
