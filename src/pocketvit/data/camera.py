"""Camera noise: a photo taken back to the sensor, noise added there, and developed again, with and without the noise.

The way back and forth is that of Brooks et al. 2019, "Unprocessing Images for Learned Raw Denoising", section 3, with
its figures for tone curve, colour matrices, white balance and noise. What follows in a camera (smoothing of the noise,
sharpening, JPEG) is drawn from ranges of the recipe. Pictures are float32 (..., H, W, 3) in [0, 1], RGB.
"""

from __future__ import annotations

import io
from functools import lru_cache

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
READ_SLOPE, READ_OFFSET, READ_DEVIATION = 2.18, 1.20, 0.26
"""log(read variance) = slope * log(shot) + offset, with that deviation: the line of real sensors (ibid., eq. 4)."""


@lru_cache(1)
def _curves() -> tuple[Floats, Floats]:
    """Linear value of each 8-bit one, and the picture's value of ``_STEPS + 1`` linear ones (ibid., section 3.1)."""
    display = np.arange(256) / 255
    linear = np.maximum(0.5 - np.sin(np.arcsin(1 - 2 * display) / 3), 0) ** _GAMMA
    gamma = (np.arange(_STEPS + 1) / _STEPS) ** (1 / _GAMMA)
    return linear.astype(np.float32), (3 * gamma**2 - 2 * gamma**3).astype(np.float32)


def to_linear(image: Pixels) -> Floats:
    """Undo the tone curve (a smoothstep) and the gamma of 2.2 of 8-bit pixels; [0, 1]."""
    return _curves()[0][image]


def to_display(linear: Floats) -> Floats:
    """Gamma of 2.2 and tone curve, by a table of ``_STEPS`` steps; clipped to [0, 1]. ``linear`` is changed."""
    np.clip(linear, 0, 1, out=linear)
    linear *= _STEPS
    linear += 0.5
    return _curves()[1][linear.astype(np.int32)]


def color_matrix(rng: np.random.Generator) -> Floats:
    """From linear RGB to camera colours: a random mixture of the four cameras' matrices, rows that sum to 1."""
    weights = rng.uniform(1e-8, 1, len(_XYZ_TO_CAMERA))
    matrix = np.tensordot(weights / weights.sum(), _XYZ_TO_CAMERA, 1) @ _RGB_TO_XYZ
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
    pad = [(0, 0)] * (raw.ndim - 2) + [(2, 2), (2, 2)]
    padded = np.pad(raw, pad, mode="reflect")
    height, width = raw.shape[-2:]
    colors = np.empty((*raw.shape, 3), np.float32)
    red_y, red_x = phase
    for y in (0, 1):
        for x in (0, 1):

            def at(dy: int, dx: int, y: int = y, x: int = x) -> Floats:
                return padded[..., 2 + y + dy : 2 + height + dy : 2, 2 + x + dx : 2 + width + dx : 2]

            own, place = at(0, 0), colors[..., y::2, x::2, :]
            rows, columns = at(0, -1) + at(0, 1), at(-1, 0) + at(1, 0)
            on_red_row, on_red_column = y == red_y, x == red_x
            # The second derivative of the pixel's own colour corrects the others (ibid., figure 2).
            far_rows = at(0, -2) + at(0, 2) if malvar else own
            far_columns = at(-2, 0) + at(2, 0) if malvar else own
            if on_red_row != on_red_column:  # a green pixel
                diagonal = at(-1, -1) + at(-1, 1) + at(1, -1) + at(1, 1) if malvar else own
                along, across = rows / 2, columns / 2
                if malvar:
                    along = along + (10 * own - 2 * diagonal - 2 * far_rows + far_columns) / 16
                    across = across + (10 * own - 2 * diagonal - 2 * far_columns + far_rows) / 16
                place[..., 1] = own
                place[..., 0], place[..., 2] = (along, across) if on_red_row else (across, along)
                continue
            diagonal = at(-1, -1) + at(-1, 1) + at(1, -1) + at(1, 1)
            green, other = (rows + columns) / 4, diagonal / 4
            if malvar:
                bend = own - (far_rows + far_columns) / 4
                green, other = green + bend / 2, other + bend * 0.75
            place[..., 1] = green
            place[..., 0], place[..., 2] = (own, other) if on_red_row else (other, own)
    return colors


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
    colors: Floats = to_linear(image) @ (matrix.T * np.float32(1 / exposure))
    raw = mosaic((np.maximum(colors, 0) / gains).astype(np.float32), phase)
    noise = rng.standard_normal(raw.shape, dtype=np.float32)
    noise *= np.sqrt(np.float32(np.exp(log_shot)) * raw + np.float32(np.exp(log_read)))
    both = np.stack([raw + noise, raw])
    colors = demosaic(both, phase, malvar=bool(rng.random() < camera.malvar))
    back = np.linalg.inv(matrix.astype(np.float64)).T * exposure
    noisy, clean = to_display((colors * gains) @ back.astype(np.float32))[:, :height, :width]
    return noisy, clean


def blur(values: Floats, deviation: float) -> Floats:
    """Gaussian smoothing of (H, W, C) in both directions; edges reflected. Less than 0.2 pixels is none."""
    if deviation < 0.2:
        return values
    from scipy.ndimage import gaussian_filter1d

    for axis in (0, 1):
        values = gaussian_filter1d(values, deviation, axis, truncate=3.0)
    return values


def smooth_noise(noise: Floats, luma: float, color: float) -> Floats:
    """Noise (H, W, 3) with its light and its colour smoothed by Gaussians of these deviations, in pixels."""
    light = (noise @ LUMA)[..., None]
    tint = (noise - light)[..., ::2]  # the third follows: the luma of a tint is 0
    light, tint = blur(light, luma), blur(tint, color)
    green = -(tint @ LUMA[::2]) / LUMA[1]
    return light + np.stack([tint[..., 0], green, tint[..., 1]], axis=-1)


def sharpen(image: Floats, amount: float, deviation: float) -> Floats:
    """Unsharp mask: the picture and ``amount`` times what a Gaussian of that deviation takes away."""
    return image + np.float32(amount) * (image - blur(image, deviation))


def jpeg(image: Pixels, quality: int, *, subsampled: bool) -> Pixels:
    """(H, W, 3) uint8 through a JPEG file, colour at half resolution (4:2:0) or whole (4:4:4)."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=2 if subsampled else 0)
    return np.asarray(Image.open(file).convert("RGB"))
