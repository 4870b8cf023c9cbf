"""Reading and damaging the weights of ONNX files without the ``onnx`` package, which small devices lack.

Only the few protobuf fields that are needed are walked: ModelProto.graph (7), GraphProto.node (1) and initializer (5),
TensorProto.dims (1), data_type (2), name (8), its values and external_data (13), NodeProto.input (1) and op_type (4);
and on the way to tensors that lie elsewhere, whatever can hold a tensor. Stored files are rebuilt first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pocketvit.runtimes.session import cannot_open, zero_in_file, zero_middles
from pocketvit.runtimes.stored import content_of

_WEIGHTS = {1, 2, 3, 10, 16, 17, 18, 19, 20, 21, 22}
"""TensorProto types of weights: float, uint8, int8, float16, bfloat16, float8, (u)int4; never int64: shapes."""
_VALUES = {4, 5, 9}
"""TensorProto.float_data, int32_data, raw_data."""
_FLOAT16 = 10
_HOLDERS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""By message the fields that lead to tensors, and of a tensor to the entries that say where its values lie."""
_DEEPEST = 100
"""Messages inside each other: what protobuf itself reads."""


def external_files(path: Path) -> tuple[str, ...]:
    """What the tensors of an ONNX file name as the place of their values: files that an engine reads beside it.

    Raises:
        VerificationError: the file is no ONNX model.
    """
    with _content(path) as content:
        return places_of(content)


def places_of(content: bytes) -> tuple[str, ...]:
    """See :func:`external_files`, of a file that was read. Raises ValueError, IndexError, KeyError: no ONNX model."""
    if b"location" not in content:  # the key of every such entry
        return ()
    entries = [list(_fields(content, *span)) for span in _entries(content, 0, len(content), "model", _DEEPEST)]
    found = ({number: content[low:high] for number, low, high in entry} for entry in entries)
    places = (entry.get(2, b"") for entry in found if entry.get(1) == b"location")
    return tuple(dict.fromkeys(place.decode(errors="replace") for place in places))


@contextmanager
def _content(path: Path) -> Iterator[bytes]:
    """The bytes of a file; what the walk through them stumbles over becomes a ``VerificationError``."""
    try:
        yield content_of(path)
    except (IndexError, KeyError, ValueError) as error:
        raise cannot_open(path, "ONNX", "its fields are damaged") from error


def _entries(content: bytes, low: int, high: int, message: str, depth: int) -> Iterator[tuple[int, int]]:
    """Where the entries of external data lie in a message: (first byte, end)."""
    if depth == 0:
        raise ValueError("messages are nested too deeply")
    for number, start, end in _fields(content, low, high):
        inner = _HOLDERS[message].get(number)
        if inner == "entry":
            yield start, end
        elif inner:
            yield from _entries(content, start, end, inner, depth - 1)


@dataclass(frozen=True)
class Weight:
    """An initialiser that holds weights, and where its values lie in the file."""

    name: str
    dims: tuple[int, ...]
    type: int
    """TensorProto.DataType."""
    start: int
    end: int


def weights_of(content: bytes) -> list[Weight]:
    """The initialisers with weights as raw bytes, in the order of the file.

    Raises:
        ValueError, IndexError, KeyError: it is no ONNX model.
    """
    found = []
    for field, *span in _graph(content):
        parts = list(_fields(content, *span)) if field == 5 else []
        raw = [(low, high) for number, low, high in parts if number == 9]
        if (kind := _type_of(parts)) in _WEIGHTS and raw:
            name = next((content[low:high].decode() for number, low, high in parts if number == 8), "")
            dims = [x for number, low, high in parts if number == 1 for x in _numbers(content, low, high)]
            found.append(Weight(name, tuple(dims), int(kind or 0), *raw[-1]))
    return found


def _numbers(content: bytes, low: int, high: int) -> Iterator[int]:
    """One number, or the packed ones between two places."""
    if low == high:
        yield low
    while low < high:
        value, low = _varint(content, low)
        yield value


def damage(files: Sequence[Path]) -> None:
    """See :class:`pocketvit.runtimes.Runtime`. A stored file becomes the damaged model file itself."""
    with _content(files[0]) as content:
        tensors = [list(_fields(content, *span)) for field, *span in _graph(content) if field == 5]
    weights = [part for parts in tensors if _type_of(parts) in _WEIGHTS for part in parts if part[0] in _VALUES]
    changed = bytearray(content)
    zero_middles(changed, [(start, end) for _, start, end in weights])
    files[0].write_bytes(changed)
    for companion in files[1:]:  # external data holds nothing but tensors
        zero_in_file(companion, [(0, companion.stat().st_size)])


def computes_in_half(path: Path) -> bool:
    """Whether the file holds float16 weights that are used as such, and not cast to float32 first."""
    half, cast = set(), set()
    with _content(path) as content:
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
    """Fields of a message: (number, first byte, end) of length-delimited ones, (number, value, value) of varints.

    Raises:
        ValueError, IndexError, KeyError: a field ends behind its message, or there is no such kind of field.
    """
    position = low
    while position < high:
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value, value
        elif wire == 2:
            length, position = _varint(data, position)
            if position + length > high:
                raise ValueError("a field ends behind its message")
            yield number, position, position + length
            position += length
        else:
            position += {1: 8, 5: 4}[wire]


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number has too many bytes")
