from __future__ import annotations

import numpy as np
import pytest

from pocketvit.errors import DataError
from pocketvit.spec.evaluators import make_evaluator
from pocketvit.spec.metrics import psnr, ssim
from pocketvit.spec.results import Classification, Level, Restored
from tests.bad_images import photo
from tests.tiny import LEVELS, noisy


def answer(coarse: int, fine: int, scores: list[float]) -> Classification:
    return Classification(
        (
            Level("coarse", ("warm", "cold"), np.array([0.5, 0.5], np.float32), coarse),
            Level("fine", ("red", "yellow", "green", "blue"), np.array(scores, np.float32), fine),
        )
    )


def test_restore_keeps_conditions_apart() -> None:
    evaluator = make_evaluator("restore", main_condition="sigma25")
    clean = photo()
    pictures = {sigma: [noisy(clean, sigma, seed) for seed in (0, 1)] for sigma in (15, 25)}
    for sigma, images in pictures.items():
        for image in images:
            evaluator.update(Restored(image), clean, f"sigma{sigma}")
    values = {name: (value, unit) for name, value, unit in evaluator.metrics()}
    assert evaluator.main == "psnr@sigma25"
    assert values["psnr@sigma25"] == (pytest.approx(np.mean([psnr(i, clean) for i in pictures[25]])), "dB")
    assert values["ssim@sigma15"][0] == pytest.approx(np.mean([ssim(i, clean) for i in pictures[15]]))
    assert set(values) == {"psnr@sigma15", "psnr@sigma25", "ssim@sigma15", "ssim@sigma25"}


def test_restore_without_condition_and_with_tiny_images() -> None:
    evaluator = make_evaluator("restore")
    evaluator.update(Restored(np.full((4, 4, 3), 110, np.uint8)), np.full((4, 4, 3), 100, np.uint8))
    values = {name: value for name, value, _ in evaluator.metrics()}
    assert values["psnr"] == pytest.approx(28.1308, abs=1e-4)
    assert "ssim" not in values
    assert evaluator.main == "psnr"


def test_restore_metrics_are_finite() -> None:
    """An exact pair counts as 100 dB, and an image too small for SSIM leaves the others' average alone."""
    evaluator = make_evaluator("restore")
    clean = photo()
    evaluator.update(Restored(clean), clean)
    evaluator.update(Restored(noisy(clean, 25, 0)), clean)
    evaluator.update(Restored(np.full((4, 4, 3), 110, np.uint8)), np.full((4, 4, 3), 100, np.uint8))
    values = {name: value for name, value, _ in evaluator.metrics()}
    noise = noisy(clean, 25, 0)
    assert values["psnr"] == pytest.approx((100 + psnr(noise, clean) + 28.1308) / 3, abs=1e-4)
    assert values["ssim"] == pytest.approx((1 + ssim(noise, clean)) / 2)


def test_pairs_of_different_size_are_refused() -> None:
    with pytest.raises(DataError, match="differ in shape"):
        make_evaluator("restore").update(Restored(photo(8, 8)), photo(8, 9))


def test_classify_counts_levels_top5_and_distance() -> None:
    evaluator = make_evaluator("classify", LEVELS)
    assert list(evaluator.metrics()) == []
    evaluator.update(answer(0, 0, [0.7, 0.1, 0.1, 0.1]), (0, 0))
    evaluator.update(answer(0, 1, [0.3, 0.4, 0.2, 0.1]), (0, 0))
    evaluator.update(answer(1, 3, [0.1, 0.1, 0.1, 0.7]), (0, 0))
    evaluator.update(answer(1, 3, [0.1, 0.1, 0.1, 0.7]), (1, 3))
    values = {name: value for name, value, _ in evaluator.metrics()}
    assert evaluator.main == "fine.top1"
    assert values == {
        "coarse.top1": 75.0,
        "fine.top1": 50.0,
        "fine.top5": 100.0,
        "mistake_distance": pytest.approx((0 + 1 + 2 + 0) / 4),
    }


def test_top5_is_not_top1() -> None:
    labels = [str(i) for i in range(10)]
    levels = [LEVELS[0].model_copy(update={"name": "only", "labels": labels})]
    evaluator = make_evaluator("classify", levels)
    scores = np.linspace(1, 0.1, 10).astype(np.float32)
    for truth in range(10):
        evaluator.update(Classification((Level("only", tuple(labels), scores, 0),)), (truth,))
    assert {name: value for name, value, _ in evaluator.metrics()} == {"only.top1": 10.0, "only.top5": 50.0}
