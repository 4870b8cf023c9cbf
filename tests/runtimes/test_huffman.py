"""Huffman blocks: what goes in comes out, near the entropy, and nothing else comes out of damaged ones."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from pocketvit.runtimes import huffman
from pocketvit.runtimes.huffman import MOST_BITS, RUN, code_lengths, decode, encode


def drawn(alphabet: int, count: int, skew: float = 1.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, alphabet + 1) ** skew
    return rng.permutation(alphabet).astype(np.uint8)[rng.choice(alphabet, count, p=share / share.sum())]


def entropy_bits(symbols: np.ndarray) -> float:
    share = np.bincount(symbols) / len(symbols)
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


@pytest.mark.parametrize("alphabet", [1, 2, 3, 16, 17, 255, 256])
@pytest.mark.parametrize("count", [1, 2, 7, RUN - 1, RUN, RUN + 1, 3 * RUN + 5])
def test_symbols_come_back(alphabet: int, count: int) -> None:
    symbols = drawn(alphabet, count)
    back = decode(encode(symbols), count)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, symbols)


def test_many_random_blocks_come_back() -> None:
    rng = np.random.default_rng(1)
    for seed in range(60):
        symbols = drawn(int(rng.integers(1, 257)), int(rng.integers(1, 4000)), float(rng.uniform(0, 6)), seed)
        np.testing.assert_array_equal(decode(encode(symbols), len(symbols)), symbols)


def test_groups_and_chunks_of_streams_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    symbols = drawn(40, 20 * RUN + 17)
    whole = encode(symbols)
    for chunk, group in ((RUN, 1), (3 * RUN, 4), (100 * RUN, 7)):
        monkeypatch.setattr(huffman, "_CHUNK", chunk)
        monkeypatch.setattr(huffman, "_GROUP", group)
        assert encode(symbols) == whole
        np.testing.assert_array_equal(decode(whole, len(symbols)), symbols)


@pytest.mark.parametrize(("alphabet", "skew"), [(2, 0.0), (16, 0.3), (16, 1.5), (256, 0.5), (256, 2.0)])
def test_a_block_is_about_as_long_as_the_entropy(alphabet: int, skew: float) -> None:
    symbols = drawn(alphabet, 100_000, skew)
    bits = 8 * len(encode(symbols)) / len(symbols)
    assert entropy_bits(symbols) <= bits < entropy_bits(symbols) + 0.14


def test_one_symbol_takes_no_bits() -> None:
    block = encode(np.full(1_000_000, 200, np.uint8))
    assert len(block) == 1 + 101
    assert (decode(block, 1_000_000) == 200).all()


def textbook_cost(counts: np.ndarray) -> int:
    """Bits of Huffman's own code, of any length."""
    heap, cost = [int(c) for c in counts if c], 0
    heapq.heapify(heap)
    while len(heap) > 1:
        pair = heapq.heappop(heap) + heapq.heappop(heap)
        cost += pair
        heapq.heappush(heap, pair)
    return cost


def test_lengths_are_optimal_and_limited() -> None:
    rng = np.random.default_rng(0)
    for size in (2, 5, 30):
        counts = rng.integers(1, 100, size)
        lengths = code_lengths(counts)
        assert np.sum(0.5**lengths) == 1
        assert int(np.sum(counts * lengths)) == textbook_cost(counts)
    many = rng.integers(1, 100, 256)  # Huffman's own has a code of 13 bits here
    assert textbook_cost(many) <= int(np.sum(many * code_lengths(many))) < 1.0001 * textbook_cost(many)
    fibonacci = [1, 1]
    while len(fibonacci) < 30:
        fibonacci.append(sum(fibonacci[-2:]))
    lengths = code_lengths(np.array(fibonacci))  # Huffman's own would be 29 bits long
    assert lengths.max() == MOST_BITS
    assert np.sum(0.5**lengths) == 1
    rare = code_lengths(np.array([0, 5, 0, 9]))
    assert rare.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("alphabet", [1, 16, 200])
def test_damaged_blocks_are_refused_or_give_as_many_symbols(alphabet: int) -> None:
    """A flipped bit may make other symbols, which the file's checksum is for; it never reads or writes elsewhere."""
    symbols = drawn(alphabet, 2 * RUN + 9)
    block = bytearray(encode(symbols))
    rng, refused = np.random.default_rng(0), 0
    for _ in range(300):
        changed = bytearray(block)
        changed[rng.integers(len(block))] ^= 1 << int(rng.integers(8))
        try:
            assert len(decode(bytes(changed), len(symbols))) == len(symbols)
        except ValueError:
            refused += 1
    assert refused > 20
    for cut in {0, 1, len(block) // 3, len(block) - 1}:
        with pytest.raises(ValueError):
            decode(bytes(block[:cut]), len(symbols))
    with pytest.raises(ValueError):
        decode(bytes(block) + b"\0", len(symbols))
    if alphabet > 1:
        with pytest.raises(ValueError):
            decode(bytes(block), len(symbols) + RUN)


@pytest.mark.parametrize("lengths", [b"\x01\x10", b"\x00\x00", b"\x01\x22", b"\x02\x11\x10", b"\x00\x50", b"\x01\xdd"])
def test_lengths_that_are_no_code_are_refused(lengths: bytes) -> None:
    with pytest.raises(ValueError, match="code"):
        decode(lengths + b"\x05\x00" + bytes(8), 5)
