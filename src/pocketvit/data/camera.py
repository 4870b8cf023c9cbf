"""Camera noise: a photo taken back to the sensor, noise added there, and developed again, with and without the noise.

The way back and forth is that of Brooks et al. 2019, "Unprocessing Images for Learned Raw Denoising", section 3, with
its figures for tone curve, colour matrices, white balance and noise. What follows in a camera (smoothing of the noise,
sharpening, JPEG) is drawn from ranges of the recipe. Pictures are float32 (..., H, W, 3) in [0, 1], RGB, and lie in
memory colour by colour (:func:`planes`), which is what makes this fast.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocketvit.spec.degradation import CameraConfig
from pocketvit.spec.detail import LUMA
from pocketvit.spec.preprocess import Pixels

Floats = NDArray[np.float32]
_XYZ_TO_CAMERA = np.array(
    [
        [[1.0234, -0.2969, -0.2266], [-0.5625, 1.6328, -0.0469], [-0.0703, 0.2188, 0.6406]],
        [[0.4913, -0.0541, -0.0202], [-0.6130, 1.3513, 0.2906], [-0.1564, 0.2151, 0.7183]],
        [[0.8380, -0.2630, -0.0639], [-0.2887, 1.0725, 0.2496], [-0.0627, 0.1427, 0.5438]],
        [[0.6596, -0.2079, -0.0562], [-0.4782, 1.3016, 0.1933], [-0.0970, 0.1581, 0.5181]],
    ]
)
"""Of four cameras (Brooks et al. 2019, their published code)."""
_RGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_GAMMA = 2.2
_STEPS = 1 << 14
_PIECE, _TRUNCATE = 28, 3.0
"""Pixels of a line that are smoothed at once; Gaussians end at so many deviations."""
READ_SLOPE, READ_OFFSET, READ_DEVIATION = 2.18, 1.20, 0.26
"""log(read variance) = slope * log(shot) + offset, with that deviation: the line of real sensors (ibid., eq. 4)."""


@lru_cache(1)
def _curves() -> tuple[Floats, Floats]:
    """Linear value of each 8-bit one, and the picture's value of ``_STEPS + 1`` linear ones (ibid., section 3.1)."""
    display = np.arange(256) / 255
    linear = np.maximum(0.5 - np.sin(np.arcsin(1 - 2 * display) / 3), 0) ** _GAMMA
    gamma = (np.arange(_STEPS + 1) / _STEPS) ** (1 / _GAMMA)
    return linear.astype(np.float32), (3 * gamma**2 - 2 * gamma**3).astype(np.float32)


def planes(picture: NDArray[Any]) -> NDArray[Any]:
    """(..., H, W, C) to a (..., C, H, W) view."""
    return picture.swapaxes(-1, -2).swapaxes(-2, -3)  # np.moveaxis costs as much as a sum of two pictures


def _picture(parts: Floats) -> Floats:
    """(..., C, H, W) to a (..., H, W, C) view."""
    return parts.swapaxes(-3, -2).swapaxes(-2, -1)


def to_unit(image: Pixels) -> Floats:
    """8-bit pixels as [0, 1]."""
    return _picture(np.divide(np.ascontiguousarray(planes(image)), 255, dtype=np.float32))


def _colored(picture: Floats, matrix: Floats) -> Floats:
    """Each pixel's colours multiplied by a matrix (3, 3) from the left."""
    parts = np.ascontiguousarray(planes(picture))
    return _picture((matrix @ parts.reshape(*parts.shape[:-2], -1)).reshape(parts.shape))


def to_linear(image: Pixels) -> Floats:
    """Undo the tone curve (a smoothstep) and the gamma of 2.2 of 8-bit pixels; [0, 1]."""
    return _picture(_curves()[0].take(np.ascontiguousarray(planes(image)), mode="clip"))


def to_display(linear: Floats) -> Floats:
    """Gamma of 2.2 and tone curve, by a table of ``_STEPS`` steps; clipped to [0, 1]. ``linear`` is changed."""
    linear *= _STEPS
    linear += 0.5
    places = np.clip(linear, 0, _STEPS, out=linear).astype(np.intp)
    return _picture(_curves()[1].take(planes(places))) if places.ndim > 2 else _curves()[1].take(places)


def color_matrix(rng: np.random.Generator) -> Floats:
    """From linear RGB to camera colours: a random mixture of the four cameras' matrices, rows that sum to 1."""
    weights = rng.uniform(1e-8, 1, len(_XYZ_TO_CAMERA))
    matrix = (weights / weights.sum() @ _XYZ_TO_CAMERA.reshape(4, 9)).reshape(3, 3) @ _RGB_TO_XYZ
    return (matrix / matrix.sum(1, keepdims=True)).astype(np.float32)


def mosaic(colors: Floats, phase: tuple[int, int]) -> Floats:
    """(..., H, W, 3) to the (..., H, W) that a Bayer sensor sees: red at ``phase``, blue diagonal to it."""
    y, x = phase
    raw = colors[..., 1].copy()
    raw[..., y::2, x::2] = colors[..., y::2, x::2, 0]
    raw[..., 1 - y :: 2, 1 - x :: 2] = colors[..., 1 - y :: 2, 1 - x :: 2, 2]
    return raw


def demosaic(raw: Floats, phase: tuple[int, int], *, malvar: bool) -> Floats:
    """(..., H, W), H and W even, to (..., H, W, 3): bilinear, or gradient-corrected (Malvar, He, Cutler 2004).

    The edge is continued by reflection, which keeps the pattern of the colours.
    """
    height, width = raw.shape[-2:]
    lines, columns = slice(2, 2 + height), slice(2, 2 + width)
    padded = raw.take(_reflected(height), -2).take(_reflected(width), -1)
    beside = padded[..., 1 : width + 1] + padded[..., 3 : width + 3]  # left and right
    across = padded[..., 1 : height + 1, columns] + padded[..., 3 : height + 3, columns]  # above and below
    diagonal = beside[..., 1 : height + 1, :] + beside[..., 3 : height + 3, :]
    beside = beside[..., lines, :]
    green, other = (beside + across) / 4, diagonal / 4
    in_row, in_column = beside / 2, across / 2
    if malvar:  # the second derivative of the pixel's own colour corrects the others (ibid., figure 2)
        far_beside = padded[..., lines, :width] + padded[..., lines, 4:]
        far_across = padded[..., :height, columns] + padded[..., 4:, columns]
        far = (far_beside + far_across) / 8
        bend = raw / 2 - far
        green += bend
        other += bend * np.float32(1.5)
        shared = raw * np.float32(0.625) - diagonal / 8 - far
        in_row += shared
        in_row += np.float32(0.1875) * far_across
        in_column += shared
        in_column += np.float32(0.1875) * far_beside
    colors = np.empty((*raw.shape[:-2], 3, height, width), np.float32)
    red, middle, blue = (colors[..., color, :, :] for color in range(3))
    middle[...] = raw
    y, x = phase
    for own, opposite, down, right in ((red, blue, y, x), (blue, red, 1 - y, 1 - x)):
        site = (..., slice(down, None, 2), slice(right, None, 2))
        own[site], opposite[site], middle[site] = raw[site], other[site], green[site]
        site = (..., slice(down, None, 2), slice(1 - right, None, 2))  # green, in a row with this colour
        own[site], opposite[site] = in_row[site], in_column[site]
    return _picture(colors)


@lru_cache(64)
def _reflected(length: int) -> NDArray[np.intp]:
    """Places of a line and of two more on each side, continued by reflection."""
    return np.pad(np.arange(length), 2, mode="reflect")


def develop(image: Pixels, camera: CameraConfig, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Take (H, W, 3) uint8 back to a sensor and develop it with noise and without: (noisy, clean).

    Shot and read noise are drawn from the Gaussian of their joint variance ``shot * x + read`` at linear signal x.
    """
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    matrix = color_matrix(rng)
    red, blue, exposure = (rng.uniform(*span) for span in (camera.red_gain, camera.blue_gain, camera.exposure))
    gains = np.array([red, 1.0, blue], np.float32)
    phase = (int(rng.integers(2)), int(rng.integers(2)))
    log_shot = rng.uniform(*np.log(camera.shot))
    log_read = READ_SLOPE * log_shot + READ_OFFSET + READ_DEVIATION * rng.standard_normal()
    # Exposure is undone at the end, so that the brightness of the photo stays: only the noise beside it changes.
    there = matrix / (gains[:, None] * np.float32(exposure))
    raw = mosaic(_colored(to_linear(image), there), phase)
    np.maximum(raw, 0, out=raw)
    noise = rng.standard_normal(raw.shape, dtype=np.float32)
    noise *= np.sqrt(np.float32(np.exp(log_shot)) * raw + np.float32(np.exp(log_read)))
    noise += raw
    colors = demosaic(np.stack([noise, raw]), phase, malvar=bool(rng.random() < camera.malvar))
    back = (np.linalg.inv(matrix.astype(np.float64)) * exposure).astype(np.float32) * gains
    noisy, clean = to_display(_colored(colors, back))[:, :height, :width]
    return noisy, clean


def blur(values: Floats, deviation: float) -> Floats:
    """Gaussian smoothing of (H, W, C) in both directions; edges reflected. Less than 0.2 pixels is none."""
    if deviation < 0.2:
        return values
    reach = int(_TRUNCATE * deviation + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    parts, kernel = np.ascontiguousarray(planes(values)), (kernel / kernel.sum()).astype(np.float32)
    return _picture(_filtered(_filtered(parts, kernel, 1), kernel, 2))


def _filtered(parts: Floats, kernel: Floats, axis: int) -> Floats:
    """(C, H, W) filtered along an axis by a symmetric kernel, edges reflected.

    Pieces of a line are multiplied by a matrix of shifted kernels: three times as fast as a sum of shifted lines.
    """
    length, reach = parts.shape[axis], len(kernel) // 2
    before, behind = _beyond(length, reach)
    padded = np.concatenate([parts.take(before, axis), parts, parts.take(behind, axis)], axis)
    matrix = np.zeros((_PIECE + 2 * reach, _PIECE), np.float32)
    matrix[np.arange(_PIECE)[:, None] + np.arange(len(kernel)), np.arange(_PIECE)[:, None]] = kernel
    shape = list(parts.shape)
    shape[axis] = -(-length // _PIECE) * _PIECE
    found = np.empty(shape, np.float32)
    for start in range(0, length, _PIECE):
        seen, made = slice(start, start + _PIECE + 2 * reach), slice(start, start + _PIECE)
        if axis == 1:
            np.matmul(matrix.T, padded[:, seen], out=found[:, made])
        else:
            np.matmul(padded[..., seen], matrix, out=found[..., made])
    return found[:, :length] if axis == 1 else found[..., :length]


@lru_cache(256)
def _beyond(length: int, reach: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where what stands before and behind a line comes from, by reflection; behind it up to whole pieces."""
    lines = np.pad(np.arange(length), (reach, reach + -length % _PIECE), mode="symmetric")
    return lines[:reach], lines[reach + length :]


def smooth_noise(noise: Floats, light: float, color: float) -> Floats:
    """Noise (H, W, 3) with its light and its colour smoothed by Gaussians of these deviations, in pixels."""
    parts = np.ascontiguousarray(planes(noise))
    bright = _weighed(LUMA, parts)
    tint = parts[::2] - bright  # the third follows: the luma of a tint is 0
    bright, tint = planes(blur(_picture(bright[None]), light))[0], planes(blur(_picture(tint), color))
    smooth = np.empty_like(parts)
    smooth[::2], smooth[1] = tint, _weighed(-LUMA[::2] / LUMA[1], tint)
    smooth += bright
    return _picture(smooth)


def _weighed(weights: Floats, parts: Floats) -> Floats:
    """The weighed sum of (C, H, W): (H, W)."""
    return (weights @ np.ascontiguousarray(parts).reshape(len(parts), -1)).reshape(parts.shape[1:])


def sharpen(image: Floats, amount: float, deviation: float) -> Floats:
    """Unsharp mask: the picture and ``amount`` times what a Gaussian of that deviation takes away."""
    return image + halo(image, amount, deviation)


def halo(image: Floats, amount: float, deviation: float) -> Floats:
    """What unsharp masking adds to a picture."""
    return np.float32(amount) * (image - blur(image, deviation))


def jpeg(image: Pixels, quality: int, *, subsampled: bool) -> Pixels:
    """(H, W, 3) uint8 through a JPEG file, colour at half resolution (4:2:0) or whole (4:4:4)."""
    file = io.BytesIO()
    picture = Image.fromarray(image)
    picture.save(file, "JPEG", quality=quality, subsampling=2 if subsampled else 0)
    # Opening the file would read its header in Python, which takes longer than the picture.
    return np.asarray(Image.frombytes("RGB", picture.size, file.getvalue(), "jpeg", "RGB", ""))
