"""Writing files in one step: readers, and killed processes, find the old file or the new one and never a part of it.

Names are what the file system has, bytes that are no UTF-8 included; Python has those as lone surrogates. Text and JSON
files and the terminal show such a byte as an escape, ``\\udce9`` for 0xE9, which JSON readers turn back into the name.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pocketvit.errors import DataError, PocketvitError, UsageError

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


def disk_error(error: Exception, place: object, todo: str) -> DataError | None:
    """What the disk had against a write, naming the file that was to be written, or ``place`` where nobody says it."""
    if not (reason := disk_fault(error)):
        return None
    file = getattr(error, "filename2", None) or getattr(error, "filename", None) or place  # of a copy the second
    return DataError(f"{file}: cannot be written ({reason}).", todo)


MAX_TEXT_BYTES = 256_000_000
"""Text files that a user names (lists, recipes) are not read beyond; ImageNet's list has 90 MB."""
MAX_NAME_BYTES = 255
LEFTOVER_SECONDS = 3600.0
_PARTIAL = re.compile(r"\.[0-9a-f]{16}\.partial(\..*)?")


@contextmanager
def writing(path: Path, done: str = "written") -> Iterator[None]:
    """Turn what the system has against writing, also where a library says it, into a ``DataError`` naming ``path``."""
    try:
        yield
    except PocketvitError:
        raise
    except Exception as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else disk_fault(error)
        if isinstance(error, ValueError) and "\0" in str(path):
            reason = "no name may hold a NUL"
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
        if not (told := disk_error(error, place, todo)):
            raise
        raise told from error


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
    """Make a folder and those above it, and see that files can be made in it.

    Raises:
        DataError: see :func:`writing`.
    """
    with writing(folder, "created"):
        folder.mkdir(parents=True, exist_ok=True)
    with writing(folder):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def home_folder(below: str, option: str) -> Path:
    """A folder below the user's own; it is not made yet.

    Raises:
        UsageError: there is no home; ``option`` is the one that names another folder.
    """
    try:
        return Path.home() / below
    except RuntimeError as error:
        raise UsageError("there is no home folder to keep files in.", f"Name a folder with --{option}.") from error


@contextmanager
def replacing(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a new empty file beside ``path`` with the same suffix; it replaces ``path`` when the block ends well.

    Its name is short, so that any name of ``path`` will do, and cannot be known before: nothing can be planted there.
    What killed processes left in the folder more than an hour ago is deleted. Without ``overwrite`` a file that stands
    at ``path`` by then is left alone, and a device, pipe or folder always is.

    Raises:
        DataError: the folder cannot be made or written, or the disk is full; what stood at ``path`` is intact.
    """
    suffix = path.suffix if len(path.suffix) < 20 else ""
    partial = path.with_name(f".{secrets.token_hex(8)}.partial{suffix}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path.parent.absolute())
            if os.path.exists(path) and not os.path.isfile(path):  # to rename onto /dev/null would take it away
                raise OSError(errno.EINVAL, "it is no regular file")
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            yield partial
            if not overwrite:
                _claim(path)
            try:
                os.replace(partial, path)
            except BaseException:
                if not overwrite:
                    path.unlink(missing_ok=True)  # what was claimed
                raise
    finally:
        with suppress(OSError):  # a path below a file cannot even be looked at
            partial.unlink(missing_ok=True)


def keep_others(path: Path, mark: str) -> None:
    """Hold what lies at ``path`` against what may be replaced without a question: nothing, or a file with ``mark``.

    Raises:
        UsageError: another file lies there; it was not touched.
    """
    found = b""
    with writing(path, "read"), suppress(FileNotFoundError):
        if os.path.isfile(path) and os.path.getsize(path):
            with path.open("rb") as file:
                found = file.read(_MARK_WITHIN)
    if found and mark.encode() not in found:
        raise UsageError(f"out {path} is there already and is something else.", "Name another file, or delete it.")


_MARK_WITHIN = 10_000
LEFTOVER = re.compile(r"\..+\.([a-z0-9_]{8}(\.old)?|partial(\.\w+)?)")
"""Names of what :func:`replacing` and ``tempfile.mkdtemp`` make before it has its own name."""


def names_in(folder: Path) -> list[str]:
    """Names of what lies in ``folder``, sorted; none where it is not there.

    Raises:
        DataError: it is no folder, or cannot be read.
    """
    with writing(folder, "read"), suppress(FileNotFoundError):
        return sorted(os.listdir(folder))
    return []


def sweep(folder: Path) -> None:
    """Delete what killed processes have left unfinished below ``folder``, which nothing else may be writing to."""
    for parent, folders, files in os.walk(folder):
        for name in filter(LEFTOVER.fullmatch, (*folders, *files)):
            _delete(Path(parent, name))


def sweep_old(folder: Path, pattern: re.Pattern[str], *, folders: bool = False) -> None:
    """Delete files (or ``folders``) that killed processes left in ``folder`` an hour ago under names of ``pattern``."""
    with suppress(OSError):  # it is no matter: the folder may be one that cannot be listed
        for name in filter(pattern.fullmatch, os.listdir(folder)):
            with suppress(FileNotFoundError):  # another process has just finished or swept it
                found = os.lstat(folder / name)
                if time.time() - found.st_mtime > LEFTOVER_SECONDS and stat.S_ISDIR(found.st_mode) == folders:
                    _delete(folder / name)


def _delete(path: Path) -> None:
    """Delete a file, a link or a folder, as far as the system lets us."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _claim(path: Path) -> None:
    """Make an empty file at ``path``, or raise ``OSError`` where something stands there, also since a moment ago."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))


@functools.lru_cache(1000)  # each folder once: thousands of files may be written to one
def _sweep(folder: Path) -> None:
    """Delete old temporary files of :func:`replacing`."""
    sweep_old(folder, _PARTIAL)


def read_text(path: Path, limit: int = MAX_TEXT_BYTES) -> str:
    """Text of a file that a user names: UTF-8, with or without a byte order mark; line ends are left as they are.

    Raises:
        OSError: it is missing, no regular file (pipes and devices may block or never end), or above ``limit`` bytes.
        UnicodeDecodeError: it is no UTF-8.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    with open(path, "rb") as file:
        content = file.read(min(limit, status.st_size) + 1)  # memory for all of that is asked for at once
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"more than {limit / 1e6:g} MB")
    return content.decode("utf-8-sig")


def numbered(path: Path, number: int) -> Path:
    """``path`` with ``_<number>`` behind the stem, where it is not the first; a stem too long for that is cut."""
    stem, end = path.stem, (f"_{number}" if number > 1 else "") + path.suffix
    while len(os.fsencode(stem + end)) > MAX_NAME_BYTES:
        stem = stem[:-1]
    return path.with_name(stem + end)


def write_text(path: Path, text: str, *, overwrite: bool = True) -> None:
    """Replace ``path`` by UTF-8 ``text`` in one step; line ends are written as they are, lone surrogates as escapes.

    Raises:
        DataError: see :func:`replacing`.
    """
    with replacing(path, overwrite=overwrite) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def write_json(path: Path, value: Any, *, overwrite: bool = True) -> None:
    """Replace ``path`` by ``value`` as indented JSON in one step.

    Raises:
        DataError: see :func:`replacing`.
    """
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n", overwrite=overwrite)


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
