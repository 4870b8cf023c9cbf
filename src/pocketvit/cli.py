"""The command line: one table (``pocketvit.commands.COMMANDS``), each function imported when its command is called.

This file holds what all commands share: the list of commands, ``--json``, ``-q``, ``-v``, how a returned report is
printed and how an error becomes two lines and an exit code. Parsers are derived in ``pocketvit.arguments``. Only the
standard library is imported at the top, so that ``pocketvit --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pocketvit import __version__
from pocketvit.commands import COMMANDS
from pocketvit.errors import MissingDependencyError, PocketvitError, UsageError, did_you_mean
from pocketvit.files import plain

INTERRUPTED, BROKEN_PIPE = 130, 141
DISTRIBUTIONS = {"skimage": "scikit-image", "pytorch_lightning": "lightning", "PIL": "pillow", "yaml": "pyyaml"}
"""Importable package -> the name that it is installed by, where the two differ."""


@dataclass(frozen=True)
class Flags:
    """The options that every command understands."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    help: bool = False


FLAGS = {"--json": "json", "-q": "quiet", "-v": "verbose", "-h": "help"}
FLAGS |= {f"--{name}": name for name in ("quiet", "verbose", "help")}
FLAGS_HELP = """every command:
  --json         print one JSON document on standard output, everything else on standard error
  -q, --quiet    no progress
  -v, --verbose  full traceback on errors
  -h, --help     this text"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done, 2 usage, 3 data, 4 verification failed, 5 nothing fits, 6 missing dependency, 1 anything else.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    flags, rest = split_flags(args)
    try:
        code = _dispatch(flags, rest)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader of our output went away (`| head`): say nothing, and keep the interpreter's last flush quiet too.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def split_flags(args: Sequence[str]) -> tuple[Flags, list[str]]:
    """Take the global flags out of ``args``; what follows ``--`` is left alone."""
    end = args.index("--") if "--" in args else len(args)
    found = {FLAGS[a]: True for a in args[:end] if a in FLAGS}
    return Flags(**found), [a for a in args[:end] if a not in FLAGS] + list(args[end:])


def _dispatch(flags: Flags, args: list[str]) -> int:
    if args[:1] == ["--version"]:
        print(f"pocketvit {__version__}")
        return 0
    if not args:
        print(_overview())
        return 0 if flags.help else UsageError.exit_code
    try:
        return _run(args[0], args[1:], flags)
    except KeyboardInterrupt:
        print("interrupted.\nThe same command with the same name goes on where it stopped.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        return _fail(_expected(error), flags)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    return f"""usage: pocketvit COMMAND ...

Images and a budget in, a vision transformer that is proven to fit out.

commands:
{lines}

{FLAGS_HELP}

`pocketvit COMMAND --help` lists a command's arguments; `pocketvit --version` prints the version."""


def _run(name: str, args: list[str], flags: Flags) -> int:
    if name not in COMMANDS:
        todo = did_you_mean(name, COMMANDS, f"Commands: {', '.join(COMMANDS)}.", "`pocketvit {}`")
        raise UsageError(f"unknown command {name!r}.", todo)
    with contextlib.ExitStack() as stack:
        if flags.json:
            stack.enter_context(_stdout_to_stderr())
        if flags.quiet:  # drop progress and log lines; errors are printed after it
            sink = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stderr(sink))
        stack.enter_context(_notes_once())
        function = COMMANDS[name].resolve()
        from pocketvit.arguments import Arguments

        arguments = Arguments(name, function, COMMANDS[name].sections, FLAGS_HELP)
        report = None if flags.help else function(**arguments.parse(args))
    if flags.help:
        print(arguments.help())
        return 0
    _show(report, flags)
    return int(getattr(report, "exit_code", 0) or 0)


def _show(report: Any, flags: Flags) -> None:
    if flags.json:
        print(_document(report))
    elif hasattr(report, "render"):
        text = report.render()
        if isinstance(text, str):
            print(text)
        else:
            from rich.console import Console

            Console().print(text)
    elif report is not None:
        print(report)


def _document(value: Any) -> str:
    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)


def extra_of(package: str) -> str | None:
    """The smallest extra of pocketvit that installs an importable package; ``None`` where none does.

    They are read from the metadata of the installed pocketvit, which come from ``pyproject.toml``.
    """
    import importlib.metadata
    import re
    from collections import Counter

    try:
        lines = importlib.metadata.requires("pocketvit") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [match.groups() for line in lines if (match := re.match(r"([\w.-]+).*extra == ['\"](\w+)['\"]", line))]
    sizes = Counter(extra for _, extra in found)
    wanted = DISTRIBUTIONS.get(package, package).replace("_", "-").lower()
    extras = [extra for name, extra in found if name.lower() == wanted and extra not in ("all", "dev")]
    return min(extras, key=lambda extra: sizes[extra], default=None)


def _expected(error: Exception) -> PocketvitError:
    if isinstance(error, PocketvitError):
        return error
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if extra := extra_of(package):
        return MissingDependencyError.of(package, extra)
    what = f"internal error: {type(error).__name__}: {' '.join(str(error).split())[:500]}"
    wrapped = PocketvitError(what, "Run again with -v for the traceback, and report it.")
    wrapped.__cause__ = error
    return wrapped


def _fail(error: PocketvitError, flags: Flags) -> int:
    if flags.verbose:
        traceback.print_exception(error.__cause__ or error, file=sys.stderr)
    print(f"{error.what}\n{error.todo}", file=sys.stderr)
    if flags.json:
        print(_document({"error": {"what": error.what, "todo": error.todo, "exit_code": error.exit_code}}))
    return error.exit_code


@contextlib.contextmanager
def _notes_once() -> Iterator[None]:
    """Print what readers of images note on standard error, each kind once in a command and not once for each file."""
    import logging

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


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
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


if __name__ == "__main__":
    sys.exit(main())
