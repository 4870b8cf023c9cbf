"""Depth maps for people and other programs: a coloured picture, a 16-bit PNG in millimetres, a cloud of points."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocketvit.errors import DataError, UsageError
from pocketvit.files import replacing

Map = NDArray[np.floating[Any]]
"""(H, W) float."""
_COLOURS = np.array(
    [
        *((16, 9, 45), (40, 11, 83), (66, 10, 104), (92, 18, 110), (117, 27, 110), (141, 35, 105), (166, 45, 96)),
        *((191, 57, 82), (212, 72, 66), (229, 92, 48), (242, 116, 28), (250, 144, 8), (252, 172, 17), (249, 203, 53)),
        *((242, 234, 105), (252, 255, 164)),
    ],
    np.float64,
)
"""From far to near: sixteen colours of matplotlib's ``inferno`` (CC0), whose lightness rises all the way."""
INVALID_COLOUR = (128, 128, 128)
_SHARES = (2.0, 98.0)
"""Percentiles that the colours span, so that a few wild pixels do not make all others alike."""
MAX_MILLIMETRES = 65535


def valid_depths(depth: Map) -> NDArray[np.bool_]:
    """(H, W): which pixels have a depth; 0, negative, NaN and infinite ones have none.

    Raises:
        DataError: it is no (H, W) array of numbers.
    """
    if depth.ndim != 2 or 0 in depth.shape or depth.dtype.kind not in "fiu":
        what = f"an array of shape {depth.shape} and dtype {depth.dtype} is no depth map."
        raise DataError(what, "Give an (H, W) array of floats.")
    return np.isfinite(depth) & (depth > 0)


def colored(depth: Map, low: float | None = None, high: float | None = None) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of an (H, W) depth map in any unit: near is warm and bright, far cold and dark.

    Args:
        depth: distances; what is invalid (0, NaN) becomes grey.
        low: depth that has the brightest colour, and all below; by default the 2nd percentile of the valid ones.
        high: depth that has the darkest colour, and all above; by default the 98th percentile.

    Raises:
        DataError: it is no depth map. UsageError: ``low`` is not below ``high``.
    """
    valid = valid_depths(depth)
    picture = np.empty((*depth.shape, 3), np.uint8)
    picture[:] = INVALID_COLOUR
    if (low is not None and not math.isfinite(low)) or (high is not None and not math.isfinite(high)):
        raise UsageError(f"the range {low} to {high} of colours is not finite.", "Leave it out to take the map's own.")
    if low is not None and high is not None and low >= high:
        raise UsageError(f"the range {low:g} to {high:g} of colours is empty.", "Give the nearer depth first.")
    if not valid.any():
        return picture
    values = depth[valid].astype(np.float64)
    near, far = (float(x) for x in np.percentile(values, _SHARES))
    near, far = near if low is None else low, far if high is None else high
    span = far - near
    # All alike (or all beyond the one limit that was given): near is told from far by the other limit alone.
    places = (far - values) / span if span > 0 else (values < far if high is not None else values <= near) * 1.0
    steps = np.clip(places, 0, 1) * (len(_COLOURS) - 1)
    channels = [np.interp(steps, np.arange(len(_COLOURS)), channel) for channel in _COLOURS.T]
    picture[valid] = np.rint(np.stack(channels, 1)).astype(np.uint8)
    return picture


def write_depth_png(path: Path, depth_m: Map, *, overwrite: bool = True) -> int:
    """Write (H, W) metres as a 16-bit grey PNG in millimetres, as NYU's and 7-Scenes' maps are; 0 where invalid.

    A depth below half a millimetre becomes 1 millimetre, one above 65.535 m becomes 65535: neither may look invalid.

    Returns:
        How many pixels lay above 65.535 m: they are stored nearer than they are, and the caller says so.

    Raises:
        DataError: it is no depth map, the name does not end in .png, or the file cannot be written.
    """
    valid = valid_depths(depth_m)
    if path.suffix.lower() != ".png":
        raise DataError(f"{path}: 16-bit depth is written as PNG.", "Let the name end in .png.")
    stored = np.zeros(depth_m.shape, np.uint16)
    millimetres = np.rint(depth_m[valid].astype(np.float64) * 1000)
    stored[valid] = np.clip(millimetres, 1, MAX_MILLIMETRES).astype(np.uint16)
    with replacing(path, overwrite=overwrite) as partial:
        Image.fromarray(stored).save(partial, format="PNG")
    return int((millimetres > MAX_MILLIMETRES).sum())


def intrinsics_of(width: int, height: int, fov_degrees: float) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy in pixels of a pinhole camera with square pixels, whose axis goes through the middle of the image.

    Pixel centres are whole numbers: the middle of 640 columns is 319.5.

    Args:
        width: of the image in pixels.
        height: of the image in pixels.
        fov_degrees: horizontal field of view, above 0 and below 180.

    Raises:
        UsageError: there is no such camera.
    """
    if not 0 < fov_degrees < 180:
        what = f"a field of view of {fov_degrees:g} degrees is none."
        raise UsageError(what, "Give the horizontal one: phones have about 60 to 70 degrees.")
    if width < 1 or height < 1:
        raise UsageError(f"an image of {width}x{height} pixels has no camera.", "Give the size of the depth map.")
    focal = width / 2 / math.tan(math.radians(fov_degrees) / 2)
    return focal, focal, (width - 1) / 2, (height - 1) / 2


def write_ply(
    path: Path,
    depth: Map,
    image: NDArray[np.uint8],
    fx: float,
    fy: float,
    cx: float,
    cy: float,
    *,
    overwrite: bool = True,
) -> int:
    """Write the valid pixels as coloured points, binary PLY (little endian): x to the right, y down, z ahead, metres.

    x = (column - cx) z / fx and y = (row - cy) z / fy, columns and rows counted from 0 at pixel centres. The file is
    written whole or not at all.

    Args:
        path: ends in .ply.
        depth: (H, W) metres along the camera's axis.
        image: (H, W, 3) uint8 RGB of the same size.
        fx: focal length in pixels of columns; see :func:`intrinsics_of`.
        fy: focal length in pixels of rows.
        cx: column of the camera's axis.
        cy: row of the camera's axis.
        overwrite: without it, a file that is there already is left alone.

    Returns:
        The number of points.

    Raises:
        DataError: no pixel has a depth, image and depth differ in size, or the file cannot be written.
        UsageError: the focal lengths are not positive, or a number is not finite.
    """
    valid = valid_depths(depth)
    if image.shape != (*depth.shape, 3) or image.dtype != np.uint8:
        what = f"a depth map of shape {depth.shape} has no colours in an image of {image.shape}, {image.dtype}."
        raise DataError(what, "Bring both to one size; the image is (H, W, 3) uint8.")
    if not all(map(math.isfinite, (fx, fy, cx, cy))) or fx <= 0 or fy <= 0:
        raise UsageError(f"fx {fx}, fy {fy}, cx {cx}, cy {cy} are no camera.", "Give them in pixels.")
    if path.suffix.lower() != ".ply":
        raise DataError(f"{path}: points are written as PLY.", "Let the name end in .ply.")
    if not valid.any():
        raise DataError(f"{path}: no pixel of the depth map has a depth.", "There are no points to write.")
    points = _points(depth, image, valid, (fx, fy, cx, cy))
    with replacing(path, overwrite=overwrite) as partial, partial.open("wb") as file:
        file.write(_header(len(points)))
        file.write(points.tobytes())
    return len(points)


_POINT = np.dtype([(axis, "<f4") for axis in "xyz"] + [(colour, "u1") for colour in ("red", "green", "blue")])


def _points(
    depth: Map, image: NDArray[np.uint8], valid: NDArray[np.bool_], camera: tuple[float, float, float, float]
) -> NDArray[Any]:
    """(N,) ``_POINT`` in reading order."""
    fx, fy, cx, cy = camera
    rows, columns = np.nonzero(valid)
    z = depth[valid].astype(np.float64)
    points = np.empty(len(z), _POINT)
    points["x"], points["y"], points["z"] = (columns - cx) * z / fx, (rows - cy) * z / fy, z
    points["red"], points["green"], points["blue"] = image[valid].T
    return points


def _header(count: int) -> bytes:
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    lines += [f"property float {axis}" for axis in "xyz"]
    lines += [f"property uchar {colour}" for colour in ("red", "green", "blue")]
    return "\n".join([*lines, "end_header", ""]).encode("ascii")
