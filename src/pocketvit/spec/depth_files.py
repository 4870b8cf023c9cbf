"""Depth maps as data sets store them: 16-bit PNG in steps of some unit, or NumPy arrays of metres."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import DataError
from pocketvit.spec.images import MAX_PIXELS, open_image

NO_VALUE = 65535
"""What 7-Scenes stores where the sensor saw nothing; others store 0."""
SUFFIXES = (".png", ".npy")
ASPECT = 0.02
"""Photo and depth map of other sizes belong together where their aspects differ by at most this share."""


def read_depth(path: Path, unit: float) -> NDArray[np.float32]:
    """(H, W) float32 in metres: stored steps times ``unit`` (0.001 for millimetres, 1/256 for KITTI's), 0 where there
    is no value (stored as 0, 65535, NaN, infinite or negative).

    Raises:
        DataError: no such file, damaged, no map of one channel, too large, or 8-bit: those are pictures of depth, which
            hold no distances.
    """
    stored = _array(path) if path.suffix.lower() == ".npy" else stored_picture(path)
    values = stored.astype(np.float32)
    if stored.dtype.kind in "iu":
        values[stored == NO_VALUE] = 0
    values *= np.float32(unit)
    return np.where(np.isfinite(values) & (values > 0), values, np.float32(0))


def stored_picture(path: Path) -> NDArray[Any]:
    """(H, W) steps of a depth map that is stored as a picture, as they lie in the file.

    Raises:
        DataError: as :func:`read_depth` says.
    """
    with open_image(path) as image:
        if image.width * image.height > MAX_PIXELS:
            raise DataError(f"{path}: {image.width}x{image.height} is too large for a depth map.", "Leave it out.")
        if not image.mode.startswith(("I", "F")):
            what = f"{path}: has {len(image.getbands())} channels of 8 bits, which hold no distances."
            raise DataError(what, "A depth map is a 16-bit grey PNG, or an .npy file of metres.")
        return np.array(image)


def _array(path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
        stored = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a header may lie about the size
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file.", "Check the path.") from error
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: cannot be read ({reason}).", "Write it again with numpy.save.") from error
    shape = tuple(n for n in stored.shape if n != 1) if stored.ndim > 2 else stored.shape
    if len(shape) != 2 or 0 in shape or math.prod(shape) > MAX_PIXELS or stored.dtype.kind not in "fiu":
        what = f"{path}: an array of shape {stored.shape} and dtype {stored.dtype} is no depth map."
        raise DataError(what, "Save an (H, W) array of metres.")
    return np.array(stored).reshape(shape)


def same_view(photo: tuple[int, int], depth: tuple[int, int]) -> bool:
    """Whether a photo and a map of these heights and widths can show the same: their aspects agree."""
    return abs(math.log(photo[1] / photo[0]) - math.log(depth[1] / depth[0])) <= math.log1p(ASPECT)
