"""The last graphs that were captured: a second format of the same network is made of the first one's graph.

Capturing a graph takes seconds, and ``fit`` and ``export`` write each network once for each runtime. What is captured
depends on the module alone: its classes, attributes and weights, all of which its pickle holds. Modules that cannot be
pickled, and large ones, are captured each time.
"""

from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import onnx
import torch
from torch import nn

MOST_BYTES = 64_000_000
"""Of weights: networks that have more are captured each time, and so much is kept of all graphs together."""
_KEPT: OrderedDict[str, bytes] = OrderedDict()


def captured_once(
    capture: Callable[[Any, tuple[int, int]], onnx.ModelProto], module: nn.Module, size: tuple[int, int]
) -> onnx.ModelProto:
    """``capture(module, size)``, or a copy of what it gave for the same module and size before."""
    key = digest(module, size)
    if key is not None and key in _KEPT:
        _KEPT.move_to_end(key)
        return onnx.load_from_string(_KEPT[key])
    graph = capture(module, size)
    if key is not None:
        _KEPT[key] = graph.SerializeToString()
        while sum(map(len, _KEPT.values())) > MOST_BYTES:
            _KEPT.popitem(last=False)
    return graph


def digest(module: nn.Module, size: tuple[int, int]) -> str | None:
    """SHA-256 of all that a module and a size consist of; ``None`` of what is large or cannot be pickled."""
    tensors = (*module.parameters(), *module.buffers())
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors) > MOST_BYTES:
        return None
    sink = _Sink()
    try:
        _Pickler(sink, protocol=pickle.HIGHEST_PROTOCOL).dump((module, size))
    except Exception:  # each class has reasons of its own for which it cannot be pickled
        return None
    return sink.sha256.hexdigest()


class _Sink:
    """A file that keeps the checksum of what is written."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return len(data)


class _Pickler(pickle.Pickler):
    """Pickles tensors by their values, and not by where they lie."""

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, torch.Tensor):
            return NotImplemented
        data = obj.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return tuple, ((type(obj).__name__, str(obj.dtype), str(obj.device), tuple(obj.shape), data),)
