"""Writing files in one step: readers, and killed processes, find the old file or the new one and never a part of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pocketvit.errors import DataError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` with the same suffix; it replaces ``path`` when the block ends well.

    Raises:
        DataError: the folder cannot be made or written, or the disk is full; what stood at ``path`` is intact.
    """
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        what = f"{path}: cannot be written ({error.strerror or error})."
        raise DataError(what, "Check the path, free space and permissions.") from error
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
