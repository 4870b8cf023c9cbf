"""Writing files in one step: readers, and killed processes, find the old file or the new one and never a part of it."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pocketvit.errors import DataError, PocketvitError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
_FULL_WORDS = re.compile(
    r"no space left|quota exceeded|file too large|file size limit|read-only file ?system|disk is full|disk i/o error"
    r"|while serializing: I/O error|readonly database|unable to open database file|PytorchStreamWriter failed"
    r"|iostream error",
    re.IGNORECASE,
)
"""How libraries say that the disk took no more, each in errors of its own."""


def disk_fault(error: BaseException) -> str:
    """What the disk had against a write, in a few words; empty where an error and its causes are of another kind."""
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        seen.append(link)
        if isinstance(link, OSError) and link.errno in _FULL:
            return f"{link.strerror}"
        if not isinstance(link, (OSError, PocketvitError)) and (found := _FULL_WORDS.search(str(link))):
            return next((words for words in str(link).splitlines() if found[0] in words), found[0]).strip()[:200]
        link = link.__cause__ or link.__context__
    return ""


@contextmanager
def writing(path: Path, done: str = "written") -> Iterator[None]:
    """Turn what the system has against writing, also where a library says it, into a ``DataError`` naming ``path``."""
    try:
        yield
    except PocketvitError:
        raise
    except Exception as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else disk_fault(error)
        if not reason:
            raise
        what = f"{path}: cannot be {done} ({reason})."
        raise DataError(what, "Check the path, free space and permissions.") from error


@contextmanager
def disk_faults(place: Path, todo: str) -> Iterator[None]:
    """Turn a full or read-only disk, met anywhere within, into a ``DataError`` that names the file or ``place``."""
    try:
        yield
    except PocketvitError:
        raise
    except Exception as error:
        if not (reason := disk_fault(error)):
            raise
        file = getattr(error, "filename", None) or place
        raise DataError(f"{file}: cannot be written ({reason}).", todo) from error


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for temporary files that goes away at the end.

    Raises:
        DataError: there is no place for it, or its disk is full.
    """
    todo = "Free some space there, or let TMPDIR name a folder that has it."
    try:
        folder = Path(tempfile.mkdtemp(prefix="pocketvit-"))
    except OSError as error:
        what = f"temporary files cannot be written ({error.strerror or error})."
        raise DataError(what, "Let TMPDIR name a folder that exists and has space.") from error
    try:
        with disk_faults(folder, todo):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def need_space(folder: Path, size: int) -> None:
    """Ask for ``size`` bytes before a long write.

    Raises:
        DataError: the disk of ``folder`` has less left.
    """
    with suppress(OSError):  # what cannot be asked is found out by writing
        if (free := shutil.disk_usage(folder).free) < size:
            what = f"{folder}: cannot be written (No space left: {size / 1e6:.1f} MB wanted, {free / 1e6:.1f} MB free)."
            raise DataError(what, "Free some space and start again; what was written before is intact.")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        DataError: see :func:`writing`.
    """
    with writing(folder, "created"):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` with the same suffix; it replaces ``path`` when the block ends well.

    Raises:
        DataError: the folder cannot be made or written, or the disk is full; what stood at ``path`` is intact.
    """
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            os.replace(partial, path)
    finally:
        with suppress(OSError):  # a path below a file cannot even be looked at
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by UTF-8 ``text`` in one step; line ends are written as they are.

    Raises:
        DataError: see :func:`replacing`.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as indented JSON in one step.

    Raises:
        DataError: see :func:`replacing`.
    """
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def plain(value: Any) -> Any:
    """``value`` in plain JSON types: reports as their ``to_dict``, records as fields, paths as text, NaN as null."""
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(vars(value))
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)
