"""How features travel from a head to its tail: a few bits for each value, a scale for each token, deflated.

Quantised token by token: a few tokens of a vision transformer carry values hundreds of times as large as all others
(Darcet et al. 2024), and they must not spoil the scale of the rest. Little-endian, version 1:

====== =====================================================================================
bytes  what
====== =====================================================================================
4      ``PVF1``
16     the split's id
4, 4   tokens N and width D, unsigned
rest   a zlib stream of N float16 scales and N x D int8 values, row by row; a value times the
       scale of its row is the feature
====== =====================================================================================

The receiver needs not know how many bits were used. It believes nothing: N and D must be those of its manifest, which
bounds what is unpacked before any of it is.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import DataError
from pocketvit.spec.split import Split

MEDIA = "application/x-pocketvit-features"
"""Content type of a request's body in this format."""
MAGIC = b"PVF1"
_HEAD = struct.Struct("<4s16sII")
_LEVEL = 6
_TODO = "Send what a head of this very split has encoded."
Features = NDArray[np.float32]


def quantise(features: Features, bits: int) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """(N, D) float32 -> (N, D) int8 within +-(2^(bits - 1) - 1), and (N,) float16 scales; 0 / 0 of an empty row is 0.

    Raises:
        DataError: a value is not finite, or too large for any scale.
    """
    most = 2 ** (bits - 1) - 1
    scales = np.abs(features).max(axis=1) / most
    if not np.isfinite(scales).all() or scales.max() > np.finfo(np.float16).max:
        raise DataError("the features hold NaN, infinity or numbers too large.", "Run `pocketvit verify` on the head.")
    rounded = scales.astype(np.float16)
    steps = np.where(rounded > 0, rounded, np.inf).astype(np.float32)[:, None]
    return np.clip(np.rint(features / steps), -most, most).astype(np.int8), rounded


def dequantise(values: NDArray[np.int8], scales: NDArray[np.float16]) -> Features:
    """(N, D) int8 and (N,) float16 -> (N, D) float32."""
    return values.astype(np.float32) * scales.astype(np.float32)[:, None]


def encode(features: Features, split: Split) -> bytes:
    """The features (N, D) float32 of one photo, as they travel.

    Raises:
        DataError: they are not of the split's shape, or not finite.
    """
    if features.shape != split.shape:
        raise DataError(f"features have shape {features.shape}, not {split.shape}.", "Take those of this head.")
    values, scales = quantise(features, split.bits)
    packed = zlib.compress(scales.astype("<f2").tobytes() + values.tobytes(), _LEVEL)
    return _HEAD.pack(MAGIC, bytes.fromhex(split.id), *split.shape) + packed


def decode(body: bytes, split: Split) -> Features:
    """(N, D) float32 of what :func:`encode` made, whoever may have sent it.

    Raises:
        DataError: it is no such body, it is damaged, of another split or shape, or a scale is negative or not finite.
    """
    if len(body) < _HEAD.size or body[:4] != MAGIC:
        raise DataError("these are no features in the format PVF1.", _TODO)
    _, identity, *shape = _HEAD.unpack_from(body)
    if identity.hex() != split.id:
        what = f"these features are of split {identity.hex()[:8]}, and this tail takes those of {split.id[:8]}."
        raise DataError(what, "Take head and tail from one export.")
    if tuple(shape) != split.shape:
        raise DataError(f"features have shape {tuple(shape)}, not {split.shape}.", _TODO)
    tokens, width = split.shape
    content = _inflated(memoryview(body)[_HEAD.size :], 2 * tokens + tokens * width)
    scales = np.frombuffer(content, "<f2", tokens)
    if not np.isfinite(scales).all() or (scales < 0).any():
        raise DataError("a scale of the features is negative or no finite number.", _TODO)
    return dequantise(np.frombuffer(content, np.int8, offset=2 * tokens).reshape(tokens, width), scales)


def _inflated(packed: memoryview, size: int) -> bytes:
    """Just ``size`` bytes out of one zlib stream; one that holds more is never unpacked further than a byte more."""
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(packed, size + 1)
    except zlib.error as error:
        raise DataError(f"the features are damaged ({error}).", _TODO) from None
    if len(content) != size or not stream.eof or stream.unused_data:
        raise DataError("the features are cut off, or there is more than features.", _TODO)
    return content
