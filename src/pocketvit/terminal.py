"""What is said on the terminal: the standard streams as they may be found, and text that is shown as it is.

Names of files and labels are data: in tables they are no markup, and what moves a cursor is shown as an escape. Only
the standard library is imported at the top.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Column, Table

_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls (those of the writing direction too), line ends and surrogates."""

NO_TERMINAL = 160
"""Columns of tables that go to a file or to another program."""


class _Lenient(io.TextIOWrapper):
    """Standard error. Where nobody can read it (a full disk, a reader that went away), it ends no run."""

    def write(self, text: str) -> int:
        """Write, or leave it."""
        with contextlib.suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or leave it."""
        with contextlib.suppress(OSError):
            super().flush()


def prepare_streams() -> None:
    """Make the standard streams such that a command can be run whatever they are.

    Closed ones become the null device (else the next file to be opened would be taken for one of them), and characters
    that their encoding has not are written as escapes.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:  # the lowest free number, which is this one
                os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for as long as we run
    if not isinstance(sys.stderr, _Lenient) and _number(sys.stderr) == 2:
        sink = open(2, "wb", closefd=False)  # noqa: SIM115 - the same
        sys.stderr = _Lenient(sink, encoding=sys.stderr.encoding, line_buffering=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _number(stream: Any) -> int | None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return int(stream.fileno())
    return None


def mute(stream: Any) -> None:
    """Send what is left in ``stream`` nowhere, so that the interpreter's last flush does not complain."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def is_watched() -> bool:
    """Whether standard error is a terminal."""
    with contextlib.suppress(ValueError, AttributeError):  # closed, or not there at all
        return sys.stderr.isatty()
    return False


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send all that is printed meanwhile to standard error, also by libraries that write to descriptor 1 themselves."""
    saved = None
    with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
        if sys.stdout.fileno() == 1:
            sys.stdout.flush()
            saved = os.dup(1)
            os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)


@contextlib.contextmanager
def notes_once() -> Iterator[None]:
    """Print what readers of images note on standard error, each kind once in a command and not once for each file."""
    said = set[str]()

    class Printer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kind = str(getattr(record, "once", record.getMessage()))
            if kind not in said:
                said.add(kind)
                print(f"note: {record.getMessage()} (Said once.)", file=sys.stderr)

    logger, printer = logging.getLogger("pocketvit.images"), Printer()
    level = logger.level
    logger.addHandler(printer)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(printer)
        logger.setLevel(level)


class _Page(io.StringIO):
    """What is collected for standard output, with the answers that rich wants of it."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return sys.stdout.encoding or "utf-8"

    def isatty(self) -> bool:
        return sys.stdout.isatty()


def rendered(report: Any) -> str:
    """A rich object as the text that standard output would show, without the last line end; text is no markup.

    It is as wide as the terminal, and wide where there is none.
    """
    from rich.console import Console

    page, known = _Page(), "COLUMNS" in os.environ or any(map(os.isatty, (0, 1, 2)))
    Console(file=page, width=None if known else NO_TERMINAL, markup=False, emoji=False).print(report)
    return page.getvalue().removesuffix("\n")


def shown(value: object) -> str:
    """``value`` as text of one line: line breaks, other control characters and lone surrogates as escapes."""
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), str(value))


def table(columns: Iterable[str | Column], rows: Iterable[Iterable[object]] = (), **options: Any) -> Table:
    """A rich table without a frame whose cells show their text as it is; ``options`` are those of rich's ``Table``.

    ``columns`` are our own words, or rich columns. Cells may be ``rich.text.Text``; lines of others are kept.
    """
    from rich.table import Table

    made = Table(*columns, **{"box": None, "pad_edge": False} | options)
    for row in rows:
        made.add_row(*map(cell, row))
    return made


def cell(value: object) -> Any:
    """A cell or line of text that rich shows as it is."""
    from rich.text import Text

    return value if isinstance(value, Text) else Text("\n".join(map(shown, str(value).split("\n"))))
