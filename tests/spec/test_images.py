from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvit.errors import DataError
from pocketvit.spec import images
from pocketvit.spec.images import list_images, read_image, write_image
from tests.bad_images import UNREADABLE, photo, write_bad_images


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_bad_images(tmp_path_factory.mktemp("bad"), huge=False)


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_files_are_data_errors_that_name_the_file(bad: dict[str, Path], name: str) -> None:
    with pytest.raises(DataError) as caught:
        read_image(bad[name])
    assert str(bad[name]) in caught.value.what
    assert caught.value.exit_code == 3


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="is a folder"):
        read_image(tmp_path)


def test_png_is_read_exactly_whatever_its_suffix(bad: dict[str, Path]) -> None:
    np.testing.assert_array_equal(read_image(bad["mislabelled"]), photo())


def test_one_pixel(bad: dict[str, Path]) -> None:
    assert read_image(str(bad["one_pixel"])).tolist() == [[[200, 100, 50]]]


def test_grey_has_three_equal_channels(bad: dict[str, Path]) -> None:
    pixels = read_image(bad["grey"])
    np.testing.assert_array_equal(pixels[..., 0], np.asarray(Image.fromarray(photo()).convert("L")))
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])


def test_sixteen_bit_grey_is_scaled_not_cut(bad: dict[str, Path]) -> None:
    expected = np.round(np.arange(96 * 128).reshape(96, 128) * 5 / 257)
    np.testing.assert_array_equal(read_image(bad["grey16"])[..., 1], expected)


def test_alpha_is_composited_over_white(bad: dict[str, Path]) -> None:
    pixels, source = read_image(bad["alpha"]).astype(int), photo().astype(int)
    assert (pixels[:, 0] == 255).all()
    assert np.abs(pixels[:, -1] - source[:, -1]).max() <= 1
    middle = 64
    alpha = int(np.linspace(0, 255, 128).astype(np.uint8)[middle])
    np.testing.assert_allclose(pixels[:, middle], source[:, middle] * alpha / 255 + 255 - alpha, atol=1.5)


def test_cmyk_and_animation(bad: dict[str, Path]) -> None:
    assert np.abs(read_image(bad["cmyk"]).astype(int) - photo()).mean() < 6  # JPEG
    assert (
        np.abs(read_image(bad["animated"]).astype(int) - photo(seed=1)).mean() < 20
    )  # palette of 256 colours, first frame


def test_exif_orientation_is_honoured(bad: dict[str, Path]) -> None:
    pixels = read_image(bad["exif_rotated"])
    assert pixels.shape == (128, 96, 3)
    assert np.abs(pixels.astype(int) - np.rot90(photo(), -1)).mean() < 6


def test_pixel_limit_is_checked_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (1000, 400)).save(tmp_path / "big.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 300_000)
    with pytest.raises(DataError, match="1000x400"):
        read_image(tmp_path / "big.png")
    assert Image.MAX_IMAGE_PIXELS is not None  # Pillow's own limit is as it was


def test_arrays_of_every_accepted_kind() -> None:
    rgb = photo(8, 9)
    np.testing.assert_array_equal(read_image(rgb), rgb)
    np.testing.assert_array_equal(read_image(rgb[..., 0])[..., 2], rgb[..., 0])
    np.testing.assert_array_equal(read_image(rgb[..., :1])[..., 1], rgb[..., 0])
    np.testing.assert_array_equal(read_image(rgb.astype(np.uint16) * 257), rgb)
    np.testing.assert_array_equal(read_image(rgb / 255.0), rgb)
    np.testing.assert_array_equal(read_image(np.dstack([rgb, np.full((8, 9), 255, np.uint8)])), rgb)
    flipped = read_image(rgb[:, ::-1])
    assert flipped.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(flipped, rgb[:, ::-1])
    np.testing.assert_array_equal(read_image(Image.fromarray(rgb)), rgb)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((4, 4, 2), np.uint8), "shape"),
        (np.zeros((4,), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.zeros((1, 4, 4, 3), np.uint8), "shape"),
        (np.full((4, 4, 3), np.nan), "NaN"),
        (np.full((4, 4, 3), np.inf), "NaN or infinity"),
        (np.full((4, 4, 3), 200.0), r"\[0, 1\]"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
    ],
)
def test_arrays_that_are_no_images(array: np.ndarray, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_image(array)


def test_write_and_read_back(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", photo(20, 30))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), photo(20, 30))
    write_image(tmp_path / "a.jpg", photo(20, 30))
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - photo(20, 30)).mean() < 8
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jpg", "a.png"]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        write_image(tmp_path / "a.unknown", photo(4, 4))
    with pytest.raises(DataError, match="cannot be written"):
        write_image(tmp_path / "file" / "a.png", photo(4, 4))
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_list_images(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/c.jpg", ".hidden/d.png", "notes.txt", ".e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [str(p.relative_to(tmp_path)) for p in list_images(tmp_path)] == ["a/c.jpg", "b.PNG"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image files"):
        list_images(tmp_path / "empty")
    with pytest.raises(DataError, match="no such folder"):
        list_images(tmp_path / "none")
