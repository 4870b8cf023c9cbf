"""Stored model files (``.pvw``): a model file whose weights lie compressed, rebuilt when it is opened, byte by byte.

A stored file is the model file with the values of its tensors cut out. What is left is deflated; each tensor is coded
in the way that is smallest. All of it decodes to the very file that was stored, and its sha256 is held against the one
in the header each time, so that an engine is given the same tensors bit by bit, as fast and as large in memory as ever.

    8 bytes                    MAGIC
    4 bytes, little-endian     length of the header
    the header                 deflated JSON: bytes and sha256 of the model file, length of the rest, the tensors
    the rest                   the model file without the tensors, deflated
    the blocks                 of all tensors behind each other, in the order in which the header names them

A tensor states where it belongs (``at``, in the rest), how many values of which ``width`` in bytes it has, and a form:

``planes``   the first bytes of all values, then the second ones, ...: each as it is, or as a Huffman block where that
             is smaller (:mod:`pocketvit.runtimes.huffman`). Of float32 only sign and exponent shrink.
``table``    at most 256 values and an index for each weight (Han et al. 2016, "Deep Compression"); with ``scales`` one
             factor for each channel: value = table[index] * scale in float32. One bit a weight is a table of -1 and 1.
``sparse``   a bit for each value that says whether it is 0, eight to a Huffman symbol, and those that are not as above.

Nothing in a file is believed: every length is held against what is there before memory is asked for.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import VerificationError
from pocketvit.files import replacing
from pocketvit.runtimes import huffman
from pocketvit.spec.artifact import FREE_BYTES, MAX_ARCHIVE_BYTES, MAX_RATIO

Bytes = NDArray[np.uint8]
Node = dict[str, Any]

MAGIC = b"PVW\x01\r\n\x1a\n"
SUFFIX = ".pvw"
MOST_HEADER = 16_000_000
MOST_ENTRIES = 256
_WIDTHS = (1, 2, 4, 8)
_WORTH_A_MASK = 0.05
"""Share of zeros from which the sparse form is tried."""


@dataclass(frozen=True)
class Table:
    """How the values of a float32 tensor were made: ``values[indices] * scales``."""

    values: NDArray[np.float32]
    """(K,) with K at most 256."""
    indices: Bytes
    """(N,) in the order in which the tensor is stored."""
    scales: NDArray[np.float32] | None = None
    """(channels,)"""
    inner: int = 1
    """How many values that lie behind each other share a scale, before the next channel begins."""

    def decoded(self) -> NDArray[np.float32]:
        """(N,) float32, the same bits on every machine."""
        return _scaled(self.values[self.indices], self.scales, self.inner)


@dataclass(frozen=True)
class Tensor:
    """Where the values of a tensor lie in a model file: bytes ``start`` to ``end``."""

    start: int
    end: int
    width: int
    """Bytes of a value."""
    table: Table | None = None
    """How its values were made, where that is known."""
    channels: tuple[tuple[int, int], ...] = ()
    """(number of channels, :attr:`Table.inner`) where each channel may have one absolute value (binary weights)."""


def is_stored(path: Path) -> bool:
    """Whether a file is a stored one, by its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def content_of(path: Path) -> bytes:
    """The bytes of a model file, as they are or rebuilt from a stored file.

    Raises:
        OSError: it cannot be read.
        VerificationError: it is a stored file and damaged.
    """
    return unpack(path) if is_stored(path) else path.read_bytes()


def unpack(path: Path) -> bytes:
    """The model file that a stored file was made of.

    Raises:
        VerificationError: it is none, cut off, or damaged, or claims to hold more than its size allows.
    """
    try:
        return _unpacked(memoryview(path.read_bytes()))
    except (ValueError, TypeError, KeyError, RecursionError, zlib.error) as error:
        what = f"{path}: the stored weights are damaged ({error})."
        raise VerificationError(
            what, "Copy the artifact again from where it was verified, or export it again."
        ) from error


def pack(content: bytes, tensors: Sequence[Tensor], path: Path) -> None:
    """Store a model file, read back before it is there.

    Args:
        content: the model file.
        tensors: its tensors that are to be coded, in the order in which they lie in it.
        path: the file to write.

    Raises:
        VerificationError: it does not read back: a :class:`Table` does not give the tensor's values.
        DataError: ``path`` cannot be written.
    """
    rest, blocks, nodes, done = [], [], [], 0
    for tensor in tensors:
        rest.append(content[done : tensor.start])
        done = tensor.end
        values = np.frombuffer(content[tensor.start : tensor.end], f"<u{tensor.width}")
        node, block = _smallest(values, tensor)
        nodes.append({"at": sum(map(len, rest)), "count": len(values), "width": tensor.width, **node})
        blocks.append(block)
    rest.append(content[done:])
    packed = zlib.compress(b"".join(rest), 9)
    header: Node = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    header |= {"rest": len(packed), "tensors": nodes}
    head = zlib.compress(json.dumps(header, separators=(",", ":")).encode(), 9)
    stored = b"".join([MAGIC, len(head).to_bytes(4, "little"), head, packed, *blocks])
    try:
        _unpacked(memoryview(stored))  # which holds it against the sha256 of the content
    except ValueError as error:
        what = f"{path}: the stored weights are not those of the model ({error})."
        raise VerificationError(what, "Report this fault, and leave out the step.") from error
    with replacing(path) as partial:
        partial.write_bytes(stored)


def parts_of(path: Path) -> list[tuple[str, int, int]]:
    """Of each tensor of a stored file its form (``planes``, ``table``, ``signs``, ``sparse``), values and bytes.

    Raises what :func:`unpack` does, for what the header shows.
    """
    try:
        header, _ = _header(memoryview(path.read_bytes()))
        return [(_form(x), int(x["count"]), _bytes_of(x, int(x["width"]))) for x in header["tensors"]]
    except (ValueError, TypeError, KeyError, RecursionError, zlib.error) as error:
        what = f"{path}: the stored weights are damaged ({error})."
        raise VerificationError(what, "Copy the artifact again, or export it again.") from error


def _form(node: Node) -> str:
    one_bit = node["as"] == "table" and node["entries"] <= 2 and "scales" in node
    return "signs" if one_bit else str(node["as"])


def _bytes_of(node: Node, width: int) -> int:
    """Bytes of all blocks of a tensor."""
    if node["as"] == "planes":
        return int(sum(node["blocks"]))
    if node["as"] == "sparse":
        return int(node["mask"]) + _bytes_of(node["values"], width)
    inner = _bytes_of(node["scales"], 4) if "scales" in node else 0
    return int(node["entries"]) * width + int(node["indices"]) + inner


class _Blocks:
    """The blocks that have not been read yet."""

    def __init__(self, data: memoryview) -> None:
        self.left = data

    def take(self, size: object) -> memoryview:
        if type(size) is not int or not 0 <= size <= len(self.left):
            raise ValueError("it is cut off")
        found, self.left = self.left[:size], self.left[size:]
        return found

    def bytes(self, size: object, count: int) -> Bytes:
        """``count`` bytes, as they are or decoded."""
        block = self.take(size)
        return np.frombuffer(block, np.uint8) if len(block) == count else huffman.decode(block, count)


def _unpacked(data: memoryview) -> bytes:
    header, left = _header(data)
    total = _number(header, "bytes", 0, min(FREE_BYTES + MAX_RATIO * len(data), MAX_ARCHIVE_BYTES))
    blocks, nodes = _Blocks(left), header["tensors"]
    if type(nodes) is not list:
        raise ValueError("it lists no tensors")
    sizes = [_number(node, "count", 1, total) * _width(node, "width") for node in nodes]
    if sum(sizes) > total:
        raise ValueError("its tensors are larger than the model")
    rest = _inflated(blocks.take(header["rest"]), total - sum(sizes))
    if len(rest) + sum(sizes) != total:
        raise ValueError("it is not as large as it says")
    out, done, end = bytearray(total), 0, 0
    for node, size in zip(nodes, sizes, strict=True):
        at = _number(node, "at", done, len(rest))
        out[end : end + at - done] = rest[done:at]
        end, done = end + at - done, at
        out[end : end + size] = _values(node, node["count"], node["width"], blocks, True).tobytes()
        end += size
    out[end:] = rest[done:]
    if len(out) != total or len(blocks.left):
        raise ValueError("bytes are left over")
    if hashlib.sha256(out).hexdigest() != header["sha256"]:
        raise ValueError("its sha256 is not the one that was stored")
    return bytes(out)


def _header(data: memoryview) -> tuple[Node, memoryview]:
    """The header, and what follows it."""
    start = len(MAGIC) + 4
    if bytes(data[: len(MAGIC)]) != MAGIC or len(data) < start:
        raise ValueError("it does not begin as one")
    size = int.from_bytes(data[len(MAGIC) : start], "little")
    if start + size > len(data):
        raise ValueError("it is cut off")
    header = json.loads(_inflated(data[start : start + size], MOST_HEADER))
    if type(header) is not dict:
        raise ValueError("it has no header")
    return header, data[start + size :]


def _inflated(data: memoryview, most: int) -> bytes:
    """What was deflated, where it is at most so long."""
    inflate = zlib.decompressobj()
    found = inflate.decompress(data, most + 1)
    if len(found) > most or not inflate.eof or inflate.unused_data:
        raise ValueError("a deflated part is cut off or larger than it says")
    return found


def _number(node: Mapping[str, Any], key: str, low: int, high: int) -> int:
    value = node[key]
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{key} is {str(value)[:40]}, not {low} to {high}")
    return value


def _width(node: Mapping[str, Any], key: str) -> int:
    if _number(node, key, 1, 8) not in _WIDTHS:
        raise ValueError(f"{key} is none of {_WIDTHS}")
    return int(node[key])


def _values(node: Node, count: int, width: int, blocks: _Blocks, may_be_sparse: bool = False) -> NDArray[Any]:
    """(count,) unsigned integers of a width: the bits of the values."""
    kind = node["as"]
    if kind == "planes":
        return _planes(node, count, width, blocks)
    if kind == "table":
        return _looked_up(node, count, width, blocks)
    if kind != "sparse" or not may_be_sparse:
        raise ValueError("a tensor has an unknown form")
    mask = np.unpackbits(blocks.bytes(node["mask"], -(-count // 8)), count=count).view(np.bool_)
    filled = int(np.count_nonzero(mask))
    out = np.zeros(count, f"<u{width}")
    if filled:
        out[mask] = _values(node["values"], filled, width, blocks)
    return out


def _planes(node: Node, count: int, width: int, blocks: _Blocks) -> NDArray[Any]:
    sizes = node["blocks"]
    if type(sizes) is not list or len(sizes) != width:
        raise ValueError("a tensor has not one block for each byte of its values")
    out = np.empty((count, width), np.uint8)
    for plane, size in enumerate(sizes):
        out[:, plane] = blocks.bytes(size, count)
    return out.reshape(-1).view(f"<u{width}")


def _looked_up(node: Node, count: int, width: int, blocks: _Blocks) -> NDArray[Any]:
    entries = _number(node, "entries", 1, MOST_ENTRIES)
    table = np.frombuffer(blocks.take(entries * width), f"<u{width}")
    indices = blocks.bytes(node["indices"], count)
    if indices.max() >= entries:
        raise ValueError("an index lies outside its table")
    if "scales" not in node:
        return table[indices]
    channels, inner = _number(node, "channels", 1, count), _number(node, "inner", 1, count)
    if width != 4 or count % (channels * inner):
        raise ValueError("a table has scales that do not fit")
    scales = _values(node["scales"], channels, 4, blocks).view("<f4")
    return _scaled(table.view("<f4")[indices], scales, inner).view("<u4")


def _scaled(values: NDArray[np.float32], scales: NDArray[np.float32] | None, inner: int) -> NDArray[np.float32]:
    """Each value times the scale of its channel; one rounded multiplication, which is the same everywhere."""
    if scales is None:
        return values
    with np.errstate(all="ignore"):  # of damaged files
        shaped = values.reshape(-1, len(scales), inner) * scales[:, None]
    return shaped.reshape(-1).astype("<f4", copy=False)


def _smallest(values: NDArray[Any], tensor: Tensor) -> tuple[Node, bytes]:
    """The form of a tensor that takes the least bytes."""
    found = _dense(values, tensor.table, tensor.channels)
    zeros = values == 0
    if np.mean(zeros) >= _WORTH_A_MASK:
        mask, packed = _coded(np.packbits(~zeros))
        left = values[~zeros]
        node, block = _dense(left) if len(left) else ({"as": "planes", "blocks": []}, b"")
        sparse = {"as": "sparse", "mask": mask, "values": node}, packed + block
        found = min(found, sparse, key=lambda form: len(form[1]))
    return found


def _dense(
    values: NDArray[Any], table: Table | None = None, channels: Sequence[tuple[int, int]] = ()
) -> tuple[Node, bytes]:
    """The smallest form of values that are not 0 for the most part."""
    forms = [_planes_form(values)]
    if table is not None:
        forms.append(_table_form(table.values.astype("<f4").view("<u4"), table.indices, table.scales, table.inner))
    else:
        forms += _few(values)
        forms += [form for number, inner in channels for form in _signs(values, number, inner)]
    return min(forms, key=lambda form: len(form[1]))


def _coded(values: Bytes) -> tuple[int, bytes]:
    """Length and bytes of a block: a Huffman block where that is smaller than the values themselves."""
    block = huffman.encode(values)
    block = block if len(block) < len(values) else values.tobytes()
    return len(block), block


def _planes_form(values: NDArray[Any]) -> tuple[Node, bytes]:
    planes = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
    blocks = [_coded(np.ascontiguousarray(planes[:, plane])) for plane in range(planes.shape[1])]
    return {"as": "planes", "blocks": [size for size, _ in blocks]}, b"".join(block for _, block in blocks)


def _table_form(
    table: NDArray[Any], indices: Bytes, scales: NDArray[np.float32] | None = None, inner: int = 1
) -> tuple[Node, bytes]:
    size, block = _coded(indices)
    node: Node = {"as": "table", "entries": len(table), "indices": size}
    block = table.tobytes() + block
    if scales is not None:
        form, more = _planes_form(scales.astype("<f4").view("<u4"))
        node |= {"channels": len(scales), "inner": inner, "scales": form}
        block += more
    return node, block


def _few(values: NDArray[Any]) -> list[tuple[Node, bytes]]:
    """As a table, where there are few values: none or one form."""
    if values.dtype.itemsize == 1 or len(np.unique(values[: 16 * MOST_ENTRIES])) > MOST_ENTRIES:
        return []
    table, indices = np.unique(values, return_inverse=True)
    return [_table_form(table, indices.astype(np.uint8))] if len(table) <= MOST_ENTRIES else []


def _signs(values: NDArray[Any], channels: int, inner: int) -> list[tuple[Node, bytes]]:
    """As one bit each, where all values of a channel have one absolute value: none or one form."""
    if values.dtype.itemsize != 4 or len(values) % (channels * inner):
        return []
    shaped = values.view("<f4").reshape(-1, channels, inner)
    scales = np.abs(shaped[0, :, 0])
    if not (scales > 0).all() or not all(np.array_equal(np.abs(part), scales[:, None] + 0 * part) for part in shaped):
        return []
    bits = (shaped > 0).astype(np.uint8).reshape(-1)
    return [_table_form(np.array([-1, 1], "<f4").view("<u4"), bits, scales, inner)]
