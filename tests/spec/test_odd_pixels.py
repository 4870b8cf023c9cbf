"""Every mode and format upright, white as the file has it, colours before transparency: what few files need."""

from __future__ import annotations

import logging
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from pocketvit.spec.images import IMAGE_SUFFIXES, list_images, not_looked_at, read_image
from tests.bad_images import photo
from tests.icc import SRGB, cmyk_profile, grey_profile, rgb_profile
from tests.tiff import write_tiff

GREEN = np.full((8, 10, 3), (0, 200, 0), np.uint8)
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
    8: np.rot90,
}


def read(image: Image.Image, file: Path, **options: object) -> np.ndarray:
    image.save(file, **options)
    return read_image(file)


def exif_of(turn: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = turn
    return exif


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_every_mode_is_upright_also_where_the_caller_opened_the_file(tmp_path: Path, mode: str) -> None:
    source, file = photo(32, 48), tmp_path / "a.tif"
    if mode in ("I;16", "F"):
        image = Image.fromarray(source[..., 0] / np.float32(255) if mode == "F" else source[..., 0] * np.uint16(9))
    else:
        image = Image.fromarray(source).convert(mode)
    upright = read(image, file)
    for turn, expected in TURNS.items():
        for compression in ("raw", "tiff_lzw"):
            pixels = read(image, file, exif=exif_of(turn), compression=compression)
            np.testing.assert_array_equal(pixels, expected(upright), f"{compression}, {turn}")
            with Image.open(file) as lazy:
                np.testing.assert_array_equal(read_image(lazy), expected(upright), f"opened by Pillow, {turn}")
                assert lazy.filename == str(file)


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES - {".gif", ".bmp", ".ppm", ".pgm"}))
def test_every_format_that_can_be_turned_is_upright(tmp_path: Path, suffix: str) -> None:
    for turn, expected in TURNS.items():
        pixels = read(Image.fromarray(photo(32, 48)), tmp_path / f"a{suffix}", exif=exif_of(turn), quality=95)
        assert pixels.shape == expected(photo(32, 48)).shape
        assert np.abs(pixels.astype(int) - expected(photo(32, 48))).mean() < 6  # some formats lose a little


def test_a_real_heic_is_upright_and_srgb(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    file, picture = tmp_path / "a.heic", Image.fromarray(photo(64, 96))
    exif = exif_of(6).tobytes()
    pixels = read(picture, file, exif=exif, quality=95).astype(int)
    assert pixels.shape == (96, 64, 3)
    assert np.abs(pixels - TURNS[6](photo(64, 96))).mean() < 6
    assert list_images(tmp_path) == [file]
    pixels = read(Image.fromarray(np.full((64, 96, 3), (0, 200, 0), np.uint8)), file, icc_profile=rgb_profile())
    assert np.abs(pixels.astype(int) - (0, 204, 0)).max() <= 6


def test_damaged_exif_costs_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = exif_of(6).tobytes()
    for cut in range(7, len(content), 3):
        assert sorted(read(Image.fromarray(photo()), tmp_path / "a.png", exif=content[:cut]).shape) == [3, 96, 128]

    def fail(self: Image.Image) -> None:
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(Image.Image, "getexif", fail)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), photo())


def test_twelve_bits_in_sixteen_are_white_where_the_file_says_so(tmp_path: Path) -> None:
    ramp = np.linspace(0, 4095, 40).round().astype(np.uint16).reshape(4, 10)
    file = tmp_path / "a.tif"
    for tag in (281, 341):
        pixels = read_image(write_tiff(file, ramp, {tag: 4095}))
        np.testing.assert_array_equal(pixels[..., 0], np.round(ramp / 4095 * 255))
    for tags in ({}, {341: 4000}, {281: 65535}):  # a maximum of this picture alone makes it no brighter
        np.testing.assert_array_equal(read_image(write_tiff(file, ramp, tags))[..., 0], np.round(ramp / 257))
    np.testing.assert_array_equal(read_image(write_tiff(file, ramp, {262: 0}))[..., 0], 255 - np.round(ramp / 257))


def test_colours_are_converted_before_white_shines_through(tmp_path: Path) -> None:
    half = np.dstack([GREEN, np.full(GREEN.shape[:2], 128, np.uint8)])
    pixels = read(Image.fromarray(half), tmp_path / "a.png", icc_profile=rgb_profile()).astype(int)
    assert np.abs(pixels - [127, 229, 127]).max() <= 1  # sRGB (0, 204, 0) over white
    grey = Image.fromarray(np.full((4, 6, 2), (128, 100), np.uint8))
    assert grey.mode == "LA"
    value, alpha = grey.getpixel((0, 0))
    light = (1.055 * (value / 255) ** (1 / 2.4) - 0.055) * 255  # linear light as sRGB
    pixels = read(grey, tmp_path / "b.png", icc_profile=grey_profile(1)).astype(int)
    assert np.abs(pixels - (light * alpha / 255 + 255 - alpha)).max() <= 1


def test_palettes_and_srgb_of_another_writer(tmp_path: Path) -> None:
    pixels = read(Image.fromarray(GREEN).quantize(4), tmp_path / "p.png", icc_profile=rgb_profile())
    assert pixels[0, 0].tolist() == [0, 204, 0]
    pixels = read(Image.fromarray(photo()), tmp_path / "a.png", icc_profile=rgb_profile(SRGB))
    np.testing.assert_array_equal(pixels, photo())


def test_inks_are_converted_by_their_profile(tmp_path: Path) -> None:
    inks = Image.frombytes("CMYK", (2, 1), bytes([255, 0, 0, 0, 0, 0, 0, 255]))
    assert read(inks, tmp_path / "a.tif").tolist() == [[[0, 255, 255], [0, 0, 0]]]
    pixels = read(inks, tmp_path / "a.tif", icc_profile=cmyk_profile())
    lab = Image.frombytes("LAB", (1, 1), bytes([round(50 * 2.55), 256 - 60, 0]))
    ends = (ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"))
    cyan = ImageCms.profileToProfile(lab, *ends, outputMode="RGB")
    assert np.abs(pixels[0, 0] - np.asarray(cyan, int)[0, 0]).max() <= 3
    assert pixels[0, 1].max() < 5


@pytest.mark.parametrize("profile", [rgb_profile()[:300], grey_profile(1), cmyk_profile()])
def test_a_profile_that_is_broken_or_of_another_kind_is_ignored(tmp_path: Path, profile: bytes) -> None:
    np.testing.assert_array_equal(read(Image.fromarray(GREEN), tmp_path / "a.png", icc_profile=profile), GREEN)


def test_further_frames_are_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pocketvit.images")
    frames = [Image.fromarray(photo(8, 8, seed)) for seed in (1, 2)]
    read(frames[0], tmp_path / "a.gif")
    assert not caplog.records
    first = read(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert "a.gif: has several frames; the first is taken." in caplog.text
    np.testing.assert_array_equal(first, np.asarray(Image.open(tmp_path / "a.gif").convert("RGB")))


def test_what_is_no_file_is_not_looked_at_and_heic_is_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.heic", "b.jpg", "noext", "pocketvit-quarantine.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "nowhere.jpg").symlink_to("none")
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (line,) = not_looked_at(tmp_path)
    assert line.startswith("4 files were not looked at: 1 .heic, 1 .jpg, 1 .png, 1 without suffix (pip install ")
    monkeypatch.setitem(sys.modules, "pillow_heif", types.ModuleType("pillow_heif"))
    assert [path.name for path in list_images(tmp_path)] == ["a.heic", "b.jpg"]
    assert not_looked_at(tmp_path) == ["3 files were not looked at: 1 .jpg, 1 .png, 1 without suffix"]
