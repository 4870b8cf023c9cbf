"""pocketvit: images and a budget in, a vision transformer that is proven to fit out.

``pocketvit.load(artifact)`` gives a callable model; every command of the command line is a function of the same name.
Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import Any

from pocketvit.commands import COMMANDS

__version__ = "0.1.0"
_PACKAGES = ("fit", "train", "compress", "export", "verify", "bench", "report", "data", "serve")
__all__ = ["__version__", "load", *COMMANDS]


def __dir__() -> list[str]:
    return list(__all__)


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"pocketvit.{name}")
    if name == "load":
        from pocketvit.runtimes.model import load

        return load
    if name in COMMANDS:
        return COMMANDS[name].resolve()
    raise AttributeError(f"module 'pocketvit' has no attribute {name!r}")
