"""The command line: one table (``pocketvit.commands.COMMANDS``), each function imported when its command is called.

This file holds what all commands share: the list of commands, ``--json``, ``-q``, ``-v``, how a returned report is
printed and how an error becomes two lines and an exit code. Parsers are derived in ``pocketvit.arguments``. Only the
standard library is imported at the top, so that ``pocketvit --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pocketvit import __version__
from pocketvit.commands import COMMANDS, ELSEWHERE
from pocketvit.errors import DataError, MissingDependencyError, PocketvitError, UsageError, did_you_mean
from pocketvit.files import disk_error, plain
from pocketvit.interrupts import Interrupted, terminable
from pocketvit.terminal import mute, notes_once, prepare_streams, rendered, shown, stdout_to_stderr

BROKEN_PIPE = 141
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
  -v, --verbose  every detail of a report, full traceback on errors
  -h, --help     this text"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done, 2 usage, 3 data, 4 verification failed, 5 nothing fits, 6 missing dependency, 130 or 143 interrupted,
    141 nobody reads the output, 1 anything else.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    prepare_streams()
    flags, rest = split_flags(args)
    try:
        code, text = _dispatch(flags, rest)
        if text:
            print(text, flush=True)
        return code
    except OSError as error:
        mute(sys.stdout)
        if isinstance(error, BrokenPipeError):  # the reader of our output went away (`| head`): say nothing
            return BROKEN_PIPE
        what = f"standard output cannot be written ({error.strerror or error})."
        return _fail(DataError(what, "Look for free space, or send it elsewhere."), replace(flags, json=False))[0]


def split_flags(args: Sequence[str]) -> tuple[Flags, list[str]]:
    """Take the global flags out of ``args``; what follows ``--`` is left alone."""
    end = args.index("--") if "--" in args else len(args)
    found = {FLAGS[a]: True for a in args[:end] if a in FLAGS}
    return Flags(**found), [a for a in args[:end] if a not in FLAGS] + list(args[end:])


def _dispatch(flags: Flags, args: list[str]) -> tuple[int, str]:
    """Exit code and what is to be printed."""
    if args[:1] == ["--version"]:
        return 0, f"pocketvit {__version__}"
    if not args:
        return 0 if flags.help else UsageError.exit_code, _overview()
    try:
        with terminable():
            return _run(args[0], args[1:], flags)
    except KeyboardInterrupt as error:
        asked = error if isinstance(error, Interrupted) else Interrupted()
        resumes = args[0] in COMMANDS and COMMANDS[args[0]].sections  # those with a recipe have a run folder
        goes_on = "with the same name goes on from what was saved" if resumes else "begins anew"
        todo = asked.todo or f"The same command {goes_on}; no half files are left."
        return _fail(PocketvitError(asked.what, todo), flags, asked.exit_code)
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


def _run(name: str, args: list[str], flags: Flags) -> tuple[int, str]:
    if name not in COMMANDS:
        todo = did_you_mean(name, COMMANDS, f"Commands: {', '.join(COMMANDS)}.", "`pocketvit {}`")
        raise UsageError(f"unknown command {name[:60]!r}.", ELSEWHERE.get(name, todo))
    with contextlib.ExitStack() as stack:
        if flags.json:
            stack.enter_context(stdout_to_stderr())
        if flags.quiet:  # drop progress and log lines; errors are printed after it
            sink = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stderr(sink))
        stack.enter_context(notes_once())
        function = COMMANDS[name].resolve()
        from pocketvit.arguments import Arguments

        arguments = Arguments(name, function, COMMANDS[name].sections, FLAGS_HELP)
        report = None if flags.help else function(**arguments.parse(args))
    if flags.help:
        return 0, arguments.help().rstrip("\n")
    return int(getattr(report, "exit_code", 0) or 0), _text(report, flags)


def _text(report: Any, flags: Flags) -> str:
    if flags.json:
        return _document(report)
    texts = [report.render() if hasattr(report, "render") else report]
    if flags.verbose and hasattr(report, "details"):
        texts.append(report.details())
    return "\n".join(text if isinstance(text, str) else rendered(text) for text in texts if text is not None)


def _document(value: Any) -> str:
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # the stream's own escapes are not those of JSON
        return json.dumps(plain(value), indent=2, allow_nan=False)
    return text


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
    if told := disk_error(error, "a file", "Free some space, and check the folder's permissions."):
        return told
    what = f"internal error: {type(error).__name__}: {' '.join(str(error).split())[:500]}"
    wrapped = PocketvitError(what, "Run again with -v for the traceback, and report it.")
    wrapped.__cause__ = error
    return wrapped


def _fail(error: PocketvitError, flags: Flags, exit_code: int | None = None) -> tuple[int, str]:
    """Say an error in two lines; its exit code, and the document where one is asked for."""
    if flags.verbose:
        traceback.print_exception(error.__cause__ or error, file=sys.stderr)
        if hasattr(getattr(error, "report", None), "details"):
            print(rendered(error.report.details()), file=sys.stderr)  # type: ignore[attr-defined]
    print(f"{shown(error.what)}\n{shown(error.todo)}", file=sys.stderr)
    code = error.exit_code if exit_code is None else exit_code
    document = {"error": {"what": error.what, "todo": error.todo, "exit_code": code}}
    return code, _document(document) if flags.json else ""


if __name__ == "__main__":
    sys.exit(main())
