from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvit.errors import DataError
from pocketvit.spec.depth_files import read_depth, same_view


def png(path: Path, values: list[list[int]]) -> Path:
    Image.fromarray(np.array(values, np.uint16)).save(path)
    return path


def test_steps_become_metres_and_what_is_no_value_becomes_0(tmp_path: Path) -> None:
    file = png(tmp_path / "a.png", [[0, 1000, 65535], [256, 1, 65534]])
    millimetres = read_depth(file, 0.001)
    assert millimetres.dtype == np.float32
    np.testing.assert_allclose(millimetres, [[0, 1, 0], [0.256, 0.001, 65.534]], rtol=1e-6)
    np.testing.assert_allclose(read_depth(file, 1 / 256)[1, 0], 1.0)


def test_arrays_are_metres_without_nan_infinity_and_negative_values(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1.5, np.nan], [np.inf, -2], [65535, 0.25]], np.float64))
    np.testing.assert_array_equal(read_depth(tmp_path / "a.npy", 1.0), [[1.5, 0], [0, 0], [65535, 0.25]])
    np.save(tmp_path / "b.npy", np.ones((1, 4, 6), np.float16))
    assert read_depth(tmp_path / "b.npy", 1.0).shape == (4, 6)
    np.save(tmp_path / "c.npy", np.array([[65535, 2000]], np.uint16))
    np.testing.assert_array_equal(read_depth(tmp_path / "c.npy", 0.001), np.float32([[0, 2]]))


def test_pictures_of_depth_hold_no_distances(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="1 channels of 8 bits"):
        read_depth(tmp_path / "a.png", 0.001)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match="3 channels of 8 bits"):
        read_depth(tmp_path / "b.png", 0.001)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (9")
    (tmp_path / "b.png").write_bytes(b"no picture")
    np.save(tmp_path / "c.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.save(tmp_path / "d.npy", np.zeros((2, 3, 4)))
    np.save(tmp_path / "e.npy", np.zeros((4, 4)))
    (tmp_path / "e.npy").write_bytes((tmp_path / "e.npy").read_bytes()[:-40])
    for name in ("a.npy", "b.png", "c.npy", "d.npy", "e.npy", "missing.npy", "missing.png"):
        with pytest.raises(DataError, match=name):
            read_depth(tmp_path / name, 1.0)


def test_sizes_may_differ_and_aspects_may_not() -> None:
    assert same_view((480, 640), (240, 320))
    assert same_view((480, 640), (240, 325))
    assert not same_view((480, 640), (240, 328))
    assert not same_view((480, 640), (640, 480))
