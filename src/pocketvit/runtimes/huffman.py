"""Canonical Huffman codes for bytes, decoded by NumPy: many short streams side by side, one symbol of each at a time.

A block holds the lengths of the code (canonical codes need no more: Schwartz and Kallick 1964), how many bits each
stream of ``RUN`` symbols has, and the streams behind each other, highest bit first. No code is longer than
``MOST_BITS`` (package-merge: Larmore and Hirschberg 1990), so that one table of 4,096 entries decodes a symbol.

    byte 0                     size of the alphabet less 1
    half a byte each           length of each symbol's code, 0 where it does not occur; the first in the high half
    two bytes each             bits of each stream, little-endian
    the rest                   the streams, the last byte filled up with zeros

Where only one symbol occurs, its length is 1 and nothing follows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

MOST_BITS = 12
RUN = 512
"""Symbols of a stream: two bytes for its length are less than 0.04 bits a symbol."""
_GROUP = 4096
"""Streams that are decoded at a time, which bounds the memory: about 12 bytes for each of their symbols."""
_CHUNK = RUN * 2048
"""Symbols that are written at a time, for the same reason."""


def encode(symbols: Bytes) -> bytes:
    """The block of (N,) uint8 symbols, N at least 1."""
    lengths = code_lengths(np.bincount(symbols))
    padded = np.zeros(len(lengths) + len(lengths) % 2, np.uint8)
    padded[: len(lengths)] = lengths
    head = bytes([len(lengths) - 1]) + (padded[::2] << 4 | padded[1::2]).tobytes()
    if np.count_nonzero(lengths) == 1:
        return head
    runs = np.add.reduceat(lengths[symbols].astype(np.int64), np.arange(0, len(symbols), RUN))
    return head + runs.astype("<u2").tobytes() + _streams(symbols, lengths, int(runs.sum()))


def _streams(symbols: Bytes, lengths: Integers, total: int) -> bytes:
    """The codes of all symbols behind each other."""
    order, spans = _canonical(lengths)
    codes = np.zeros(len(lengths), np.int64)
    codes[order] = (np.cumsum(spans) - spans) >> (MOST_BITS - lengths[order])
    out, bit = np.zeros(-(-total // 8) + 2, np.uint8), 0
    for first in range(0, len(symbols), _CHUNK):
        chunk = symbols[first : first + _CHUNK]
        sizes = lengths[chunk]
        ends = bit + np.cumsum(sizes)
        starts = ends - sizes
        low = bit // 8
        places, count = (starts >> 3) - low, int(ends[-1] - 1) // 8 - low + 3
        words = codes[chunk] << (24 - (starts & 7) - sizes)  # at most 7 + 12 bits: three bytes
        for byte in range(3):
            # No two codes share a bit, so that their sum is what is wanted.
            part = np.bincount(places + byte, weights=(words >> (16 - 8 * byte)) & 255, minlength=count)
            out[low : low + count] += part[:count].astype(np.uint8)[: len(out) - low]
        bit = int(ends[-1])
    return out[:-2].tobytes()


def code_lengths(counts: Integers) -> Integers:
    """Lengths of an optimal code of at most ``MOST_BITS`` for symbols that occur so often; 0 where one does not."""
    lengths = np.zeros(len(counts), np.int64)
    used = np.flatnonzero(counts)
    if len(used) == 1:
        lengths[used] = 1
        return lengths
    coins: list[tuple[int, tuple[int, ...]]] = sorted((int(counts[symbol]), (int(symbol),)) for symbol in used)
    packages = coins
    for _ in range(MOST_BITS - 1):
        pairs = [(a[0] + b[0], a[1] + b[1]) for a, b in zip(packages[::2], packages[1::2], strict=False)]
        packages = sorted([*coins, *pairs], key=lambda package: package[0])
    for _, symbols in packages[: 2 * len(used) - 2]:
        lengths += np.bincount(symbols, minlength=len(counts))
    return lengths


def _canonical(lengths: Integers) -> tuple[Integers, Integers]:
    """The symbols in the order of their codes, and how many entries of the table each takes."""
    used = np.flatnonzero(lengths)
    order = used[np.argsort(lengths[used], kind="stable")]
    return order, np.left_shift(1, MOST_BITS - lengths[order])


def decode(block: bytes | memoryview, count: int) -> Bytes:
    """The ``count`` symbols of a block, (count,) uint8; ``count`` is at least 1.

    Raises:
        ValueError: the block is not what :func:`encode` writes of so many symbols.
    """
    lengths, rest = _lengths_of(memoryview(block))
    used = np.flatnonzero(lengths)
    if len(used) == 1 and lengths[used[0]] == 1:
        if len(rest):
            raise ValueError("a code of one symbol is followed by bits")
        return np.full(count, used[0], np.uint8)
    if not len(used) or lengths.max() > MOST_BITS or (spans := _canonical(lengths)[1]).sum() != 1 << MOST_BITS:
        raise ValueError("the lengths of a code are those of no code")
    order = _canonical(lengths)[0]
    table = np.repeat(lengths[order] << 8 | order, spans)
    runs = -(-count // RUN)
    if len(rest) < 2 * runs:
        raise ValueError("the streams of a code are cut off")
    bits = np.frombuffer(rest[: 2 * runs], "<u2").astype(np.int64)
    ends, payload = np.cumsum(bits), rest[2 * runs :]
    if bits.max() > RUN * MOST_BITS or len(payload) != -(-int(ends[-1]) // 8):
        raise ValueError("the streams of a code have other lengths than stated")
    out = np.empty(count, np.uint8)
    for first in range(0, runs, _GROUP):
        part = out[first * RUN : (first + _GROUP) * RUN]
        own = slice(first, first + _GROUP)
        _lockstep(payload, ends[own] - bits[own], ends[own], table, part)
    return out


def _lengths_of(block: memoryview) -> tuple[Integers, memoryview]:
    """Lengths of the code, and what follows them."""
    size = block[0] + 1 if len(block) else 0
    half = (size + 1) // 2
    if not size or len(block) < 1 + half:
        raise ValueError("a code is cut off")
    packed = np.frombuffer(block[1 : 1 + half], np.uint8)
    return np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[:size].astype(np.int64), block[1 + half :]


def _lockstep(payload: memoryview, starts: Integers, ends: Integers, table: Integers, out: Bytes) -> None:
    """Decode streams that begin and end at these bits into ``out``; all but the last have ``RUN`` symbols.

    A stream moves on by at most ``RUN * MOST_BITS`` bits, whatever it holds: so much is put behind the last one.
    """
    low, high = int(starts[0]) // 8, -(-int(ends[-1]) // 8)
    data = np.zeros(high - low + RUN * MOST_BITS // 8 + 4, np.int64)
    data[: high - low] = np.frombuffer(payload[low:high], np.uint8)
    words = data[:-2] << 16 | data[1:-1] << 8 | data[2:]
    reached = starts - 8 * low
    position, place, entry = reached, np.empty_like(reached), np.empty_like(reached)
    last = len(out) - RUN * (len(starts) - 1)
    rows = np.empty((RUN, len(starts)), np.uint8)
    for step in range(RUN):
        if step == last:  # the last stream is at its end; views, so that ``reached`` goes on being filled
            position, place, entry = position[:-1], place[:-1], entry[:-1]
        np.right_shift(position, 3, out=place)
        np.take(words, place, out=entry, mode="clip")
        np.bitwise_and(position, 7, out=place)
        np.subtract(24 - MOST_BITS, place, out=place)
        np.right_shift(entry, place, out=entry)
        np.bitwise_and(entry, (1 << MOST_BITS) - 1, out=entry)
        np.take(table, entry, out=place, mode="clip")
        rows[step, : len(place)] = place.astype(np.uint8)  # the low byte
        np.right_shift(place, 8, out=place)
        np.add(position, place, out=position)
    if not np.array_equal(reached, ends - 8 * low):
        raise ValueError("a stream ends elsewhere than stated")
    out[:] = rows.T.reshape(-1)[: len(out)]
