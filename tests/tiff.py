"""Uncompressed TIFF files of any bits, for tests: Pillow reads more kinds than it writes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np


def write_tiff(path: Path, samples: np.ndarray, tags: dict[int, int] | None = None) -> Path:
    """Write (H, W) samples of 16 or 32 bits, signed, unsigned or float, with further tags that are one number."""
    bits, kind = samples.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    content, (height, width) = samples.astype(samples.dtype.newbyteorder("<")).tobytes(), samples.shape
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 0, 277: 1, 278: height, 279: len(content)}
    entries |= {339: kind} | (tags or {})
    entries[273] = 8 + 2 + 12 * len(entries) + 4
    rows = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items())]
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(rows)) + b"".join(rows) + bytes(4) + content)
    return path
