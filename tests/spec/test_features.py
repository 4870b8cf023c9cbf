from __future__ import annotations

import struct
import tracemalloc
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from pocketvit.errors import DataError
from pocketvit.spec.features import decode, dequantise, encode, quantise
from pocketvit.spec.split import Split
from pocketvit.spec.tasks.base import TensorSpec

IDENTITY = "00112233445566778899aabbccddeeff"


def split(tokens: int = 5, width: int = 7, bits: int = 8, **changes: Any) -> Split:
    spec = TensorSpec(name="features", shape=[1, tokens, width], dtype="float32", meaning="tokens")
    fields = {"part": "tail", "id": IDENTITY, "after": 1, "blocks": 2, "bits": bits, "features": spec, **changes}
    return Split(**fields)


def some(tokens: int = 5, width: int = 7) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 3, (tokens, width)).astype(np.float32)


def body(content: bytes, shape: tuple[int, int] = (2, 3), identity: str = IDENTITY, magic: bytes = b"PVF1") -> bytes:
    """Written by hand, as a phone would."""
    return magic + bytes.fromhex(identity) + struct.pack("<II", *shape) + zlib.compress(content)


GOOD = struct.pack("<2e", 0.5, 2.0) + struct.pack("6b", 1, -2, 3, 127, 0, -127)


def test_the_format_is_what_the_document_says() -> None:
    found = decode(body(GOOD), split(2, 3))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[0.5, -1.0, 1.5], [254.0, 0.0, -254.0]])
    sent = encode(found, split(2, 3))
    assert sent[:28] == b"PVF1" + bytes.fromhex(IDENTITY) + struct.pack("<II", 2, 3)
    content = zlib.decompress(sent[28:])
    assert struct.unpack("<2e", content[:4]) == pytest.approx((1.5 / 127, 2.0), rel=1e-3)
    assert struct.unpack("6b", content[4:]) == (42, -85, 127, 127, 0, -127)


@pytest.mark.parametrize("bits", [8, 6, 4, 2])
def test_each_value_arrives_within_half_a_step_of_its_token(bits: int) -> None:
    features = some(50, 40)
    features[3] *= 500  # one token as large as those that vision transformers have
    arrived = decode(encode(features, split(50, 40, bits)), split(50, 40))
    steps = np.abs(features).max(axis=1) / (2 ** (bits - 1) - 1)
    errors = np.abs(arrived - features).max(axis=1)
    assert (errors <= steps * 0.51 + np.abs(features).max(axis=1) * 2**-10).all()
    assert errors[0] < errors[3] / 50


def test_rows_of_nothing_and_next_to_nothing_become_zero() -> None:
    features = np.zeros((3, 4), np.float32)
    features[1], features[2] = 1e-9, [1, -1, 0.5, 0]
    arrived = decode(encode(features, split(3, 4)), split(3, 4))
    np.testing.assert_array_equal(arrived[:2], 0)
    np.testing.assert_allclose(arrived[2], features[2], atol=0.005)


def test_fewer_bits_take_fewer_bytes() -> None:
    sizes = [len(encode(some(100, 64), split(100, 64, bits))) for bits in (8, 6, 4, 2)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 0.6 * sizes[0] < 100 * 64


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_what_cannot_be_sent_is_refused(value: float) -> None:
    features = some()
    features[2, 3] = value
    with pytest.raises(DataError, match="NaN, infinity"):
        encode(features, split())
    with pytest.raises(DataError, match=r"\(5, 7\), not \(5, 8\)"):
        encode(some(), split(5, 8))


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"", "format PVF1"),
        (body(GOOD)[:27], "format PVF1"),
        (body(GOOD, magic=b"PVF2"), "format PVF1"),
        (body(GOOD, identity="ff" * 16), "of split ffffffff, and this tail takes those of 00112233"),
        (body(GOOD, (3, 2)), r"shape \(3, 2\), not \(2, 3\)"),
        (body(GOOD, (2**32 - 1, 2**32 - 1)), "shape"),
        (body(GOOD)[:-1], "cut off"),
        (body(GOOD)[:28], "cut off"),
        (body(GOOD)[:28] + b"garbage", "damaged"),
        (body(GOOD) + b"x", "more than features"),
        (body(GOOD[:-1]), "cut off"),
        (body(GOOD + b"x"), "more than features"),
        (body(struct.pack("<2e", np.nan, 1) + GOOD[4:]), "scale"),
        (body(struct.pack("<2e", np.inf, 1) + GOOD[4:]), "scale"),
        (body(struct.pack("<2e", -1, 1) + GOOD[4:]), "scale"),
    ],
)
def test_what_comes_is_not_believed(sent: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        decode(sent, split(2, 3))


def test_a_bomb_is_not_unpacked() -> None:
    bomb = body(bytes(50_000_000))
    tracemalloc.start()
    with pytest.raises(DataError, match="more than features"):
        decode(bomb, split(2, 3))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_changed_bytes_are_noticed_or_harmless() -> None:
    good, rng = encode(some(), split()), np.random.default_rng(1)
    for _ in range(500):
        changed = bytearray(good)
        changed[rng.integers(len(good))] ^= int(rng.integers(1, 256))
        with suppress(DataError):
            assert np.isfinite(decode(bytes(changed), split())).all()


def test_the_two_halves_of_the_format_are_inverse() -> None:
    values, scales = quantise(some(), 8)
    again, same = quantise(dequantise(values, scales), 8)
    assert values.dtype == np.int8
    assert scales.dtype == np.float16
    assert np.abs(again.astype(int) - values).max() <= 1
    np.testing.assert_allclose(same, scales, rtol=2e-3)
