"""Which function writes the files of a runtime: the records of :mod:`pocketvit.runtimes` name it."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from pocketvit.errors import UsageError
from pocketvit.export.built import Built
from pocketvit.runtimes import RUNTIMES

Exporter = Callable[..., Built]
"""``write(pixel_model, size, folder, stem) -> Built``."""


def exporter(name: str) -> Exporter:
    """The writer of a format (``onnx``) or of the format that a runtime opens (``onnxruntime``).

    Raises:
        UsageError: there is neither.
    """
    for runtime in RUNTIMES.values():
        if name in (runtime.format, runtime.name):
            module, _, function = runtime.writer.partition(":")
            return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
    formats = dict.fromkeys(runtime.format for runtime in RUNTIMES.values())
    raise UsageError(f"unknown format {name!r}.", f"Take any of {', '.join(formats)}.")
