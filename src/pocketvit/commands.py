"""The one table of commands, and what makes ``pocketvit.fit(...)`` a call although ``pocketvit.fit`` is a package.

Several commands share their name with the subpackage that does the work (``fit``, ``train``, ``verify``, ...). Those
packages are made callable, so that the Python function and the package can both be reached under the one name.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

COMMANDS = {
    "fit": "pocketvit.fit.run:fit",
    "train": "pocketvit.train.command:train",
    "eval": "pocketvit.verify.evaluate:eval",
    "compress": "pocketvit.fit.compress:compress",
    "export": "pocketvit.export.command:export",
    "verify": "pocketvit.verify.command:verify",
    "bench": "pocketvit.bench.command:bench",
    "predict": "pocketvit.serve.predict:predict",
    "report": "pocketvit.report.command:report",
    "doctor": "pocketvit.data.doctor:doctor",
    "demo": "pocketvit.fit.demo:demo",
}


def resolve(name: str) -> Any:
    """The function behind a command, imported now."""
    module, function = COMMANDS[name].split(":")
    return getattr(importlib.import_module(module), function)


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return resolve(self.__name__.rpartition(".")[2])(*args, **kwargs)


def make_callable(package: str) -> None:
    """Let the package ``pocketvit.<command>`` be called like the command's function."""
    sys.modules[package].__class__ = _CallablePackage
