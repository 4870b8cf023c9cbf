"""The simulated camera: each stage against its definition, and what the noise of a developed photo is like."""

from __future__ import annotations

import io

import numpy as np
import pytest
import skimage.data
from PIL import Image
from scipy.ndimage import gaussian_filter1d

from pocketvit.data import camera
from pocketvit.spec.degradation import CameraConfig

PHOTO = skimage.data.astronaut()[:96, 200:328]
STILL = CameraConfig(shot=(1e-6, 1e-6), smooth=0, rescale=0, sharpen=0, jpeg=0)


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_tone_curve_and_gamma_are_inverse_of_each_other() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=2)
    linear = camera.to_linear(values)
    assert linear[0, 0, 0] == pytest.approx(0, abs=1e-9)
    assert linear[0, 255, 0] == pytest.approx(1)
    # Brooks et al. 2019: y = 3 x^2 - 2 x^3 of x = linear^(1/2.2)
    x = linear.astype(np.float64) ** (1 / 2.2)
    assert np.allclose(3 * x**2 - 2 * x**3, values / 255, atol=1e-4)
    assert np.array_equal(np.rint(camera.to_display(linear.copy()) * 255), values)


def test_color_matrices_keep_grey_and_differ() -> None:
    first, second = camera.color_matrix(draw(0)), camera.color_matrix(draw(1))
    assert np.allclose(first.sum(1), 1, atol=1e-6)
    assert not np.allclose(first, second)


@pytest.mark.parametrize("phase", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("malvar", [False, True])
def test_demosaicking_restores_flat_colours_and_keeps_what_was_measured(phase: tuple[int, int], malvar: bool) -> None:
    flat = np.broadcast_to(np.array([0.2, 0.5, 0.8], np.float32), (8, 12, 3))
    assert np.allclose(camera.demosaic(camera.mosaic(flat, phase), phase, malvar=malvar), flat, atol=1e-6)
    colors = draw().random((2, 8, 12, 3), dtype=np.float32)
    raw = camera.mosaic(colors, phase)
    again = camera.mosaic(camera.demosaic(raw, phase, malvar=malvar), phase)
    assert np.array_equal(raw, again)
    y, x = phase
    assert np.array_equal(raw[:, y::2, x::2], colors[:, y::2, x::2, 0])
    assert np.array_equal(raw[:, 1 - y :: 2, 1 - x :: 2], colors[:, 1 - y :: 2, 1 - x :: 2, 2])


def test_malvar_is_the_published_filter() -> None:
    """Malvar, He, Cutler 2004, figure 2: the answer to a single 8 at the centre of the sensor."""
    raw = np.zeros((12, 12), np.float32)
    raw[6, 6] = 8  # a red pixel of phase (0, 0)
    colors = camera.demosaic(raw, (0, 0), malvar=True)
    assert colors[6, 6, 0] == 8
    assert colors[6, 6, 1] == 4  # green at red, own weight 4 / 8
    assert colors[6, 6, 2] == 6  # blue at red, own weight 6 / 8
    assert colors[6, 4, 1] == -1  # green two pixels away
    assert colors[6, 5, 0] == 4  # red at the green neighbour in its row
    assert colors[5, 5, 0] == 2  # red at the blue diagonal neighbour
    assert colors[6, 4, 2] == -1.5


def test_malvar_is_better_than_bilinear_on_a_photo() -> None:
    photo = camera.to_linear(PHOTO)
    raw = camera.mosaic(photo, (0, 1))
    errors = [np.mean((camera.demosaic(raw, (0, 1), malvar=malvar) - photo) ** 2) for malvar in (False, True)]
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("shape", [(96, 128), (95, 127), (2, 2), (1, 1)])
def test_a_photo_without_noise_comes_back(shape: tuple[int, int]) -> None:
    image = PHOTO[: shape[0], : shape[1]]
    noisy, clean = camera.develop(image, STILL, draw())
    assert noisy.shape == clean.shape == image.shape
    assert noisy.dtype == np.float32
    if min(shape) > 90:  # soft by demosaicking, and nothing else
        assert 10 * np.log10(1 / np.mean((clean - image / 255) ** 2)) > 27
        assert abs(clean.mean() - image.mean() / 255) < 0.01


def test_noise_follows_the_line_of_real_sensors() -> None:
    """On grey, in the linear picture: shot variance per signal as asked, and read noise below it."""
    grey = np.full((128, 128, 3), 140, np.uint8)
    config = CameraConfig(shot=(0.01, 0.01), red_gain=(1, 1), blue_gain=(1, 1), exposure=(1, 1), malvar=0)
    noisy, clean = camera.develop(grey, config, draw(3))
    difference = (noisy - clean)[2:-2, 2:-2]
    signal = float(camera.to_linear(grey)[0, 0, 0])
    slope = (
        camera.to_display(np.array([signal + 1e-2], np.float32)) - camera.to_display(np.array([signal], np.float32))
    ) / 1e-2
    deviation = np.sqrt(0.01 * signal + np.exp(2.18 * np.log(0.01) + 1.20)) * float(slope[0])
    light = difference @ camera.LUMA
    assert 0.3 * deviation < light.std() < 0.9 * deviation  # demosaicking and the sum of colours average
    lag = np.mean(light[:, :-1] * light[:, 1:]) / light.var()
    assert lag > 0.3  # neighbouring pixels share noise


def test_smoothing_reaches_light_and_colour_apart() -> None:
    noise = draw().standard_normal((64, 64, 3), dtype=np.float32)
    untouched = camera.smooth_noise(noise, 0, 0)
    assert np.allclose(untouched, noise, atol=1e-5)
    smooth = camera.smooth_noise(noise, 0, 3.0)
    assert np.allclose(smooth @ camera.LUMA, noise @ camera.LUMA, atol=1e-5)
    tint = smooth - (smooth @ camera.LUMA)[..., None]
    assert tint[..., 0].std() < 0.2
    assert camera.smooth_noise(noise, 1.0, 0).std() < noise.std()


@pytest.mark.parametrize("shape", [(112, 112), (31, 60), (28, 1), (5, 3), (300, 200)])
@pytest.mark.parametrize("deviation", [0.2, 0.8, 3.0, 6.0])
def test_smoothing_is_that_of_scipy(shape: tuple[int, int], deviation: float) -> None:
    values = draw().random((*shape, 3), dtype=np.float32)
    wanted = values.astype(np.float64)
    for axis in (0, 1):
        wanted = gaussian_filter1d(wanted, deviation, axis, truncate=3.0)
    assert np.abs(camera.blur(values, deviation) - wanted).max() < 1e-6
    assert camera.blur(values, 0.19) is values


def test_jpeg_is_what_pillow_writes() -> None:
    for subsampled in (False, True):
        file = io.BytesIO()
        Image.fromarray(PHOTO).save(file, "JPEG", quality=80, subsampling=2 if subsampled else 0)
        assert np.array_equal(camera.jpeg(PHOTO, 80, subsampled=subsampled), np.asarray(Image.open(file)))


def test_sharpening_adds_contrast_at_edges_alone() -> None:
    step = np.zeros((9, 16, 3), np.float32)
    step[:, 8:] = 1
    sharp = camera.sharpen(step, 0.5, 1.0)
    assert sharp.max() > 1.1
    assert np.allclose(sharp[:, 0], 0, atol=1e-6)
