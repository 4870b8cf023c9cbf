"""Run folders: recipe, environment, data; the rule that a run resumes as it began, but a finished one stays."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from pocketvit.data.check import check_images
from pocketvit.data.collections import Splits
from pocketvit.data.fingerprint import differences, fingerprint
from pocketvit.errors import DataError, PocketvitError, UsageError
from pocketvit.files import disk_faults, sweep, write_json, write_text, writing
from pocketvit.interrupts import Interrupted
from pocketvit.spec.environment import environment
from pocketvit.spec.recipe import Recipe, load_recipe
from pocketvit.train.lock import locked

RECIPE, FINISHED, DATA, ADVISED, LOG = "recipe.yaml", "finished.json", "data.json", "advised.json", "run.log"
CHANGEABLE = ("budget", "contact", "floor", "licence_data", "name", "search.prefer", "search.quiet_seconds")
"""Sections and fields that a resumed run may change: they judge and label what was trained, and change no training."""

_FIELD = re.compile(r"\b[a-z_]+\.[a-z_.]*[a-z]")
MADE = (
    *(DATA, ADVISED, "timing.json", "study.db", "metrics.csv", "curves.png", "report.json", "report.html"),
    *("timing", "trials", "files", "pictures", "last", "best"),
)
"""What a run makes in its folder, beside recipe, environment and artifact."""


@contextmanager
def run_folder(
    recipe: Recipe, name: str, runs: str, splits: Splits, notify: Callable[[str], None] = lambda line: None
) -> Iterator[Path]:
    """Hold ``runs/name`` for this process alone, created or re-entered by :func:`open_run`, while the run goes on.

    What is refused within leaves no new folder behind, fields that an error advises to change may be changed by the
    next call, and a full disk or a signal says how the run goes on.

    Raises UsageError: see :func:`open_run`, or another process is in the folder. DataError: see :func:`open_run`, or
    the disk is full.
    """
    folder = _place(name, runs)
    todo = "Free some space there; the same command with the same name goes on where it stopped."
    new = not os.path.exists(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder), disk_faults(folder, todo):
        try:
            yield open_run(recipe, name, runs, splits, notify)
        except UsageError:
            if new and not _claimed(folder):
                shutil.rmtree(folder, ignore_errors=True)
            raise
        except KeyboardInterrupt as error:
            asked = error if isinstance(error, Interrupted) else Interrupted()
            raise Interrupted(
                asked.number, asked.what, "The same command with the same name goes on where it stopped."
            ) from None
        except PocketvitError as error:
            if fields := sorted(set(_FIELD.findall(error.todo)) & set(_paths(recipe.to_dict()))):
                with suppress(DataError):  # a full disk is told by the error itself
                    write_json(folder / ADVISED, {"error": error.what, "fields": fields})
            raise


def open_run(
    recipe: Recipe,
    name: str,
    runs: str,
    splits: Splits | None = None,
    notify: Callable[[str], None] = lambda line: None,
) -> Path:
    """Create or re-enter ``runs/name``.

    A run that has a checkpoint keeps its recipe and its data: only budget, floor, licence and artifact name may
    change, and what an error of the run advised to change. One without is begun anew.

    Raises UsageError: the name is no plain folder name, the run is finished, or was begun with another recipe.
    DataError: the folder cannot be read or written, was begun with other data, or holds a damaged file.
    """
    folder = _place(name, runs)
    try:
        return _enter(folder, recipe, fingerprint(splits) if splits else None, notify)
    except OSError as error:
        what = f"{folder}: cannot be written ({error.strerror})."
        raise DataError(what, "Check --runs, free space and permissions.") from error


def check_name(name: str) -> None:
    """Raise ``UsageError`` unless ``name`` is one plain folder name."""
    if not name.strip() or name in (".", "..") or any(mark in name for mark in "/\\\0"):
        what = f"{name!r} cannot name a run."
        raise UsageError(what, "Give --name one plain folder name, and --runs the folder above it.")


def finish_run(folder: Path, summary: dict[str, Any]) -> None:
    """Mark the run as finished and delete what kills have left. Raises DataError: the folder cannot be written."""
    sweep(folder)
    write_json(folder / FINISHED, summary)


def check_once(folder: Path, splits: Splits, quiet: bool) -> None:
    """Decode the images of the run (:func:`pocketvit.data.check.check_images`), unless that was done under its name.

    Raises DataError: some are damaged.
    """
    document = _read(folder / DATA)
    if not document.get("decoded"):
        check_images(splits, quiet=quiet)
        write_json(folder / DATA, {**document, "decoded": True})


def _place(name: str, runs: str) -> Path:
    check_name(name)
    return Path(runs) / name


def refuse_finished(recipe: Recipe, name: str, runs: str) -> None:
    """Raise ``UsageError`` where the run is finished, before anything heavy is imported or any data are read."""
    _refuse_finished(_place(name, runs), recipe)


def _refuse_finished(folder: Path, recipe: Recipe) -> None:
    """Name the first difference of the finished run's recipe from this one."""
    if not os.path.exists(folder / FINISHED):  # also of names that no file system takes
        return
    changed = _differences(_begun(folder), recipe.to_dict()) if (folder / RECIPE).exists() else []
    other = f" with another recipe ({changed[0]})" if changed else ""
    raise UsageError(
        f"the run {folder} is finished{other}.", "Choose another --name, or delete the folder to start over."
    )


def _enter(folder: Path, recipe: Recipe, data: dict[str, Any] | None, notify: Callable[[str], None]) -> Path:
    _refuse_finished(folder, recipe)
    document, claimed = recipe.to_dict(), _claimed(folder)
    if (folder / RECIPE).exists():
        begun = _begun(folder)
        changed = [line for line in _differences(begun, document) if not line.startswith(CHANGEABLE)]
        advised = tuple(f"{name}: " for name in _listed(folder / ADVISED, "fields"))
        refused = [line for line in changed if not line.startswith(advised)] if advised else changed
        if claimed and refused:
            what = f"the run {folder} was begun with another recipe ({refused[0]})."
            raise UsageError(what, "Undo the change to resume, or choose another --name.")
        if claimed:
            _check_data(folder, data)
            for line in changed:
                notify(f"goes on with {line}")
        elif changed or (data and _read(folder / DATA).get("files") not in (None, data)):
            _clear(folder)  # nothing was trained yet: timings of other models or photos say nothing
        _log(folder, f"goes on{''.join(f'; {line}' for line in changed)}")
        if begun == document and (data is None or (folder / DATA).exists()):
            return folder
    elif claimed:
        what = f"{folder / RECIPE} is not there, and nothing else says how the checkpoints beside it were trained."
        raise DataError(what, f"Put it back, delete {folder} to start over, or choose another --name.")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "environment.json", environment() | {"seed": recipe.train.seed})
        _log(folder, "begins")
    if data is not None and not (folder / DATA).exists():
        write_json(folder / DATA, {"files": data})
    # The recipe comes last: where it lies, the folder is ready to be resumed.
    write_text(folder / RECIPE, yaml.safe_dump(document, sort_keys=False))
    return folder


def _claimed(folder: Path) -> bool:
    """Whether a checkpoint lies in the run."""
    places = ("last", "best", "trials/*/last", "trials/*/best")
    return any(file for place in places for file in folder.glob(f"{place}/*.safetensors"))


def _clear(folder: Path) -> None:
    for name in MADE:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _begun(folder: Path) -> dict[str, Any]:
    try:
        if not (folder / RECIPE).read_bytes().strip():
            raise UsageError("it is empty", "")
        return load_recipe(folder / RECIPE).to_dict()
    except PocketvitError as error:
        what = f"{folder / RECIPE}: the recipe of the run cannot be read ({error.what.rstrip('.')})."
        raise DataError(what, f"Delete {folder} to start over, or choose another --name.") from error


def _read(path: Path) -> dict[str, Any]:
    """A JSON object of the run folder; an empty one where there is none. Raises DataError: it is damaged."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no object")
        return found
    except (OSError, ValueError, RecursionError) as error:
        what = f"{path}: cannot be read ({' '.join(str(error).split())[:120]})."
        raise DataError(what, "Delete it, if data and recipe are those that the run began with.") from error


def _listed(path: Path, key: str) -> list[str]:
    """Texts that a JSON object of the run folder lists; none where it is no list, which only damage makes of it."""
    found = _read(path).get(key, [])
    return [text for text in found if isinstance(text, str)] if isinstance(found, list) else []


def _check_data(folder: Path, data: dict[str, Any] | None) -> None:
    path = folder / DATA
    begun = _read(path).get("files")
    if data is None or not path.exists():
        return
    try:
        changes = differences(begun, data)  # type: ignore[arg-type]
    except (TypeError, LookupError, AttributeError, ValueError) as error:
        todo = "Delete it, if the data are those that the run began with."
        raise DataError(f"{path}: cannot be read ({type(error).__name__}).", todo) from error
    if changes:
        what = f"the data of the run {folder} are not those it began with: {'; '.join(changes)}."
        raise DataError(what, "Undo the change to resume, or choose another --name.")


def _log(folder: Path, line: str) -> None:
    with writing(folder / LOG), (folder / LOG).open("a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")


def _paths(document: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of all fields."""
    found = []
    for key, value in document.items():
        found += [f"{prefix}{key}", *(_paths(value, f"{prefix}{key}.") if isinstance(value, dict) else [])]
    return found


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in dict.fromkeys((*new, *old)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before} -> {after}")
    return found
