"""Photos are told to be the same by their pixels, in whatever files they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvit.data import pixel_copies
from pocketvit.data.collections import Collection, Item
from pocketvit.data.pixel_copies import copied_items
from pocketvit.spec.images import read_image, write_image
from tests.tiny import photo


def of(*items: Item) -> Collection:
    return Collection("c", "restore", "pairs", items, (), "train")


def saved(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def test_a_turned_jpeg_and_the_png_of_its_pixels_are_one_photo(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    original = saved(tmp_path / "o.jpg", photo(40, 56, seed=1), exif=exif)
    write_image(tmp_path / "c.png", read_image(original))
    other = saved(tmp_path / "n.png", photo(56, 40, seed=2))
    copy, new = Item(tmp_path / "c.png"), Item(other)
    assert copied_items(of(copy, new), of(Item(original))) == {copy}
    assert copied_items(of(new), of(Item(original))) == frozenset()


def test_a_pair_is_a_copy_by_its_clean_photo_too_and_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    clean, noisy = saved(tmp_path / "a.png", photo(40, 56)), saved(tmp_path / "b.png", photo(40, 56, seed=3))
    (tmp_path / "broken.png").write_bytes(b"no photo")
    write_image(tmp_path / "o.bmp", read_image(clean))
    pair, broken = Item(noisy, clean), Item(tmp_path / "broken.png")
    assert copied_items(of(pair, broken), of(Item(tmp_path / "o.bmp"), broken)) == {pair}


def test_photos_of_other_sizes_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = saved(tmp_path / "a.png", photo(40, 56)), saved(tmp_path / "b.png", photo(41, 56))
    monkeypatch.setattr(pixel_copies, "read_image", None)
    assert copied_items(of(Item(here)), of(Item(there))) == frozenset()
