from __future__ import annotations

import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pocketvit.errors import DataError, UsageError
from pocketvit.spec import depth_pictures
from pocketvit.spec.depth_pictures import INVALID_COLOUR, colored, intrinsics_of, write_depth_png, write_ply

LUMA = np.array([0.2126, 0.7152, 0.0722])


def read_png16(path: Path) -> list[list[int]]:
    """Rows of a 16-bit grey PNG: chunks, zlib and the five filters, and nothing of Pillow."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    place, data, width, height = 8, b"", 0, 0
    while place < len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        kind, body = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack(">I", content[place + 8 + length : place + 12 + length])[0]
        if kind == b"IHDR":
            width, height, *rest = struct.unpack(">IIBBBBB", body)
            assert rest == [16, 0, 0, 0, 0]  # 16 bit, grey, not interlaced
        data += body if kind == b"IDAT" else b""
        place += 12 + length
    raw, rows, before = zlib.decompress(data), [], [0] * (2 * width)
    for y in range(height):
        line = raw[y * (2 * width + 1) : (y + 1) * (2 * width + 1)]
        before = unfiltered(line[0], list(line[1:]), before)
        rows.append([before[2 * x] * 256 + before[2 * x + 1] for x in range(width)])
    return rows


def unfiltered(kind: int, line: list[int], above: list[int]) -> list[int]:
    """One row of bytes with PNG's filter ``kind`` taken back; two bytes a pixel."""
    done: list[int] = []
    for i, value in enumerate(line):
        a, b, c = done[i - 2] if i > 1 else 0, above[i], above[i - 2] if i > 1 else 0
        paeth = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
        done.append((value + (0, a, b, (a + b) // 2, paeth)[kind]) % 256)
    return done


def read_ply(path: Path) -> list[tuple[float, float, float, int, int, int]]:
    """Points of a PLY by its header."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    lines = head.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    count = int(lines[2].removeprefix("element vertex "))
    kinds = {"float": "f", "uchar": "B"}
    form = "<" + "".join(kinds[line.split()[1]] for line in lines[3:])
    assert [line.split()[2] for line in lines[3:]] == ["x", "y", "z", "red", "green", "blue"]
    assert len(body) == count * struct.calcsize(form)
    return list(struct.iter_unpack(form, body))


def test_near_is_bright_and_warm_and_far_is_dark() -> None:
    assert (np.diff(depth_pictures._COLOURS @ LUMA) > 5).all()
    picture = colored(np.linspace(1, 5, 200, dtype=np.float32)[None], 1, 5)
    assert (picture.shape, picture.dtype) == ((1, 200, 3), np.uint8)
    light = picture[0] @ LUMA
    assert (np.diff(light[::4]) < 0).all()
    assert light[0] > 240
    assert light[-1] < 20
    assert picture[0, 20, 0] > picture[0, 20, 2] + 100  # red above blue
    assert picture[0, 180, 0] < picture[0, 180, 2]


def test_every_depth_has_a_colour_of_its_own() -> None:
    picture = colored(np.linspace(1, 5, 100, dtype=np.float32)[None], 1, 5)
    assert len(np.unique(picture[0], axis=0)) == 100
    assert np.abs(np.diff(picture[0].astype(int), axis=0)).max() <= 9  # and no jumps


def test_invalid_pixels_are_grey_and_do_not_set_the_range() -> None:
    depth = np.array([[0.0, np.nan, -3.0, np.inf, 2.0, 4.0]], np.float32)
    picture = colored(depth, 2, 4)
    assert [tuple(pixel) for pixel in picture[0, :4]] == [INVALID_COLOUR] * 4
    assert picture[0, 4:].tolist() == [[252, 255, 164], [16, 9, 45]]
    assert (colored(np.zeros((3, 4))) == INVALID_COLOUR).all()
    assert not (np.unique(colored(np.linspace(1, 5, 999)[None])[0], axis=0) == INVALID_COLOUR).all(1).any()


def test_a_few_wild_pixels_do_not_set_the_range() -> None:
    depth = np.tile(np.linspace(1, 5, 1000, dtype=np.float32), (4, 1))
    wild = depth.copy()
    wild[0, :10] = 5000.0
    difference = np.abs(colored(wild)[1:].astype(int) - colored(depth)[1:].astype(int))
    assert difference.max() <= 12


def test_beyond_the_range_is_the_colour_at_its_end() -> None:
    picture = colored(np.array([[0.1, 1.0, 5.0, 90.0]]), 1, 5)
    assert picture[0, 0].tolist() == picture[0, 1].tolist()
    assert picture[0, 3].tolist() == picture[0, 2].tolist()


def test_a_constant_map_has_one_colour() -> None:
    assert len(np.unique(colored(np.full((3, 3), 2.0)).reshape(-1, 3), axis=0)) == 1
    assert colored(np.full((1, 1), 2.0), low=3.0)[0, 0].tolist() == [252, 255, 164]  # nearer than all that is asked for
    assert colored(np.full((1, 1), 2.0), high=1.0)[0, 0].tolist() == [16, 9, 45]


@pytest.mark.parametrize(("low", "high"), [(3, 2), (2, 2), (math.nan, 2), (1, math.inf)])
def test_a_range_without_an_inside_is_refused(low: float, high: float) -> None:
    with pytest.raises(UsageError, match="the range"):
        colored(np.ones((2, 2)), low, high)


@pytest.mark.parametrize("depth", [np.ones(3), np.ones((2, 2, 1)), np.ones((0, 4)), np.array([["a"]])])
def test_what_is_no_depth_map_is_refused(depth: NDArray[np.float64], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no depth map"):
        colored(depth)
    with pytest.raises(DataError, match="is no depth map"):
        write_depth_png(tmp_path / "a.png", depth)
    assert not list(tmp_path.iterdir())


def test_png_holds_millimetres(tmp_path: Path) -> None:
    depth = np.array([[0.0, 1.2344, 1.2346, np.nan], [65.535, 70.0, 1e9, np.inf], [-1, 0.0001, 0.001, 9.9999]])
    assert write_depth_png(tmp_path / "new" / "d.png", depth) == 2
    stored = [[0, 1234, 1235, 0], [65535, 65535, 65535, 0], [0, 1, 1, 10000]]
    assert read_png16(tmp_path / "new" / "d.png") == stored


def test_png_of_a_whole_map_reads_back(tmp_path: Path) -> None:
    depth = np.random.default_rng(0).uniform(0.5, 60, (37, 53)).astype(np.float32)
    assert write_depth_png(tmp_path / "d.PNG", depth) == 0
    found = np.array(read_png16(tmp_path / "d.PNG")) / 1000
    assert np.abs(found - depth).max() <= 0.000501


def test_png_does_not_overwrite_where_it_must_not(tmp_path: Path) -> None:
    (tmp_path / "d.png").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"d\.png: cannot be written"):
        write_depth_png(tmp_path / "d.png", np.ones((2, 2)), overwrite=False)
    assert (tmp_path / "d.png").read_bytes() == b"mine"
    with pytest.raises(DataError, match="is written as PNG"):
        write_depth_png(tmp_path / "d.jpg", np.ones((2, 2)))


def test_points_by_hand(tmp_path: Path) -> None:
    depth = np.array([[2.0, 0.0, 4.0], [np.nan, 1.0, -1.0]], np.float32)
    image = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    assert write_ply(tmp_path / "p.ply", depth, image, 2.0, 4.0, 1.0, 0.5) == 3
    assert read_ply(tmp_path / "p.ply") == [
        (-1.0, -0.25, 2.0, 0, 1, 2),
        (2.0, -0.5, 4.0, 6, 7, 8),
        (0.0, 0.125, 1.0, 12, 13, 14),
    ]


def test_points_go_back_to_their_pixels(tmp_path: Path) -> None:
    depth = np.random.default_rng(1).uniform(0.5, 8, (30, 40)).astype(np.float32)
    image = np.random.default_rng(2).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    fx, fy, cx, cy = intrinsics_of(40, 30, 62.0)
    assert write_ply(tmp_path / "p.ply", depth, image, fx, fy, cx, cy) == 1200
    points = np.array(read_ply(tmp_path / "p.ply"))
    columns, rows = points[:, 0] / points[:, 2] * fx + cx, points[:, 1] / points[:, 2] * fy + cy
    assert np.abs(rows - np.repeat(np.arange(30), 40)).max() < 1e-4
    assert np.abs(columns - np.tile(np.arange(40), 30)).max() < 1e-4
    assert (points[:, 3:] == image.reshape(-1, 3)).all()


def test_the_field_of_view_is_the_angle_between_the_outer_edges() -> None:
    fx, fy, cx, cy = intrinsics_of(640, 480, 90)
    assert (fx, fy, cx, cy) == pytest.approx((320, 320, 319.5, 239.5))
    for fov in (20.0, 58.5, 120.0):
        fx, *_ = intrinsics_of(640, 480, fov)
        assert 2 * math.degrees(math.atan(320 / fx)) == pytest.approx(fov)


def test_the_kinects_camera_is_known() -> None:
    """7-Scenes states a focal length of 585 pixels for 640 columns."""
    assert intrinsics_of(640, 480, 57.36)[0] == pytest.approx(585, abs=0.5)


@pytest.mark.parametrize(("width", "height", "fov"), [(640, 480, 0), (640, 480, 180), (0, 480, 60), (6, 4, math.nan)])
def test_no_such_camera(width: int, height: int, fov: float) -> None:
    with pytest.raises(UsageError):
        intrinsics_of(width, height, fov)


def test_points_that_cannot_be_made_are_refused(tmp_path: Path) -> None:
    depth, image, path = np.ones((2, 3)), np.zeros((2, 3, 3), np.uint8), tmp_path / "p.ply"
    with pytest.raises(DataError, match="no pixel of the depth map has a depth"):
        write_ply(path, np.zeros((2, 3)), image, 1, 1, 0, 0)
    for other in (image[:1], image.astype(np.float32), image[..., :1]):
        with pytest.raises(DataError, match="has no colours in an image of"):
            write_ply(path, depth, other, 1, 1, 0, 0)
    for camera in ((0, 1, 0, 0), (1, -1, 0, 0), (math.nan, 1, 0, 0), (1, 1, math.inf, 0)):
        with pytest.raises(UsageError, match="are no camera"):
            write_ply(path, depth, image, *camera)
    with pytest.raises(DataError, match="written as PLY"):
        write_ply(tmp_path / "p.obj", depth, image, 1, 1, 0, 0)
    assert list(tmp_path.iterdir()) == []


def test_points_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    depth, image, path = np.ones((2, 3)), np.zeros((2, 3, 3), np.uint8), tmp_path / "p.ply"
    path.write_bytes(b"old")

    def fail(count: int) -> bytes:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(depth_pictures, "_header", fail)
    with pytest.raises(DataError, match="No space left"):
        write_ply(path, depth, image, 1, 1, 0, 0)
    assert [file.name for file in tmp_path.iterdir()] == ["p.ply"]
    assert path.read_bytes() == b"old"
    monkeypatch.undo()
    with pytest.raises(DataError, match="cannot be written"):
        write_ply(path, depth, image, 1, 1, 0, 0, overwrite=False)
    assert path.read_bytes() == b"old"
    assert write_ply(path, depth, image, 1, 1, 0, 0) == 6
