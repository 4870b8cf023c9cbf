from __future__ import annotations

import numpy as np
import pytest

from pocketvit.spec.metrics import psnr, ssim
from tests.bad_images import photo
from tests.tiny import noisy

metrics = pytest.importorskip("skimage.metrics")


@pytest.mark.parametrize("sigma", [2, 15, 25, 50])
@pytest.mark.parametrize("shape", [(11, 11), (40, 57), (96, 128)])
def test_psnr_and_ssim_equal_scikit_images(sigma: int, shape: tuple[int, int]) -> None:
    clean = photo(*shape)
    image = noisy(clean, sigma)
    assert psnr(image, clean) == pytest.approx(metrics.peak_signal_noise_ratio(clean, image, data_range=255), abs=1e-9)
    theirs = metrics.structural_similarity(
        clean, image, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=2, data_range=255
    )
    assert ssim(image, clean) == pytest.approx(theirs, abs=1e-6)


def test_equal_images() -> None:
    assert psnr(photo(), photo()) == float("inf")
    assert ssim(photo(), photo()) == pytest.approx(1.0)


def test_known_value() -> None:
    assert psnr(np.full((4, 4, 3), 110, np.uint8), np.full((4, 4, 3), 100, np.uint8)) == pytest.approx(
        28.1308, abs=1e-4
    )
