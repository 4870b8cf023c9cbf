"""Metrics in NumPy: used by training, by ``eval`` and, without torch, by ``verify``.

PSNR and SSIM work on 8-bit RGB pixels, the protocol in which both the noisy input and the output are rounded to 8 bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pocketvit.spec.preprocess import Pixels


def psnr(image: Pixels, reference: Pixels) -> float:
    """Peak signal-to-noise ratio in dB over all channels of two (H, W, 3) uint8 images; ``inf`` where equal."""
    error = np.mean((image.astype(np.float64) - reference.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))


def _blur_valid(channel: NDArray[np.float64], kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Separable 11x11 Gaussian over the pixels whose window lies inside."""
    windows = np.lib.stride_tricks.sliding_window_view(channel, len(kernel), axis=0)
    return np.lib.stride_tricks.sliding_window_view(windows @ kernel, len(kernel), axis=1) @ kernel


def ssim(image: Pixels, reference: Pixels) -> float:
    """Structural similarity (Wang et al. 2004): 11x11 Gaussian of sigma 1.5, population covariance, mean over RGB.

    Equal to ``skimage.metrics.structural_similarity(..., gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    channel_axis=2, data_range=255)``, which also leaves out a border of five pixels. Images need 11 pixels a side.
    """
    gaussian, c1, c2 = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2), (0.01 * 255) ** 2, (0.03 * 255) ** 2
    kernel = gaussian / gaussian.sum()
    scores = []
    for channel in range(image.shape[2]):
        x, y = image[:, :, channel].astype(np.float64), reference[:, :, channel].astype(np.float64)
        mean_x, mean_y = _blur_valid(x, kernel), _blur_valid(y, kernel)
        var_x = _blur_valid(x * x, kernel) - mean_x**2
        var_y = _blur_valid(y * y, kernel) - mean_y**2
        cov = _blur_valid(x * y, kernel) - mean_x * mean_y
        scale = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
        scores.append(((2 * mean_x * mean_y + c1) * (2 * cov + c2) / scale).mean())
    return float(np.mean(scores))
