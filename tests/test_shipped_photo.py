"""What the shipped denoiser for camera photos promises, on real pairs, on added noise and on clean photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pocketvit
from pocketvit.data.collections import load_collection
from pocketvit.data.decode import read_item
from pocketvit.data.noise import quantize
from pocketvit.spec.images import read_image
from pocketvit.spec.metrics import psnr, ssim
from pocketvit.spec.recipe import DataConfig

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_photos = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared photos")


def test_both_denoisers_are_shipped_and_take_any_size() -> None:
    for name in ("denoise-color", "denoise-photo"):
        model = pocketvit.load(name, "onnxruntime:fp32")
        assert model.manifest.preprocess.multiple
        image = np.full((37, 51, 3), 90, np.uint8)
        moved = np.abs(model(image).image.astype(int) - 90)
        assert moved.mean() < 1
        assert moved.max() <= 4  # in a corner, by denoise-photo, which was trained without clean photos


@pytest.mark.slow
@needs_photos
def test_real_pairs_gain_what_the_readme_says() -> None:
    model = pocketvit.load("denoise-photo", "onnxruntime:fp32")
    pairs = load_collection([str(SHARED / "polyu10")], DataConfig(layout="pairs"), "restore", "val")
    scores = []
    for item in pairs.items:
        noisy, clean = read_item(pairs, item)
        answer = model(noisy).image
        scores.append((psnr(noisy, clean), psnr(answer, clean), ssim(answer, clean)))
    noisy_db, db, similarity = np.mean(scores, axis=0)
    assert noisy_db == pytest.approx(35.38, abs=0.01)
    assert db >= 37.9
    assert similarity > 0.96


@pytest.mark.slow
@needs_photos
def test_added_noise_and_clean_photos() -> None:
    photo, color = (pocketvit.load(name, "onnxruntime:fp32") for name in ("denoise-photo", "denoise-color"))
    rng, found, untouched = np.random.default_rng(0), [], []
    for number, path in enumerate(sorted((SHARED / "bsds500" / "val32").glob("*.jpg"))):
        clean = read_image(path)
        noisy = quantize(clean + rng.normal(0, 25, clean.shape))
        found.append([psnr(model(noisy).image, clean) for model in (photo, color)])
        if number % 4 == 0:
            untouched.append(psnr(photo(clean).image, clean))
    ours, theirs = np.mean(found, axis=0)
    assert ours > theirs - 0.4
    assert theirs > 30.4
    assert np.mean(untouched) >= 38
