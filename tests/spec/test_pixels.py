"""What files declare about their samples, colours and orientation is honoured, or is a DataError with their name."""

from __future__ import annotations

import io
import logging
import os
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from pocketvit.errors import DataError, MissingDependencyError
from pocketvit.spec.images import list_images, not_looked_at, read_image, write_image
from tests.bad_images import photo


def p3_profile() -> bytes:
    """LittleCMS's sRGB with the primaries of Display P3 (D50-adapted, as in Apple's profile)."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    primaries = {
        b"rXYZ": (0.51512, 0.2412, -0.00105),
        b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.1571, 0.06657, 0.78407),
    }
    for index in range(struct.unpack(">I", data[128:132])[0]):
        name, offset, _ = struct.unpack(">4sII", data[132 + 12 * index : 144 + 12 * index])
        if name in primaries:
            data[offset + 8 : offset + 20] = struct.pack(">3i", *(round(v * 65536) for v in primaries[name]))
    return bytes(data)


def tiff12(path: Path, value: int) -> Path:
    """A 4 x 4 grey TIFF with 12 bits a sample, all ``value``."""
    row = bytes([value >> 4, (value & 15) << 4 | value >> 8, value & 255]) * 2
    tags = [(256, 4), (257, 4), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 4), (279, 24)]
    body = b"".join(struct.pack("<HHII", tag, 4, 1, number) for tag, number in tags)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 32) + row * 4 + struct.pack("<H", len(tags)) + body + bytes(4))
    return path


@pytest.mark.parametrize(("value", "level"), [(4095, 255), (0, 0), (2048, 128)])
def test_white_of_twelve_bits_is_white(tmp_path: Path, value: int, level: int) -> None:
    assert (read_image(tiff12(tmp_path / "t.tif", value)) == level).all()


def test_integers_of_32_bits_need_a_declared_white(tmp_path: Path) -> None:
    grey = Image.fromarray(np.array([[0, 100, 200]], np.int32))
    grey.save(tmp_path / "t.tif")
    with pytest.raises(DataError, match=r"t\.tif.*32-bit"):
        read_image(tmp_path / "t.tif")
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[341] = 200
    tags.tagtype[341] = 4
    grey.save(tmp_path / "said.tif", tiffinfo=tags)
    assert read_image(tmp_path / "said.tif")[0, :, 0].tolist() == [0, 128, 255]


def test_float_files_lie_between_0_and_1(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    for name, samples in {"ok": values, "big": values * 255, "nan": np.where(values > 0.5, np.nan, values)}.items():
        Image.fromarray(samples.astype(np.float32)).save(tmp_path / f"{name}.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "ok.tif")[..., 1], np.round(values * 255))
    for name in ("big", "nan"):
        with pytest.raises(DataError, match=rf"{name}\.tif"):
            read_image(tmp_path / f"{name}.tif")


def test_a_transparent_sample_of_16_bits_is_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257, 514]], np.uint16)).save(tmp_path / "i16.png", transparency=0)
    assert read_image(tmp_path / "i16.png")[0, :, 0].tolist() == [255, 1, 2]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16", "CMYK"])
def test_orientation_holds_for_raw_tiffs_of_every_mode(tmp_path: Path, mode: str, orientation: int) -> None:
    grey = photo(20, 31)[..., 0]
    upright = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    upright.save(tmp_path / "plain.tif")
    upright.save(tmp_path / "turned.tif", exif=_exif(orientation))
    turned = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1)}
    turned |= {6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a)}
    expected = turned[orientation](read_image(tmp_path / "plain.tif"))
    np.testing.assert_array_equal(read_image(tmp_path / "turned.tif"), expected)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_pillows_own_for_large_pictures(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    Image.fromarray(photo(1100, 1300)).save(tmp_path / "a.png", exif=_exif(orientation), compress_level=1)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.asarray(ImageOps.exif_transpose(image)))


def test_profiles_are_converted_said_and_written_as_srgb(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pocketvit.images")
    picture, p3 = Image.fromarray(photo(20, 30)), p3_profile()
    picture.save(tmp_path / "p3.png", icc_profile=p3)
    source, target = ImageCms.ImageCmsProfile(io.BytesIO(p3)), ImageCms.createProfile("sRGB")
    shown = np.asarray(ImageCms.profileToProfile(picture, source, target))
    assert np.abs(shown.astype(int) - photo(20, 30)).max() > 10
    np.testing.assert_array_equal(read_image(tmp_path / "p3.png"), shown)
    assert "to sRGB" in caplog.text
    write_image(tmp_path / "out.png", shown)
    assert Image.open(tmp_path / "out.png").info["srgb"] == 0


def test_an_srgb_profile_changes_nothing_and_a_broken_one_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pocketvit.images")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(photo(20, 30)).save(tmp_path / "a.png", icc_profile=srgb)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), photo(20, 30))
    assert not caplog.records
    Image.fromarray(photo(20, 30)).save(tmp_path / "b.png", icc_profile=b"no profile" * 20)
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), photo(20, 30))
    assert "cannot be used" in caplog.text


def test_eps_starts_no_program_and_pipes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    Image.fromarray(photo(20, 30)).save(tmp_path / "e.png", format="EPS")
    with pytest.raises(DataError, match=r"e\.png.*not an image"):
        read_image(tmp_path / "e.png")
    assert not (tmp_path / "started").exists()
    os.mkfifo(tmp_path / "f.png")
    for path in (tmp_path / "f.png", Path("/dev/zero")):
        with pytest.raises(DataError, match="device or pipe"):
            read_image(path)


def test_a_truncated_pillow_image_is_a_data_error(tmp_path: Path) -> None:
    Image.fromarray(photo()).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:1500])
    with pytest.raises(DataError, match="truncated"):
        read_image(Image.open(tmp_path / "cut.jpg"))


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, struct.error, KeyError])
def test_whatever_a_decoder_raises_is_about_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(self: Image.Image) -> None:
        raise error("inside")

    Image.fromarray(photo()).save(tmp_path / "a.png")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load_prepare", fail)
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded"):
        read_image(tmp_path / "a.png")


def test_heic_needs_its_extra_and_uses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heic = tmp_path / "a.heic"
    heic.write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MissingDependencyError, match=r"(?s)a\.heic.*pocketvit\[heif\]"):
        read_image(heic)

    def register() -> None:
        Image.register_open("HEIF", lambda file, name: Image.fromarray(photo(8, 9)), lambda head: head[4:8] == b"ftyp")

    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register))
    try:
        np.testing.assert_array_equal(read_image(heic), photo(8, 9))
    finally:
        Image.OPEN.pop("HEIF", None)
        if "HEIF" in Image.ID:
            Image.ID.remove("HEIF")


def test_linked_folders_are_listed_and_loops_end(tmp_path: Path) -> None:
    for name in ("pool/x/1.png", "in/c/2.png", "in/notes.txt", "in/c/v.mov", "in/c/w.mov"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "in" / "a").symlink_to(tmp_path / "pool" / "x")
    (tmp_path / "in" / "c" / "loop").symlink_to(tmp_path / "in")
    assert [str(p.relative_to(tmp_path / "in")) for p in list_images(tmp_path / "in")] == ["a/1.png", "c/2.png"]
    assert not_looked_at(tmp_path / "in") == ["3 files were not looked at: 2 .mov, 1 .txt"]
