"""Store a file's weights compressed, bit by bit what they were: the step for networks that were pruned or binarised.

The format and its forms (planes, table, signs, sparse) are those of :mod:`pocketvit.runtimes.stored`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from pocketvit.compress.step import Context, StepReport
from pocketvit.errors import UsageError
from pocketvit.export.built import Built
from pocketvit.files import writing
from pocketvit.runtimes.onnxfile import weights_of
from pocketvit.runtimes.stored import SUFFIX, Table, Tensor, content_of, is_stored, pack, parts_of

LEAST_VALUES = 256
"""Tensors with fewer values are deflated with the rest of the file."""
_BYTES = {1: 4, 2: 1, 3: 1, 10: 2, 16: 2, 17: 1, 18: 1, 19: 1, 20: 1, 21: 1, 22: 1}
"""Of a value, by TensorProto.DataType; two 4-bit values are one byte."""


@dataclass(frozen=True)
class Store:
    """Store the file without loss. Each tensor takes the smallest form; it is opened to the very same file."""


def store(step: Store, built: Built, context: Context) -> StepReport:
    """Write ``<stem>.pvw``.

    Args:
        step: has no settings.
        built: any ONNX file that is not stored yet.
        context: its folder is written to.

    Raises:
        UsageError: a file of another engine.
        VerificationError: what was written does not read back; nothing is left.
    """
    if built.runtime != "onnxruntime":
        raise UsageError(f"store takes files of onnxruntime, not {built.key}.", "Export to ONNX first.")
    path = context.folder / f"{built.path.stem}{SUFFIX}"
    content = built.path.read_bytes()
    pack_onnx(content, path)
    notes = stored_notes(path, len(content))
    told = f"stored {notes['times_smaller']:.2f} times smaller without loss, {told_of_opening()}"
    return StepReport("store", asdict(step), replace(built, path=path), notes=notes, told=told)


def told_of_opening() -> str:
    """What a stored file does not do, in a clause."""
    return "rebuilt when it is opened: no faster, and no smaller in memory"


def pack_onnx(content: bytes, path: Path, tables: Mapping[str, Table] | None = None) -> None:
    """Store an ONNX file; ``tables`` says of weights by name how their values were made.

    Raises:
        VerificationError: it does not read back.
        DataError: ``path`` cannot be written.
    """
    tensors, known = [], tables or {}
    for weight in weights_of(content):
        width = _BYTES[weight.type]
        if (weight.end - weight.start) // width >= LEAST_VALUES and (weight.end - weight.start) % width == 0:
            sides = ((weight.dims[0], prod(weight.dims[1:])), (weight.dims[-1], 1)) if len(weight.dims) > 1 else ()
            tensors.append(Tensor(weight.start, weight.end, width, known.get(weight.name), sides))
    pack(content, tensors, path)


def stored_notes(path: Path, before: int) -> dict[str, Any]:
    """Bytes and bits a value by form, and how many times smaller the file is than ``before`` bytes."""
    forms: dict[str, list[int]] = {}
    for form, count, size in parts_of(path):
        have = forms.setdefault(form, [0, 0, 0])
        forms[form] = [have[0] + 1, have[1] + count, have[2] + size]
    size = path.stat().st_size
    kinds = {
        form: {"tensors": tensors, "values": values, "bytes": bytes_, "bits_per_value": 8 * bytes_ / values}
        for form, (tensors, values, bytes_) in forms.items()
    }
    return {"bytes_before": before, "bytes": size, "times_smaller": before / size, "forms": kinds}


def opened(built: Built, folder: Path) -> Built:
    """A file that other steps can read: the built one, or what a stored one decodes to, written to ``folder``."""
    if not is_stored(built.path):
        return built
    path = folder / f"{built.path.stem}-opened.onnx"
    with writing(path):
        path.write_bytes(content_of(built.path))
    return replace(built, path=path)
