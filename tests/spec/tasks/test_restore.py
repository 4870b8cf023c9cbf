from __future__ import annotations

import numpy as np
import pytest

from pocketvit.errors import DataError
from pocketvit.spec.metrics import psnr, ssim
from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.restore import Restored
from tests.bad_images import photo
from tests.tiny import noisy


def test_restore_keeps_conditions_apart() -> None:
    evaluator = TASKS["restore"].evaluator((), "sigma25")
    clean = photo()
    pictures = {sigma: [noisy(clean, sigma, seed) for seed in (0, 1)] for sigma in (15, 25)}
    for sigma, images in pictures.items():
        for image in images:
            evaluator.update(Restored(image), clean, f"sigma{sigma}")
    values = {x.name: (x.value, x.unit) for x in evaluator.metrics()}
    assert evaluator.main == "psnr@sigma25"
    assert values["psnr@sigma25"] == (pytest.approx(np.mean([psnr(i, clean) for i in pictures[25]])), "dB")
    assert values["ssim@sigma15"][0] == pytest.approx(np.mean([ssim(i, clean) for i in pictures[15]]))
    assert set(values) == {"psnr@sigma15", "psnr@sigma25", "ssim@sigma15", "ssim@sigma25"}


def test_restore_without_condition_and_with_tiny_images() -> None:
    evaluator = TASKS["restore"].evaluator((), "")
    evaluator.update(Restored(np.full((4, 4, 3), 110, np.uint8)), np.full((4, 4, 3), 100, np.uint8))
    values = {x.name: x.value for x in evaluator.metrics()}
    assert values["psnr"] == pytest.approx(28.1308, abs=1e-4)
    assert "ssim" not in values
    assert evaluator.main == "psnr"


def test_restore_metrics_are_finite() -> None:
    """An exact pair counts as 100 dB, and an image too small for SSIM leaves the others' average alone."""
    evaluator = TASKS["restore"].evaluator((), "")
    clean = photo()
    evaluator.update(Restored(clean), clean)
    evaluator.update(Restored(noisy(clean, 25, 0)), clean)
    evaluator.update(Restored(np.full((4, 4, 3), 110, np.uint8)), np.full((4, 4, 3), 100, np.uint8))
    values = {x.name: x.value for x in evaluator.metrics()}
    noise = noisy(clean, 25, 0)
    assert values["psnr"] == pytest.approx((100 + psnr(noise, clean) + 28.1308) / 3, abs=1e-4)
    assert values["ssim"] == pytest.approx((1 + ssim(noise, clean)) / 2)


def test_pairs_of_different_size_are_refused() -> None:
    with pytest.raises(DataError, match="differ in shape"):
        TASKS["restore"].evaluator((), "").update(Restored(photo(8, 8)), photo(8, 9))


def test_restored() -> None:
    result = Restored(photo(10, 12))
    assert result.to_dict() == {"task": "restore", "height": 10, "width": 12}
    np.testing.assert_array_equal(result.draw(photo(3, 3)), photo(10, 12))
