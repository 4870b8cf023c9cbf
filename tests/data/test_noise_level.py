"""Known noise on photos is found again: white, blurred, growing with brightness, and none."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photos

from pocketvit.cli import main
from pocketvit.data.noise_level import noise_level
from pocketvit.data.noise_report import PhotoNoise, jpeg_facts
from pocketvit.spec.images import read_image, write_image


@pytest.fixture(scope="module")
def cat() -> np.ndarray:
    return np.asarray(photos.chelsea())


def with_noise(clean: np.ndarray, noise: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
@pytest.mark.parametrize("sigma", [5, 25, 50])
def test_white_noise_is_found_again(name: str, sigma: int) -> None:
    clean = np.asarray(getattr(photos, name)())
    clean = clean[: min(300, len(clean)), :400]
    found = noise_level(with_noise(clean, np.random.default_rng(0).normal(0, sigma, clean.shape)))
    assert found is not None
    assert abs(found.level / sigma - 1) < 0.15
    assert max(found.luma_lag1, found.chroma_lag1) < 0.15
    assert found.luma < found.level


def test_a_clean_photo_has_next_to_none(cat: np.ndarray) -> None:
    found = noise_level(cat)
    assert found is not None
    assert found.level < 2


@pytest.mark.parametrize("blur", [0.7, 1.5])
def test_the_grain_of_blurred_noise(cat: np.ndarray, blur: float) -> None:
    """White noise through a Gaussian of ``blur`` has an autocorrelation of exp(-d^2 / 4 blur^2): 1/e at 2 blur."""
    noise, line = np.random.default_rng(0).normal(0, 1, cat.shape), np.exp(-(np.arange(-8, 9) ** 2) / 2 / blur**2)
    for axis in (0, 1):
        noise = np.apply_along_axis(np.convolve, axis, noise, line, "same")
    found = noise_level(with_noise(cat, noise / noise.std() * 10))
    assert found is not None
    assert abs(found.level - 10) < 1.5
    assert abs(found.luma_length - 2 * blur) < 0.4
    assert abs(found.chroma_length - 2 * blur) < 0.4


def test_noise_that_grows_with_brightness(cat: np.ndarray) -> None:
    clean = cat.astype(float)
    noise = np.random.default_rng(0).normal(0, 1, cat.shape) * np.sqrt(4 + 0.6 * clean)
    found = noise_level(with_noise(clean, noise))
    plain = noise_level(with_noise(clean, np.random.default_rng(0).normal(0, 9, cat.shape)))
    assert found is not None
    assert plain is not None
    assert found.slope_known
    assert abs(found.slope - 0.6) < 0.15
    assert found.shot_share > 0.8
    assert abs(plain.slope) < 0.15


def test_few_flat_places_are_not_called_sure(cat: np.ndarray) -> None:
    noisy = with_noise(cat, np.random.default_rng(0).normal(0, 15, cat.shape))
    found, cut = noise_level(noisy), noise_level(noisy[:48, :64])
    assert found is not None
    assert cut is not None
    assert found.sure
    assert not cut.sure
    assert "unsure" in PhotoNoise(cut).line


def test_small_and_plain_pictures() -> None:
    assert noise_level(np.zeros((31, 400, 3), np.uint8)) is None
    for value in (0, 128, 255):
        plain = noise_level(np.full((64, 64, 3), value, np.uint8))
        assert plain is not None
        assert plain.level == 0


def test_a_large_photo_takes_no_longer(cat: np.ndarray) -> None:
    noisy = with_noise(cat, np.random.default_rng(0).normal(0, 15, cat.shape))
    large = np.tile(noisy, (14, 14, 1))
    began = time.process_time()
    noise_level(noisy[:, :440])
    small_time, began = time.process_time() - began, time.process_time()
    found = noise_level(large)
    assert time.process_time() - began < 6 * small_time
    assert found is not None
    assert abs(found.level - 15) < 2.25


@pytest.mark.parametrize(("quality", "sampling"), [(60, "4:2:0"), (92, "4:4:4")])
def test_how_a_jpeg_was_written(cat: np.ndarray, tmp_path: Path, quality: int, sampling: str) -> None:
    Image.fromarray(cat).save(tmp_path / "a.jpg", quality=quality, subsampling=sampling)
    write_image(tmp_path / "a.png", cat)
    assert jpeg_facts(tmp_path / "a.jpg") == (quality, sampling)
    assert jpeg_facts(tmp_path / "a.png") == (None, "")


def test_doctor_prints_noise_and_advice(cat: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "a.png", with_noise(cat, np.random.default_rng(0).normal(0, 25, cat.shape)))
    write_image(tmp_path / "b.png", np.zeros((20, 20, 3), np.uint8))
    assert main(["doctor", str(tmp_path)]) == 0
    assert "standard deviation" not in capsys.readouterr().out
    assert main(["doctor", str(tmp_path), "--noise"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "too small to tell" in text
    assert "white noise: use denoise-color." in text
    assert main(["doctor", str(tmp_path), "--noise", "--json"]) == 0
    noise = json.loads(capsys.readouterr().out)["noise"]
    assert abs(noise["folder"]["level"] - 25) < 3.75
    assert noise["photos"][str(tmp_path / "b.png")]["noise"] is None


def test_real_photos_have_a_grain(repository: Path) -> None:
    files = sorted((repository.parent / "shared" / "data" / "polyu10").glob("*circuit*_real.JPG"))
    if not files:
        pytest.skip("no shared data")
    found = noise_level(read_image(files[0]))
    assert found is not None
    assert 0.5 < found.luma_lag1 < 0.8
    assert 0.8 < found.chroma_lag1 < 0.97
