"""Reading and damaging the weights of ONNX files without the ``onnx`` package, which small devices lack.

Only the few protobuf fields that are needed are walked: ModelProto.graph (7), GraphProto.node (1) and initializer (5),
TensorProto.data_type (2), name (8) and its values, NodeProto.input (1) and op_type (4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pocketvit.runtimes.session import zero_in_file

_WEIGHTS = {1, 2, 3, 10, 16, 17, 18, 19, 20, 21, 22}
"""TensorProto types of weights: float, uint8, int8, float16, bfloat16, float8, (u)int4; never int64: shapes."""
_VALUES = {4, 5, 9}
"""TensorProto.float_data, int32_data, raw_data."""
_FLOAT16 = 10


def damage(files: Sequence[Path]) -> None:
    """See :class:`pocketvit.runtimes.Runtime`."""
    content = files[0].read_bytes()
    tensors = [list(_fields(content, *span)) for field, *span in _graph(content) if field == 5]
    weights = [part for parts in tensors if _type_of(parts) in _WEIGHTS for part in parts if part[0] in _VALUES]
    zero_in_file(files[0], [(start, end) for _, start, end in weights])
    for companion in files[1:]:  # external data holds nothing but tensors
        zero_in_file(companion, [(0, companion.stat().st_size)])


def computes_in_half(path: Path) -> bool:
    """Whether the file holds float16 weights that are used as such, and not cast to float32 first."""
    content = path.read_bytes()
    half, cast = set(), set()
    for field, low, high in _graph(content):
        parts = list(_fields(content, low, high)) if field in (1, 5) else []
        if field == 5 and _type_of(parts) == _FLOAT16:
            half |= {content[start:end] for number, start, end in parts if number == 8}
        elif field == 1 and any(number == 4 and content[start:end] == b"Cast" for number, start, end in parts):
            cast |= {content[start:end] for number, start, end in parts if number == 1}
    return bool(half - cast)


def _graph(data: bytes) -> Iterator[tuple[int, int, int]]:
    for field, low, high in _fields(data, 0, len(data)):
        if field == 7:
            yield from _fields(data, low, high)


def _type_of(parts: list[tuple[int, int, int]]) -> int | None:
    return next((value for field, value, _ in parts if field == 2), None)


def _fields(data: bytes, low: int, high: int) -> Iterator[tuple[int, int, int]]:
    """Fields of a message: (number, first byte, end) of length-delimited ones, (number, value, value) of varints."""
    position = low
    while position < high:
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value, value
        elif wire == 2:
            length, position = _varint(data, position)
            yield number, position, position + length
            position += length
        else:
            position += {1: 8, 5: 4}[wire]


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
