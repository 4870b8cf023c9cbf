from __future__ import annotations

import numpy as np
import pytest

from pocketvit.data.noise import add_gaussian, add_poisson_gaussian, quantize

GREY = np.full((128, 128, 3), 128, np.uint8)


def spread(noisy: np.ndarray) -> float:
    return float(noisy.astype(np.float64).std())


@pytest.mark.parametrize("sigma", [5.0, 25.0])
def test_gaussian_has_the_asked_deviation_and_no_bias(sigma: float) -> None:
    noisy = add_gaussian(GREY, sigma, np.random.default_rng(1))
    assert noisy.dtype == np.uint8
    assert noisy.shape == GREY.shape
    assert spread(noisy) == pytest.approx(np.sqrt(sigma**2 + 1 / 12), rel=0.02)  # 1/12: rounding to 8 bit
    assert noisy.mean() == pytest.approx(128, abs=0.5)


def test_zero_noise_changes_nothing_and_clips_at_the_ends() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    assert np.array_equal(add_gaussian(ramp, 0, np.random.default_rng(0)), ramp)
    assert np.array_equal(add_poisson_gaussian(ramp, 0, 0, np.random.default_rng(0)), ramp)
    assert quantize(np.array([-3.0, 0.4, 0.6, 254.6, 300.0])).tolist() == [0, 0, 1, 255, 255]


@pytest.mark.parametrize("level", [40, 200])
def test_shot_noise_variance_grows_with_the_signal(level: int) -> None:
    image = np.full((128, 128, 3), level, np.uint8)
    noisy = add_poisson_gaussian(image, 5.0, 0.01, np.random.default_rng(2))
    variance = 0.01 * level / 255 + (5 / 255) ** 2  # on [0, 1]
    assert spread(noisy) == pytest.approx(255 * np.sqrt(variance), rel=0.02)
