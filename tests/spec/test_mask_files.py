"""Masks as files: every way in which tools store class indices, and what is no mask."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvit.errors import DataError
from pocketvit.spec.mask_files import read_mask, unknown_class
from tests.segment_net import palette_png

MASK = np.array([[0, 1, 2], [2, 255, 0]], np.uint8)


def grey_png(path: Path, rows: list[bytes], bits: int, width: int) -> Path:
    """A grey PNG of few bits, which Pillow reads and does not write: ``rows`` are packed pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, 0, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    path.write_bytes(content)
    return path


def test_grey_and_palette_hold_the_same_indices(tmp_path: Path) -> None:
    Image.fromarray(MASK).save(tmp_path / "grey.png")
    palette_png(tmp_path / "palette.png", MASK)
    for name in ("grey.png", "palette.png"):
        found = read_mask(tmp_path / name)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, MASK)


def test_few_bits_are_indices_and_not_shades(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_mask(grey_png(tmp_path / "1.png", [b"\xa0"], 1, 3)), [[1, 0, 1]])
    np.testing.assert_array_equal(read_mask(grey_png(tmp_path / "2.png", [b"\x1b"], 2, 4)), [[0, 1, 2, 3]])
    np.testing.assert_array_equal(read_mask(grey_png(tmp_path / "4.png", [b"\x07\xf0"], 4, 4)), [[0, 7, 15, 0]])
    binary = Image.fromarray(np.array([[0, 1], [1, 1]], bool))
    binary.save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "b.png"), [[0, 1], [1, 1]])


@pytest.mark.parametrize(
    ("pixels", "named"),
    [
        (np.zeros((4, 5, 3), np.uint8), r"colours \(3 channels\), and no class indices"),
        (np.zeros((4, 5, 4), np.uint8), r"colours \(4 channels\)"),
        (np.zeros((4, 5), np.uint16), "more than 8 bits"),
    ],
)
def test_pictures_are_no_masks(tmp_path: Path, pixels: np.ndarray, named: str) -> None:
    Image.fromarray(pixels).save(tmp_path / "m.png")
    with pytest.raises(DataError, match=rf"m\.png: .*{named}") as caught:
        read_mask(tmp_path / "m.png")
    assert "8-bit PNG" in caught.value.todo


def test_what_is_stored_with_loss_is_no_mask_whatever_it_is_called(tmp_path: Path) -> None:
    Image.fromarray(MASK).save(tmp_path / "m.png", format="JPEG")
    with pytest.raises(DataError, match="is JPEG, which changes values"):
        read_mask(tmp_path / "m.png")


def test_a_colour_that_is_transparent_is_an_index_as_any_other(tmp_path: Path) -> None:
    image = Image.open(palette_png(tmp_path / "p.png", MASK))
    image.save(tmp_path / "m.png", transparency=bytes([0, 128, 255]))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), MASK)


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    palette_png(tmp_path / "m.png", np.zeros((64, 64), np.uint8))
    (tmp_path / "m.png").write_bytes((tmp_path / "m.png").read_bytes()[:-40])
    for name in ("m.png", "n.png"):
        with pytest.raises(DataError, match=name.replace(".", r"\.")):
            read_mask(tmp_path / name)


def test_classes_beyond_the_list_are_told_and_ignored_ones_are_not() -> None:
    assert unknown_class(MASK, 3) == ""
    assert unknown_class(MASK, 2) == "holds class 2 (33 % of its pixels beyond 1), of 2 classes"
