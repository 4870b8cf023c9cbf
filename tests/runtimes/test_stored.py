"""Stored files: every form comes back bit by bit, the smallest is taken, and hostile files end in our own error."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pocketvit.errors import VerificationError
from pocketvit.runtimes import open_session
from pocketvit.runtimes.onnxfile import damage, weights_of
from pocketvit.runtimes.stored import MAGIC, Table, Tensor, content_of, is_stored, pack, parts_of, unpack
from pocketvit.spec.target import Target
from tests.tiny import SIZE, classify_onnx, photo

RNG = np.random.default_rng(0)


def stored(values: np.ndarray, path: Path, **how: Any) -> list[tuple[str, int, int]]:
    """A file with one tensor between two texts; its form."""
    raw = np.ascontiguousarray(values).tobytes()
    content = b"before" + raw + b"behind"
    pack(content, [Tensor(6, 6 + len(raw), values.dtype.itemsize, **how)], path)
    assert is_stored(path)
    assert unpack(path) == content
    return parts_of(path)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int8, np.uint8])
@pytest.mark.parametrize("count", [1, 2, 300, 5000])
def test_values_of_any_width_come_back(tmp_path: Path, dtype: type, count: int) -> None:
    ((_, number, size),) = stored((RNG.normal(size=count) * 20).astype(dtype), tmp_path / "x.pvw")
    assert number == count
    assert size <= count * np.dtype(dtype).itemsize


def test_floats_shrink_by_their_exponents(tmp_path: Path) -> None:
    ((form, _, size),) = stored(RNG.normal(size=50_000).astype(np.float32), tmp_path / "x.pvw")
    assert form == "planes"
    assert size < 0.9 * 200_000


def test_odd_bits_come_back(tmp_path: Path) -> None:
    """NaNs with their payload, both zeros, infinities, denormals."""
    bits = np.array([0x7FC00001, 0xFFC12345, 0, 0x80000000, 0x7F800000, 0xFF800000, 1, 0x80000001], np.uint32)
    stored(np.tile(bits, 100).view(np.float32), tmp_path / "few.pvw")
    many = RNG.integers(0, 2**32, 5000, dtype=np.uint32)
    many[RNG.random(5000) < 0.7] = 0
    many[:800] = np.tile(bits, 100)
    stored(many.view(np.float32), tmp_path / "many.pvw")


@pytest.mark.parametrize("entries", [1, 2, 16, 256])
def test_few_values_become_a_table(tmp_path: Path, entries: int) -> None:
    table = np.unique(RNG.normal(size=entries).astype(np.float32))
    values = table[np.arange(20_000) * 7919 % entries]
    ((form, _, size),) = stored(values, tmp_path / "x.pvw")
    assert form == "table"
    assert size < 20_000 * np.log2(max(entries, 2)) / 8 + 4 * entries + 300


@pytest.mark.parametrize(("inner", "shape"), [(1, (64, 96)), (64, (96, 64)), (10, (4, 16, 10))])
def test_a_table_with_scales_comes_back(tmp_path: Path, inner: int, shape: tuple[int, ...]) -> None:
    channels = {1: 96, 64: 96, 10: 16}[inner]
    table = Table(
        RNG.normal(size=16).astype(np.float32),
        RNG.integers(0, 16, int(np.prod(shape))).astype(np.uint8),
        RNG.uniform(0.1, 3, channels).astype(np.float32),
        inner,
    )
    values = table.decoded().reshape(shape)
    axis = {1: -1, 64: 0, 10: 1}[inner]
    by_hand = np.moveaxis(table.values[table.indices].reshape(shape), axis, -1) * table.scales
    np.testing.assert_array_equal(values, np.moveaxis(by_hand, -1, axis))
    ((form, _, size),) = stored(values, tmp_path / "x.pvw", table=table)
    assert form == "table"
    assert size < values.size / 2 + 4 * channels + 400


def test_a_wrong_table_writes_no_file(tmp_path: Path) -> None:
    values = RNG.normal(size=1000).astype(np.float32)
    wrong = Table(values[:16].copy(), np.zeros(1000, np.uint8))
    with pytest.raises(VerificationError, match="are not those of the model"):
        stored(values, tmp_path / "x.pvw", table=wrong)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("axis", "side"), [(0, (192, 768)), (1, (768, 1))])
def test_binary_weights_take_one_bit(tmp_path: Path, axis: int, side: tuple[int, int]) -> None:
    signs = RNG.choice([-1.0, 1.0], (192, 768)).astype(np.float32)
    scales = RNG.uniform(0.1, 2, 192 if axis == 0 else 768).astype(np.float32)
    values = signs * np.expand_dims(scales, 1 - axis)
    ((form, _, size),) = stored(values, tmp_path / "x.pvw", channels=((192, 768), (768, 1)))
    assert form == "signs"
    assert values.nbytes / size > 25
    values[3, 5] *= 1.5
    ((form, _, size),) = stored(values, tmp_path / "y.pvw", channels=((192, 768), (768, 1)))
    assert form != "signs"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 1.0])
def test_pruned_weights_are_stored_sparse(tmp_path: Path, share: float) -> None:
    values = RNG.normal(size=60_000).astype(np.float32)
    values[RNG.permutation(60_000)[: int(share * 60_000)]] = 0
    ((form, _, size),) = stored(values, tmp_path / "x.pvw")
    assert form == "sparse"
    assert size < 240_000 * (1 - share) + 60_000 / 8 + 200


def test_pruned_and_clustered_together(tmp_path: Path) -> None:
    table = RNG.normal(size=15).astype(np.float32)
    values = table[RNG.integers(0, 15, 60_000)]
    values[RNG.random(60_000) < 0.8] = 0
    ((_, _, size),) = stored(values, tmp_path / "x.pvw")
    assert 8 * size / 60_000 < 1.7  # the entropy is 0.72 + 0.2 * 3.9


def test_many_tensors_and_none(tmp_path: Path) -> None:
    a, b = RNG.normal(size=40).astype(np.float32).tobytes(), bytes(RNG.integers(0, 3, 700, dtype=np.uint8))
    pack(a + b"middle" + b, [Tensor(0, 160, 4), Tensor(166, 866, 1)], tmp_path / "x.pvw")
    assert unpack(tmp_path / "x.pvw") == a + b"middle" + b
    assert [count for _, count, _ in parts_of(tmp_path / "x.pvw")] == [40, 700]
    pack(b"text alone", [], tmp_path / "y.pvw")
    assert unpack(tmp_path / "y.pvw") == b"text alone"


def test_other_files_are_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"PVW is not the magic")
    assert not is_stored(tmp_path / "a")
    assert not is_stored(tmp_path / "missing")
    assert not is_stored(tmp_path)
    assert content_of(tmp_path / "a") == b"PVW is not the magic"
    with pytest.raises(VerificationError, match="does not begin as one"):
        unpack(tmp_path / "a")


def test_damage_in_any_byte_is_noticed(tmp_path: Path) -> None:
    values = RNG.normal(size=600).astype(np.float32)
    values[:300] = values[RNG.integers(300, 320, 300)]
    stored(values, tmp_path / "x.pvw")
    sound, path = (tmp_path / "x.pvw").read_bytes(), tmp_path / "y.pvw"
    for place in range(0, len(sound), 7):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x41]) + sound[place + 1 :])
        with pytest.raises(VerificationError, match=r"y\.pvw: the stored weights are damaged"):
            unpack(path)
    for cut in range(0, len(sound), 31):
        path.write_bytes(sound[:cut])
        with pytest.raises(VerificationError):
            unpack(path)
    path.write_bytes(sound + b"x")
    with pytest.raises(VerificationError, match="left over"):
        unpack(path)


def forged(path: Path, tensors: Any, blocks: bytes = b"", inflated: bytes = b"", **header: Any) -> Path:
    """A file with any header."""
    packed = zlib.compress(inflated)
    fields = {"bytes": 8, "sha256": hashlib.sha256(b"").hexdigest(), "rest": len(packed), "tensors": tensors, **header}
    head = zlib.compress(json.dumps(fields).encode())
    path.write_bytes(MAGIC + len(head).to_bytes(4, "little") + head + packed + blocks)
    return path


TENSOR = {"at": 0, "count": 2, "width": 4, "as": "planes", "blocks": [2, 2, 2, 2]}
NESTED = {"as": "sparse", "mask": 1, "values": {"as": "sparse", "mask": 1, "values": TENSOR}}
LIES: list[tuple[Any, dict[str, Any], str]] = [
    (5, {}, "lists no tensors"),
    ([7], {}, "damaged"),
    ([{}], {}, "count"),
    ([TENSOR], {"bytes": 10**18}, "bytes is 1000"),
    ([TENSOR], {"bytes": -1}, "bytes"),
    ([TENSOR], {"bytes": True}, "bytes"),
    ([TENSOR], {"bytes": 7}, "tensors are larger"),
    ([TENSOR], {"bytes": 9}, "not as large"),
    ([TENSOR], {"rest": 10**9}, "cut off"),
    ([TENSOR], {"rest": "1"}, "cut off"),
    ([TENSOR | {"count": 10**12}], {"bytes": 10**6}, "count"),
    ([TENSOR | {"count": 0}], {}, "count"),
    ([TENSOR | {"width": 3}], {}, "width"),
    ([TENSOR | {"at": 5}], {}, "at"),
    ([TENSOR | {"as": "pickle"}], {}, "unknown form"),
    ([TENSOR | {"blocks": [2, 2, 2]}], {}, "one block for each"),
    ([TENSOR | {"blocks": [2, 2, 2, 10**9]}], {}, "cut off"),
    ([TENSOR | {"blocks": [2, 2, 2, -2]}], {}, "cut off"),
    ([TENSOR | {"as": "table", "entries": 257, "indices": 2}], {}, "entries"),
    ([TENSOR | {"as": "table", "entries": 1, "indices": 2}], {}, "outside its table"),
    (
        [TENSOR | {"as": "table", "entries": 2, "indices": 2, "scales": TENSOR, "channels": 2, "inner": 2}],
        {},
        "damaged",
    ),
    (
        [TENSOR | {"as": "table", "entries": 2, "indices": 2, "scales": TENSOR, "channels": 0, "inner": 1}],
        {},
        "channels",
    ),
    ([TENSOR | {"count": 8, "width": 1} | NESTED], {}, "unknown form"),
    ([TENSOR], {"sha256": "0"}, "sha256"),
]


@pytest.mark.parametrize(("tensors", "header", "why"), LIES, ids=[f"{i}-{lie[2]}" for i, lie in enumerate(LIES)])
def test_lies_are_refused(tmp_path: Path, tensors: Any, header: dict[str, Any], why: str) -> None:
    blocks = bytes([1, 0]) * 40
    path = forged(tmp_path / "x.pvw", tensors, blocks[: 8 if why == "sha256" else 80], **header)
    with pytest.raises(VerificationError, match=why):
        unpack(path)


def test_memory_is_bounded_by_the_files_size(tmp_path: Path) -> None:
    """Small files that claim to be, or inflate to, much more."""
    same = b"\x00\x10"  # a Huffman block of one symbol, as long as one likes
    tensor = {"at": 0, "count": 10**9, "width": 1, "as": "planes", "blocks": [2]}
    bomb = zlib.compress(bytes(200_000_000))
    claims = forged(tmp_path / "claims.pvw", [tensor], same, bytes=10**9)
    inflates = forged(tmp_path / "inflates.pvw", [], inflated=bytes(200_000_000), bytes=1000)
    header = tmp_path / "header.pvw"
    header.write_bytes(MAGIC + len(bomb).to_bytes(4, "little") + bomb)
    deep = tmp_path / "deep.pvw"
    nested = zlib.compress(b"[" * 100_000)
    deep.write_bytes(MAGIC + len(nested).to_bytes(4, "little") + nested)
    tracemalloc.start()
    try:
        for path in (claims, inflates, header, deep):
            with pytest.raises(VerificationError):
                unpack(path)
            with pytest.raises(VerificationError):
                parts_of(header)
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


def tiny(path: Path) -> Path:
    """The tiny classifier, stored."""
    content = classify_onnx(path.with_suffix(".onnx")).read_bytes()
    pack(content, [Tensor(w.start, w.end, 4) for w in weights_of(content)], path)
    return path


def test_weights_of_lists_what_onnx_lists(tmp_path: Path) -> None:
    content = classify_onnx(tmp_path / "m.onnx").read_bytes()
    arrays = {x.name: numpy_helper.to_array(x) for x in onnx.load_from_string(content).graph.initializer}
    found = weights_of(content)
    assert [w.name for w in found] == [name for name, value in arrays.items() if value.dtype == np.float32]
    for weight in found:
        assert weight.dims == arrays[weight.name].shape
        assert content[weight.start : weight.end] == arrays[weight.name].tobytes()
    packed = b"\x0a\x03\x02\xac\x02"  # dims as newer writers pack them: 2, 300
    tensor = packed + b"\x10\x01\x42\x01w\x4a\x04abcd"
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    (weight,) = weights_of(b"\x3a" + bytes([len(graph)]) + graph)
    assert (weight.name, weight.dims, weight.type) == ("w", (2, 300), 1)


def test_a_session_of_a_stored_file_answers_the_same_bits(tmp_path: Path) -> None:
    path = tiny(tmp_path / "m.pvw")
    picture = {"pixels": photo(*SIZE)[None]}
    plain = open_session(tmp_path / "m.onnx", Target())
    rebuilt = open_session(path, Target())
    for name, answer in plain.run(picture).items():
        np.testing.assert_array_equal(rebuilt.run(picture)[name], answer)
    assert rebuilt.inputs == plain.inputs
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VerificationError, match=r"m\.pvw: the stored weights are damaged"):
        open_session(path, Target())


def test_damage_makes_a_file_that_opens_and_answers_otherwise(tmp_path: Path) -> None:
    path, picture = tiny(tmp_path / "m.pvw"), {"pixels": photo(*SIZE)[None]}
    before = open_session(path, Target()).run(picture)["probs_fine"]
    damage([path])
    assert not is_stored(path)
    assert np.abs(open_session(path, Target()).run(picture)["probs_fine"] - before).max() > 1e-3


def test_a_stored_file_may_read_no_other(tmp_path: Path) -> None:
    model = onnx.load(classify_onnx(tmp_path / "m.onnx"))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="beside.bin", size_threshold=0)
    pack((tmp_path / "m.onnx").read_bytes(), [], tmp_path / "m.pvw")
    with pytest.raises(VerificationError, match=r"reads 'beside\.bin'"):
        open_session(tmp_path / "m.pvw", Target())
    pack(b"no model at all", [], tmp_path / "n.pvw")
    with pytest.raises(VerificationError, match="cannot open it"):
        open_session(tmp_path / "n.pvw", Target())
