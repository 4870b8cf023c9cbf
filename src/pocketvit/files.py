"""Writing files in one step: readers, and killed processes, find the old file or the new one and never a part of it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pocketvit.errors import DataError


@contextmanager
def writing(path: Path, done: str = "written") -> Iterator[None]:
    """Turn what the system has against writing into a ``DataError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        what = f"{path}: cannot be {done} ({error.strerror or error})."
        raise DataError(what, "Check the path, free space and permissions.") from error


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
            path = Path(parent, name)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()


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
