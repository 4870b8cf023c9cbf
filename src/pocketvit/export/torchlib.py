"""torch.onnx's table of operators, read once for each operator set instead of for each export.

Reading it parses the source of 500 functions, a third of the time in which a small network is exported, and ``fit``
exports many. The classes are private to torch: where they are others, exports are as slow as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@cache
def table(opset: int) -> Any:
    """The table of one operator set."""
    return _registry().from_torchlib(opset_version=opset)


def _registry() -> Any:
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    return ONNXRegistry


@contextmanager
def kept_table(opset: int) -> Iterator[None]:
    """Exports of ``opset`` inside take the table that is kept. Nothing else may add operators to theirs meanwhile."""
    try:
        registry, kept = _registry(), table(opset)
        original: Any = registry.__dict__["from_torchlib"]
    except (ImportError, AttributeError, KeyError, TypeError):
        yield
        return
    read: Callable[..., Any] = original.__func__

    def from_torchlib(cls: Any, opset_version: int = opset) -> Any:
        return kept if opset_version == opset else read(cls, opset_version)

    registry.from_torchlib = classmethod(from_torchlib)
    try:
        yield
    finally:
        registry.from_torchlib = original
