"""Colour profiles for tests, written byte by byte: RGB and grey by primaries and gamma, CMYK as a small table."""

from __future__ import annotations

import struct

import numpy as np

P3 = ((0.515102, 0.241182, -0.001050), (0.291965, 0.692236, 0.041881), (0.157153, 0.066574, 0.784378))
"""Display P3's primaries as XYZ, adapted to D50."""
SRGB = ((0.436041, 0.222485, 0.013920), (0.385113, 0.716905, 0.097067), (0.143046, 0.060610, 0.714171))
WHITE = (0.9642, 1.0, 0.8249)


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*values)


def _srgb_curve() -> bytes:
    x = np.linspace(0, 1, 1024)
    y = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return b"curv\0\0\0\0" + struct.pack(">I", 1024) + np.round(y * 65535).astype(">u2").tobytes()


def _profile(space: bytes, connection: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    description = b"desc\0\0\0\0" + struct.pack(">I", 2) + b"t\0" + bytes(78)
    tags = {b"desc": description, b"cprt": b"text\0\0\0\0none\0\0\0\0", b"wtpt": _xyz(WHITE), **tags}
    table, body = struct.pack(">I", len(tags)), b""
    start = 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    date = struct.pack(">6H", 2020, 1, 1, 0, 0, 0)
    size = struct.pack(">I", start + len(body))
    head = size + bytes(4) + b"\x02\x10\0\0" + kind + space + connection + date + b"acsp" + bytes(28) + _fixed(*WHITE)
    return head.ljust(128, b"\0") + table + body


def rgb_profile(primaries: tuple[tuple[float, ...], ...] = P3) -> bytes:
    """A display with sRGB's curve and these primaries; with ``SRGB`` another writer's sRGB."""
    names = (b"rXYZ", b"gXYZ", b"bXYZ")
    tags = {name: _xyz(value) for name, value in zip(names, primaries, strict=True)}
    return _profile(b"RGB ", b"XYZ ", b"mntr", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _srgb_curve()))


def grey_profile(gamma: float) -> bytes:
    """Grey of a gamma: 1 is linear light."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    return _profile(b"GRAY", b"XYZ ", b"mntr", {b"kTRC": curve})


def cmyk_profile() -> bytes:
    """Inks whose cyan is Lab (50, -60, 0), and whose black alone darkens all to Lab (0, 0, 0)."""
    grid = np.array(np.meshgrid(*[[0, 1]] * 4, indexing="ij")).reshape(4, -1).T  # c, m, y, k; k fastest
    light = (100 - 50 * grid[:, 0]) * (1 - grid[:, 3])
    a = -60 * grid[:, 0] * (1 - grid[:, 3])
    lab = np.stack([light * 255 / 100, a + 128, np.full(16, 128)], axis=1)
    identity = np.arange(256, dtype=np.uint8).tobytes()
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + identity * 4
    table += np.round(lab).astype(np.uint8).tobytes() + identity * 3
    return _profile(b"CMYK", b"Lab ", b"prtr", dict.fromkeys((b"A2B0", b"A2B1", b"A2B2"), table))
