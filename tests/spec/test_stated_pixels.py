"""What a file says of its samples and colours beside the pixels, and what is no image at all."""

from __future__ import annotations

import io
import logging
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvit.errors import DataError
from pocketvit.spec.images import read_image, write_image
from tests.bad_images import photo
from tests.tiff import write_tiff

COLOUR = 2
P3_PRIMARIES = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def one_row(file: Path, row: bytes, width: int, bits: int, kind: int, *chunks: bytes) -> Path:
    """A PNG of one row of samples, with chunks in front of them."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, kind, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0" + row))
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + data + chunk(b"IEND", b""))
    return file


@pytest.mark.parametrize(("bits", "row", "key"), [(1, b"\x40", 0), (2, b"\x10", 0), (2, b"\x4f", 1), (4, b"\x5f", 5)])
def test_the_transparent_grey_of_few_bits_is_white(tmp_path: Path, bits: int, row: bytes, key: int) -> None:
    width = 8 // bits
    samples = [row[0] >> (8 - bits * (i + 1)) & (2**bits - 1) for i in range(width)]
    file = one_row(tmp_path / "a.png", row, width, bits, 0, chunk(b"tRNS", struct.pack(">H", key)))
    expected = [255 if sample == key else sample * 255 // (2**bits - 1) for sample in samples]
    assert read_image(file)[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("chunks", "says"),
    [
        ([chunk(b"gAMA", struct.pack(">I", 100_000))], "of gamma 1"),
        (
            [chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))],
            "other primaries",
        ),
        ([chunk(b"cICP", bytes([9, 16, 0, 1]))], "code points 9-16"),
        ([chunk(b"gAMA", struct.pack(">I", 45_455))], ""),
        ([chunk(b"cICP", bytes([1, 13, 0, 1])), chunk(b"gAMA", struct.pack(">I", 100_000))], "of gamma 1"),
    ],
)
def test_colours_that_are_stated_without_a_profile_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, chunks: list[bytes], says: str
) -> None:
    caplog.set_level(logging.INFO, "pocketvit.images")
    assert read_image(one_row(tmp_path / "a.png", b"\x80\x40\x20", 1, 8, COLOUR, *chunks)).tolist() == [[[128, 64, 32]]]
    assert [says in text and "a.png" in text for text in caplog.messages] == ([True] if says else [])


def test_adobe_rgb_of_a_camera_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pocketvit.images")
    # IFD0 -> Exif IFD (40965) -> Interoperability IFD, whose index R03 is Adobe RGB.
    first = struct.pack("<HHHIII", 1, 0x8769, 4, 1, 26, 0)
    second = struct.pack("<HHHIII", 1, 0xA005, 4, 1, 44, 0)
    third = struct.pack("<HHHI4sI", 1, 1, 2, 4, b"R03\0", 0)
    Image.fromarray(photo(8, 8)).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0" + first + second + third)
    read_image(tmp_path / "a.jpg")
    assert ["Adobe RGB" in text for text in caplog.messages] == [True]


def test_signed_bytes_are_not_taken_for_unsigned_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.tif: has signed samples of 8 bits"):
        read_image(write_tiff(tmp_path / "a.tif", np.full((4, 4), -1, np.int8)))


def test_grey_with_premultiplied_alpha() -> None:
    picture = Image.merge("LA", [Image.new("L", (3, 2), 100), Image.new("L", (3, 2), 128)])
    np.testing.assert_allclose(read_image(picture.convert("La")), read_image(picture), atol=1)


def test_integers_without_a_range_are_refused() -> None:
    with pytest.raises(DataError, match="which of them is white"):
        read_image(Image.fromarray(np.full((4, 4), 200, np.int32)))


@pytest.mark.parametrize("source", [None, 5, [1, 2], io.BytesIO(b"x"), np.float64(1)])
def test_what_is_no_image_is_a_data_error_of_its_type(source: object) -> None:
    with pytest.raises(DataError, match=f"a {type(source).__name__} is not an image"):
        read_image(source)  # type: ignore[arg-type]


def test_bytes_are_a_path_and_odd_arrays_are_arrays(tmp_path: Path) -> None:
    rgb = photo(6, 9)
    write_image(tmp_path / "a.png", rgb)
    np.testing.assert_array_equal(read_image(os.fsencode(tmp_path / "a.png")), rgb)  # type: ignore[arg-type]
    np.testing.assert_array_equal(read_image(np.asmatrix(rgb[..., 0])), rgb[..., :1].repeat(3, 2))
    np.testing.assert_array_equal(read_image((rgb * np.uint16(257)).astype(">u2")), rgb)
    with pytest.raises(DataError, match="masked"):
        read_image(np.ma.masked_array(rgb, rgb > 100))


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.avif"])
def test_a_picture_that_a_format_cannot_hold_is_told_with_the_files_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"{name}.* cannot be written"):
        write_image(tmp_path / name, np.zeros((1, 70_000, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []
