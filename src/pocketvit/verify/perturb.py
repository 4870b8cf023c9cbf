"""Negative controls: copies of model files with damaged weights, and goldens as a wrong preprocessing would give them.

A check that passes everything proves nothing. Weights are damaged inside the files, past all checksums: the middle half
of every weight tensor becomes zero. Where a tensor lies is read from the format itself, so that the copy still opens.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pocketvit.spec.preprocess import Pixels

Region = tuple[int, int]
_ONNX_WEIGHT_TYPES = {
    1,
    2,
    3,
    10,
    16,
    17,
    18,
    19,
    20,
    21,
    22,
}  # float, uint8, int8, float16, bfloat16, float8, (u)int4: never int64 shapes
_ONNX_BYTE_FIELDS = {4, 5, 9}  # TensorProto.float_data, int32_data, raw_data
_IR_CONSTANT = re.compile(rb'<data element_type="(f32|f16|bf16|i8|u8|i4|u4)"[^>]*? offset="(\d+)" size="(\d+)"')


def damaged_copy(runtime: str, files: list[Path], folder: Path) -> Path:
    """Copy the model file and its companions into ``folder`` with damaged weights, and return the copy of the first."""
    copies = [folder / file.name for file in files]
    for file, copy in zip(files, copies, strict=True):
        shutil.copyfile(file, copy)
    # OpenVINO opens ONNX files too, so the format decides before the engine does.
    (_damage_onnx if copies[0].suffix == ".onnx" else _DAMAGE[runtime])(copies)
    return copies[0]


def _damage_onnx(files: list[Path]) -> None:
    regions = list(_onnx_weights(files[0].read_bytes()))
    _zero(files[0], regions)
    for companion in files[1:]:  # external data holds nothing but tensors
        _zero(companion, [(0, companion.stat().st_size)])


def _damage_ir(files: list[Path]) -> None:
    regions = [
        (int(offset), int(offset) + int(size)) for _, offset, size in _IR_CONSTANT.findall(files[0].read_bytes())
    ]
    for companion in files[1:]:
        _zero(companion, regions)


def _damage_torchscript(files: list[Path]) -> None:
    """The archive has a checksum for each entry, so it is written anew; numbered entries are tensors."""
    source = files[0].with_suffix(".source")
    files[0].rename(source)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(files[0], "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            content = bytearray(old.read(entry))
            if entry.filename.rpartition("/")[2].isdigit():
                low, high = _middle((0, len(content)))
                content[low:high] = bytes(high - low)
            new.writestr(entry.filename, bytes(content))
    source.unlink()


_DAMAGE: dict[str, Callable[[list[Path]], None]] = {
    "onnxruntime": _damage_onnx,
    "openvino": _damage_ir,
    "torchscript": _damage_torchscript,
}


def _middle(region: Region) -> Region:
    """The middle half, in whole groups of 4 bytes; nothing of a region too short for that (scalars: scales, bounds)."""
    low, high = region
    quarter = (high - low) // 16 * 4
    return (low + quarter, high - quarter) if quarter else (low, low)


def _zero(file: Path, regions: list[Region]) -> None:
    content = bytearray(file.read_bytes())
    for region in regions:
        low, high = _middle(region)
        content[low:high] = bytes(high - low)
    file.write_bytes(content)


def _onnx_weights(data: bytes) -> Iterator[Region]:
    """Byte ranges of the weight tensors: ModelProto.graph (7) > GraphProto.initializer (5) > TensorProto."""
    for field, graph_low, graph_high in _fields(data, 0, len(data)):
        if field != 7:
            continue
        for inner, low, high in _fields(data, graph_low, graph_high):
            if inner == 5:
                yield from _tensor_bytes(data, low, high)


def _tensor_bytes(data: bytes, low: int, high: int) -> Iterator[Region]:
    parts = list(_fields(data, low, high))
    kinds = [
        start for field, start, _ in parts if field == 2
    ]  # TensorProto.data_type, a varint whose value stands as start
    if kinds and kinds[0] in _ONNX_WEIGHT_TYPES:
        yield from ((start, end) for field, start, end in parts if field in _ONNX_BYTE_FIELDS and end > start)


def _fields(data: bytes, low: int, high: int) -> Iterator[tuple[int, int, int]]:
    """Fields of a protobuf message: (number, first byte, end) of length-delimited ones, (number, value, value) of varints."""
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


def swap_channels(pixels: Pixels) -> Pixels:
    """What a model gets where blue and red are mistaken for each other."""
    return np.ascontiguousarray(pixels[..., ::-1])


def normalise_twice(pixels: Pixels) -> Pixels:
    """What a model gets where mean and deviation are not the ones it was trained with: a quarter of the contrast, shifted brightness."""
    shifted: Pixels = np.rint(0.25 * pixels + 0.45 * 255).astype(np.uint8)
    return shifted


def is_grey(pixels: Pixels) -> bool:
    """Whether the images have so little colour that swapping channels changes nothing."""
    return float(np.abs(pixels[..., 0].astype(np.int16) - pixels[..., 2]).mean()) < 4.0
