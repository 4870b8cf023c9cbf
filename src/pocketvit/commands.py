"""The one table of commands, and what makes ``pocketvit.fit(...)`` a call although ``pocketvit.fit`` is a package.

Several commands share their name with the subpackage that does the work (``fit``, ``train``, ``verify``, ...). Those
packages are made callable, so that the Python function and the package can both be reached under the one name.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

_TRAIN = ("data", "model", "task", "preprocess", "train", "licence_data")
_PLACE = ("target", "contact")
_COMPRESS = ("data", "model", "task", "preprocess", "compress", "budget", "floor", *_PLACE, "search", "licence_data")
_FIT = ("train", *_COMPRESS)


@dataclass(frozen=True)
class Command:
    """One command."""

    place: str
    """``module:function``, imported only when the command is called. The module imports nothing heavy at its top."""
    summary: str
    """One line for ``pocketvit --help``."""
    sections: tuple[str, ...] = ()
    """Parts of the recipe that are options too; the function takes them as ``**overrides``."""

    def resolve(self) -> Callable[..., Any]:
        """The function, imported now."""
        module, function = self.place.split(":")
        found: Callable[..., Any] = getattr(importlib.import_module(module), function)
        return found


COMMANDS = {
    "init": Command("pocketvit.data.begin:init", "write a commented recipe for a folder of photos"),
    "fit": Command("pocketvit.fit.command:fit", "images and a budget in, a verified artifact out", _FIT),
    "train": Command("pocketvit.train.command:train", "train or fine-tune one model from a recipe", _TRAIN),
    "eval": Command("pocketvit.verify.evaluate:eval", "metrics of an artifact on a data set"),
    "compress": Command("pocketvit.fit.command:compress", "shrink a model in steps behind the gain gate", _COMPRESS),
    "adapt": Command("pocketvit.fit.adapt:adapt", "train on collected corrections, and prove it is better", _FIT),
    "export": Command("pocketvit.export.command:export", "trained checkpoint to an artifact"),
    "pack": Command("pocketvit.verify.pack:pack", "an artifact as one file to hand on"),
    "verify": Command("pocketvit.verify.command:verify", "check an artifact: checksums, goldens, negative controls"),
    "bench": Command("pocketvit.bench.command:bench", "latency, throughput, memory and size of an artifact or of two"),
    "split": Command("pocketvit.fit.split:split", "where to cut a network between a client and a server, by link"),
    "predict": Command("pocketvit.serve.predict:predict", "run an artifact on images, folders or globs"),
    "serve": Command("pocketvit.serve.serve:serve", "answer over HTTP: Open Inference Protocol, images, metrics"),
    "stream": Command("pocketvit.serve.stream:stream", "run an artifact on a camera, a video or a folder, live"),
    "publish": Command("pocketvit.serve.publish:publish", "sign an artifact and put it where receivers update from"),
    "report": Command("pocketvit.report.command:report", "HTML report of a run or an artifact"),
    "doctor": Command("pocketvit.data.doctor:doctor", "decode every image of a data set and list what is wrong"),
    "data": Command("pocketvit.data.acquire:data", "fetch a public data set: SIDD-Small, SIDD-Medium, GoPro"),
    "demo": Command("pocketvit.fit.demo:demo", "denoise photographs with added synthetic noise, then a small fit"),
}

ELSEWHERE = {
    "models": "Set model.name: one of pocketvit.models.VARIANTS, or timm:NAME; a wrong name lists them all.",
    "variants": "Set model.name: one of pocketvit.models.VARIANTS, or timm:NAME; a wrong name lists them all.",
    "explain": "Attention maps are not made yet; `pocketvit report` shows what a model answers and where times went.",
}
"""Commands that people ask for and that there are not: what there is instead."""


class _CallablePackage(ModuleType):
    """A package that is called like the command of its name, and described by ``help()`` as both."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    @property
    def _function(self) -> Callable[..., Any]:
        return COMMANDS[self.__name__.rpartition(".")[2]].resolve()

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        function = self._function
        package = self.__dict__.get("__doc__") or ""
        return f"{package}\n\n{function.__name__}{self.__signature__}\n\n{inspect.getdoc(function)}"


def make_callable(package: str) -> None:
    """Let the package ``pocketvit.<command>`` be called like the command's function."""
    sys.modules[package].__class__ = _CallablePackage
