"""Seeded damage to bytes: the same generator gives the same damage."""

from __future__ import annotations

import numpy as np

HEADER = 64
EXTREMES = (b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\x00\x00\x00\x01")


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One kind of damage: flipped bytes, a cut, bytes put in, or an extreme value in a field of the header."""
    kind, place = int(rng.integers(4)), int(rng.integers(len(data)))
    changed = bytearray(data)
    if kind == 0:
        for index in rng.integers(len(data), size=rng.integers(1, 9)):
            changed[index] ^= int(rng.integers(1, 256))
    elif kind == 1:
        del changed[place:]
    elif kind == 2:
        changed[place:place] = rng.bytes(int(rng.integers(1, 65)))
    else:
        start = place % min(HEADER, len(data))
        changed[start : start + 4] = EXTREMES[int(rng.integers(len(EXTREMES)))]
    return bytes(changed)
