"""Blur: its kernels, the convolution against SciPy's, samples and evaluation cases of a blurred collection."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from scipy.signal import convolve2d

from pocketvit.data.blur import KERNELS, blurred, convolve, draw, reach, shake_path
from pocketvit.data.cases import condition_names, eval_cases, main_condition
from pocketvit.data.collections import load_collection
from pocketvit.data.degrade import BORDER, degrade, margin
from pocketvit.data.loader import Loader
from pocketvit.errors import UsageError
from pocketvit.spec.degradation import BlurConfig
from pocketvit.spec.images import read_image
from pocketvit.spec.metrics import psnr
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import DataConfig, TrainConfig, load_recipe
from tests.bad_images import photo
from tests.data.helpers import clean_folder, write

PHOTO = photo(96, 120, 3)


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def data_of(noise: str = "none", **blur: object) -> DataConfig:
    fields = {f"data.blur.{name}": value for name, value in {"probability": 1.0, **blur}.items()}
    return load_recipe(None, {"data.noise": noise, "data.patch": 32, "data.eval_sigma": [5.0], **fields}).data


def middle(kernel: np.ndarray) -> tuple[float, float]:
    places = np.arange(kernel.shape[0]) - kernel.shape[0] // 2
    return float(places @ kernel.sum(1)), float(places @ kernel.sum(0))


@pytest.mark.parametrize("kind", sorted(KERNELS))
@pytest.mark.parametrize("size", [(1.0, 1.0), (2.5, 2.5), (3.0, 25.0), (41.0, 41.0)])
def test_kernels_are_shares_of_light_around_the_middle(kind: str, size: tuple[float, float]) -> None:
    weights = {other: float(other == kind) for other in KERNELS}
    blur = BlurConfig(probability=1, shake_size=size, defocus_size=size, **weights)
    for seed in range(20):
        kernel = KERNELS[kind](blur, rng(seed))
        assert kernel.dtype == np.float32
        assert kernel.shape[0] == kernel.shape[1] <= 2 * reach(blur) + 1
        assert kernel.shape[0] % 2 == 1
        assert kernel.min() >= 0
        assert kernel.sum() == pytest.approx(1, abs=1e-5)
        assert middle(kernel) == pytest.approx((0, 0), abs=1e-4)


def extent(kernel: np.ndarray) -> int:
    rows, columns = np.nonzero(kernel > 1e-6)
    return max(np.abs(rows - kernel.shape[0] // 2).max(), np.abs(columns - kernel.shape[0] // 2).max())


def test_kernels_have_the_size_that_the_recipe_gives() -> None:
    for seed in range(10):
        assert extent(KERNELS["shake"](BlurConfig(shake_size=(17, 17)), rng(seed))) == 8
        assert extent(KERNELS["shake"](BlurConfig(shake_size=(5, 5)), rng(seed))) == 2
    discs = [KERNELS["defocus"](BlurConfig(defocus_size=(d, d), defocus_edge=(1, 1)), rng(0)) for d in (6, 12)]
    assert [1 / disc.max() for disc in discs] == pytest.approx([np.pi * 3**2, np.pi * 6**2], rel=0.03)  # its area
    soft = KERNELS["defocus"](BlurConfig(defocus_size=(12, 12), defocus_edge=(6, 6)), rng(0))
    assert len(np.unique(soft.round(6))) > len(np.unique(discs[1].round(6)))
    assert extent(soft) > extent(discs[1])


def test_a_calm_hand_moves_in_a_line_and_an_anxious_one_does_not() -> None:
    def straightness(anxiety: float) -> float:
        paths = [shake_path(100, anxiety, rng(seed)) for seed in range(20)]
        return float(np.mean([abs(path[-1] - path[0]) / np.abs(np.diff(path)).sum() for path in paths]))

    assert straightness(0) == pytest.approx(1)
    assert straightness(0.001) > straightness(0.01)
    assert straightness(0.01) < 0.5
    assert np.abs(np.diff(shake_path(100, 0.01, rng(1)))) == pytest.approx(0.6)  # of constant speed


def test_the_convolution_is_that_of_scipy() -> None:
    image = PHOTO.astype(np.float32) / 255
    for kind, blur in {"shake": BlurConfig(shake_size=(15, 15)), "defocus": BlurConfig(defocus_size=(6, 6))}.items():
        kernel = KERNELS[kind](blur, rng(4))
        expected = np.stack([convolve2d(image[..., c].astype(float), kernel, mode="valid") for c in range(3)], 2)
        found = convolve(image, kernel)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=2e-6)
        in_light = np.stack([convolve2d((PHOTO[..., c] / 255) ** 2.2, kernel, mode="valid") for c in range(3)], 2)
        difference = blurred(PHOTO, kernel, 2.2) - 255 * np.clip(in_light, 0, 1) ** (1 / 2.2)
        assert np.abs(difference).max() < 0.51  # rounded
        plain = blurred(PHOTO, kernel, 1.0)
        assert np.abs(plain - 255 * expected).max() < 0.51
        assert (plain != blurred(PHOTO, kernel, 2.2)).mean() > 0.1


@pytest.mark.parametrize("gamma", [1.0, 2.2])
@pytest.mark.parametrize("level", [0, 7, 128, 255])
def test_a_constant_stays(level: int, gamma: float) -> None:
    kernel = KERNELS["shake"](BlurConfig(), rng(1))
    constant = np.full((50, 60, 3), level, np.uint8)
    assert set(blurred(constant, kernel, gamma).ravel().tolist()) == {level}


def test_a_point_becomes_the_kernel() -> None:
    kernel = KERNELS["shake"](BlurConfig(shake_size=(9, 9)), rng(2))
    half = kernel.shape[0] // 2
    point = np.zeros((41, 41, 3), np.float32)
    point[20, 17] = 1
    found = convolve(point, kernel)
    place = slice(20 - 2 * half, 21), slice(17 - 2 * half, 18)
    for channel in range(3):
        np.testing.assert_allclose(found[*place, channel], kernel, atol=1e-6)


@pytest.mark.parametrize("noise", ["none", "gaussian", "poisson", "correlated", "camera", "mixture"])
def test_a_crop_is_blurred_with_what_lies_around_it(noise: str) -> None:
    data = data_of(noise, shake_size=[9, 9], defocus=0)
    around = margin(data)
    side = 32 + 2 * around
    region = np.ascontiguousarray(np.resize(photo(side, side, 5), (side, side, 3)))
    degraded, truth = degrade(region, data, rng(7))
    assert degraded.shape == truth.shape == (32, 32, 3)
    assert degraded.dtype == truth.dtype == np.uint8
    again = degrade(region, data, rng(7))
    assert np.array_equal(degraded, again[0])
    assert np.array_equal(truth, again[1])
    assert not np.array_equal(degraded, degrade(region, data, rng(8))[0])
    if noise in ("none", "gaussian", "poisson"):
        assert around == reach(data.blur) == 4
        assert np.array_equal(truth, region[4:-4, 4:-4])
    if noise == "none":  # every pixel of it: the border of the crop too
        generator = rng(7)
        generator.random()  # rescaling
        kernel = draw(data.blur, generator)
        assert kernel is not None
        assert np.array_equal(degraded, blurred(region, kernel, 2.2))


def test_the_truth_of_a_blurred_camera_photo_is_sharp() -> None:
    still = {"shot": [1e-6, 1e-6], "smooth": 0, "sharpen": 0, "jpeg": 0, "rescale": 0, "malvar": 1}
    fields = {"data.noise": "camera", "data.patch": 48, "data.camera": still}
    pairs, wide = [], np.ascontiguousarray(skimage.data.astronaut()[100:196, 100:196])
    for share in (0.0, 1.0):
        blur = {"probability": share, "shake": 0, "defocus": 1, "defocus_size": [6, 6]}
        data = load_recipe(None, fields | {"data.blur": blur}).data
        assert margin(data) == BORDER + (4 if share else 0)
        side = 48 + 2 * margin(data)
        start = 48 - side // 2
        pairs.append(degrade(wide[start : start + side, start : start + side], data, rng(3)))
    (noisy, _), (soft, sharp) = pairs
    assert psnr(noisy, pairs[0][1]) > 40
    detail = [np.abs(np.diff(x.astype(float), axis=0)).mean() for x in (soft, sharp)]
    assert detail[0] < 0.8 * detail[1]


def test_kinds_and_sharp_photos_come_in_their_shares() -> None:
    blur = BlurConfig(probability=0.5, shake=3, defocus=1, shake_size=(3, 3), defocus_size=(11, 11))
    kernels = [draw(blur, rng(seed)) for seed in range(800)]
    sizes = [0 if kernel is None else kernel.shape[0] for kernel in kernels]
    assert sizes.count(0) / 800 == pytest.approx(0.5, abs=0.06)
    assert sizes.count(3) / (800 - sizes.count(0)) == pytest.approx(0.75, abs=0.06)
    assert draw(BlurConfig(), rng(0)) is None
    assert reach(BlurConfig()) == 0
    assert reach(blur) == 7
    assert reach(BlurConfig(probability=1, defocus=0, shake_size=(3, 20))) == 10


def test_samples_do_not_depend_on_processes(tmp_path: Path) -> None:
    fields = {"data.patch": 16, "data.noise": "gaussian", "data.patches_per_image": 2, "data.blur.probability": 0.8}
    data = load_recipe(None, fields | {"data.sigma": [1, 3]}).data
    collection = load_collection([str(clean_folder(tmp_path, 3, height=70, width=70))], data, "restore", "train")
    batches = []
    for workers in (0, 2):
        loader = Loader(
            collection, replace(data, workers=workers), Preprocess(size=(16, 16)), TrainConfig(batch_size=3, seed=5)
        )
        batches.append([list(loader.epoch(epoch)) for epoch in (0, 1)])
        loader.close()
    for one, other in zip(batches[0], batches[1], strict=True):
        for first, second in zip(one, other, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(batches[0][0][0][0], batches[0][1][0][0])


def test_cases_are_named_after_the_blur_and_repeat(tmp_path: Path) -> None:
    data = data_of(defocus=1)
    collection = load_collection([str(clean_folder(tmp_path, 2))], data, "restore", "val")
    cases = list(eval_cases(collection, data))
    assert [case.condition for case in cases] == ["defocus"] * 2 + ["shake"] * 2
    assert main_condition(data, "restore") == "defocus"
    for case, again in zip(cases, eval_cases(collection, data), strict=True):
        assert np.array_equal(case.truth, read_image(case.path))
        assert np.array_equal(case.image, again.image)
        assert psnr(case.image, case.truth) < 45
    (only, _) = eval_cases(collection, data, only="shake")
    assert np.array_equal(only.image, cases[2].image)
    noisy = data_of("gaussian", shake=2, defocus=1)
    assert condition_names(collection, noisy) == ["shake-sigma5", "defocus-sigma5"]
    assert main_condition(noisy, "restore") == "shake-sigma5"
    first, second = next(eval_cases(collection, noisy)), next(eval_cases(collection, data, only="shake"))
    spread = (first.image.astype(float) - second.image).std()  # of one kernel, with noise and without
    assert spread == pytest.approx(5, rel=0.15)


def test_real_pairs_are_validated_as_they_are(tmp_path: Path) -> None:
    for seed, side in enumerate(("blur", "sharp")):
        write(tmp_path / "go" / "scene" / side / "000001.png", seed)
    train, val = [str(clean_folder(tmp_path / "photos", 2))], [str(tmp_path / "go")]
    data = replace(data_of(), train=tuple(train), val=tuple(val), val_layout="gopro")
    (case,) = eval_cases(load_collection(val, data, "restore", "val"), data)
    assert np.array_equal(case.image, read_image(tmp_path / "go" / "scene" / "blur" / "000001.png"))
    assert (case.condition, main_condition(data, "restore")) == ("", "")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("probability", 1.5),
        ("shake", -1.0),
        ("shake_size", [9, 3]),
        ("shake_size", [0, 3]),
        ("defocus_size", [3, 500]),
        ("defocus_edge", [0, 1]),
        ("anxiety", [0, 3]),
        ("gamma", 0.5),
    ],
)
def test_values_that_make_no_sense_are_usage_errors(field: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"data\.blur\.{field} must be"):
        data_of(**{field: value})


def test_nothing_to_do_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gives no kind of blur a weight"):
        data_of(shake=0, defocus=0)
    with pytest.raises(UsageError, match=r"unknown key data\.blur\.shakes") as caught:
        data_of(shakes=1)
    assert "data.blur.shake" in caught.value.todo
    sharp = data_of(probability=0.0)
    with pytest.raises(UsageError, match=r"noise none and no data\.blur leaves nothing to restore"):
        load_collection([str(clean_folder(tmp_path, 2))], sharp, "restore", "val")
