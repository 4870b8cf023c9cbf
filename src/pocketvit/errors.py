"""The exception tree: every error a user can cause, with the exit code of the command line.

An error is two sentences: what is wrong, and what to do next. The command line prints both and nothing else;
a traceback appears only with ``-v``. Anything that is not a ``PocketvitError`` exits with 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class PocketvitError(Exception):
    """Base of all expected errors: ``what`` is wrong and what to do (``todo``)."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, todo: str) -> None:
        super().__init__(what, todo)
        self.what, self.todo = what, todo

    def __str__(self) -> str:
        return f"{self.what}\n{self.todo}"


class UsageError(PocketvitError):
    """A wrong argument, an unknown recipe key or an impossible combination (exit 2)."""

    exit_code = 2


class DataError(PocketvitError):
    """An image, label file, data folder or array that cannot be used (exit 3)."""

    exit_code = 3


class VerificationError(PocketvitError):
    """An artifact that is damaged or does not do what its golden outputs say (exit 4)."""

    exit_code = 4


class NothingFitsError(PocketvitError):
    """No candidate meets budget and floor (exit 5)."""

    exit_code = 5


class MissingDependencyError(PocketvitError):
    """An optional dependency is not installed (exit 6); ``todo`` holds the exact install line."""

    exit_code = 6

    @classmethod
    def of(cls, package: str, extra: str) -> MissingDependencyError:
        """The error for a ``package`` that the ``extra`` of pocketvit installs (none: the base install)."""
        wanted = f'"pocketvit[{extra}]"' if extra else package
        return cls(f"{package} is not installed.", f"Run: pip install {wanted}")


def did_you_mean(word: object, known: Iterable[str], otherwise: str, form: str = "{}") -> str:
    """What to do about an unknown word: take the nearest known one, written in ``form``, or ``otherwise``."""
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.4)
    return f"Did you mean {form.format(near[0])}?" if near else otherwise
