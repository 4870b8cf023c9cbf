"""Degraded crops: kinds and their shares, the margin around a crop, conditions of the evaluation."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import skimage.data
from PIL import Image

from pocketvit.data.degrade import _FILTERS, BORDER, KINDS, _rescaled, conditions, degrade, main_of, margin, shares
from pocketvit.errors import UsageError
from pocketvit.spec.recipe import DataConfig, load_recipe

GREY = np.full((128, 128, 3), 128, np.uint8)
PHOTO = np.ascontiguousarray(skimage.data.astronaut()[100:340, 100:340])


def data_of(**fields: object) -> DataConfig:
    return load_recipe(None, {f"data.{key.replace('__', '.')}": value for key, value in fields.items()}).data


def region(data: DataConfig) -> np.ndarray:
    side = data.patch + 2 * margin(data)
    return PHOTO[:side, :side]


def spread(noisy: np.ndarray) -> float:
    return float(noisy.astype(np.float64).std())


def test_white_noise_follows_the_recipe() -> None:
    draw = np.random.default_rng
    assert degrade(GREY, DataConfig(noise="none"), draw(0))[0] is GREY
    assert spread(degrade(GREY, DataConfig(sigma=(10, 10)), draw(0))[0]) == pytest.approx(10, rel=0.03)
    spreads = [spread(degrade(GREY, DataConfig(sigma=(0, 50)), draw(seed))[0]) for seed in range(40)]
    assert min(spreads) < 8
    assert max(spreads) > 40
    assert np.mean(spreads) == pytest.approx(25, abs=6)
    log = DataConfig(sigma=(4, 64), sigma_spacing="log")
    spreads = [spread(degrade(GREY, log, draw(seed))[0]) for seed in range(60)]
    assert np.median(spreads) == pytest.approx(16, rel=0.35)  # half of the way in the logarithm; 34 if it were linear
    assert max(spreads) > 40
    shot, truth = degrade(GREY, DataConfig(noise="poisson", sigma=(0, 0), shot=(0.02, 0.02)), draw(0))
    assert spread(shot) == pytest.approx(255 * np.sqrt(0.02 * 128 / 255), rel=0.03)
    assert truth is GREY


@pytest.mark.parametrize("kind", ["gaussian", "poisson", "correlated", "camera", "mixture"])
def test_a_sample_repeats_with_its_generator(kind: str) -> None:
    data = data_of(noise=kind, patch=32, sigma=[5, 50])
    first, again, other = (degrade(region(data), data, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    for part in first:
        assert part.shape == (32, 32, 3)
        assert part.dtype == np.uint8


GOLDEN = {
    ("camera", 3): (171.037, 55.911, 171.972, 56.667),
    ("camera", 4): (165.161, 65.345, 166.520, 64.810),
    ("correlated", 3): (172.315, 57.334, 172.126, 56.656),
    ("correlated", 4): (166.917, 64.190, 166.421, 64.778),
}
"""Mean and deviation of input and truth, as the first version of these kinds of noise made them."""


@pytest.mark.parametrize(("kind", "seed"), GOLDEN)
def test_samples_are_those_of_every_version(kind: str, seed: int) -> None:
    data = data_of(noise=kind, patch=32, camera__jpeg=0, correlated__jpeg=0)
    pair = degrade(region(data), data, np.random.default_rng(seed))
    assert [f(part) for part in pair for f in (np.mean, np.std)] == pytest.approx(GOLDEN[kind, seed], abs=0.01)


@pytest.mark.parametrize("seed", range(12))
def test_rescaling_sees_the_whole_region_though_it_averages_the_middle_alone(seed: int) -> None:
    data = data_of(noise="camera", patch=64, camera__reduce=[1, 4], camera__rescale_by=[0.5, 3])
    side, turned = 80, np.rot90(region(data))
    found = _rescaled(turned, side, data, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    times, factor = int(rng.integers(1, 5)), rng.uniform(0.5, 3)
    small = Image.fromarray(np.ascontiguousarray(turned)).reduce(times)
    size = min(*small.size, side / factor / times)
    box = [(length - size) / 2 for length in small.size] + [(length + size) / 2 for length in small.size]
    wanted = np.asarray(small.resize((side, side), _FILTERS[int(rng.integers(3))], box=tuple(box)))
    assert np.abs(found.astype(int) - wanted).max() <= 1


def test_the_margin_is_what_filters_and_rescaling_need() -> None:
    assert margin(data_of(noise="gaussian")) == 0
    assert margin(data_of(noise="camera", camera__rescale=0, patch=64)) == BORDER
    assert margin(data_of(noise="camera", patch=64)) == (2 * (64 + 2 * BORDER) - 64) // 2
    assert margin(data_of(noise="camera", patch=64, camera__rescale_by=[1, 2])) == BORDER
    assert margin(data_of(noise="mixture", mixture={"camera": 0, "correlated": 0, "gaussian": 1})) == 0


def test_without_rescaling_the_crop_is_the_middle_of_the_region() -> None:
    still = {"shot": [1e-6, 1e-6], "smooth": 0, "sharpen": 0, "jpeg": 0}
    data = data_of(noise="camera", camera={**still, "rescale": 0}, patch=64)
    degraded, truth = degrade(region(data), data, np.random.default_rng(0))
    middle = region(data)[BORDER:-BORDER, BORDER:-BORDER].astype(float)
    assert np.mean((truth - middle) ** 2) < 150
    assert np.abs(degraded.astype(int) - truth).max() <= 3
    soft = data_of(noise="camera", camera={**still, "rescale": 1, "rescale_by": [0.5, 0.5]}, patch=64)
    rough, smooth = (
        np.abs(np.diff(x.astype(float), axis=1)).mean()
        for x in (truth, degrade(region(soft), soft, np.random.default_rng(0))[1])
    )
    assert rough != smooth


def test_correlated_noise_has_the_level_and_the_length_asked_for() -> None:
    plain = {"signal": 0, "rescale": 0, "sharpen": 0, "jpeg": 0}
    wide = data_of(
        noise="correlated", correlated={**plain, "sigma": [12, 12], "luma": [2, 2], "color": [2, 2]}, patch=96
    )
    white = data_of(
        noise="correlated", correlated={**plain, "sigma": [12, 12], "luma": [0, 0], "color": [0, 0]}, patch=96
    )
    for data, low, high in ((wide, 0.8, 1.0), (white, -0.1, 0.1)):
        noisy, truth = degrade(GREY[:112, :112], data, np.random.default_rng(1))
        noise = noisy.astype(float) - truth
        assert noise.std() == pytest.approx(12, rel=0.2)
        assert low < np.mean(noise[:, :-1] * noise[:, 1:]) / noise.var() < high


def test_jpeg_reaches_the_input_and_never_the_truth() -> None:
    settings = {"shot": [1e-6, 1e-6], "smooth": 0, "sharpen": 0, "rescale": 0, "malvar": 0}
    both = [
        degrade(region(data), data, np.random.default_rng(5))
        for data in (
            data_of(noise="camera", camera={**settings, "jpeg": share, "quality": [60, 60]}, patch=64)
            for share in (0, 1)
        )
    ]
    assert np.abs(both[0][0].astype(int) - both[0][1]).max() <= 3
    assert np.abs(both[1][0].astype(int) - both[1][1]).max() > 5


def test_a_mixture_draws_its_kinds_by_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: Counter[str] = Counter()

    def counted(kind: str):  # type: ignore[no-untyped-def]
        return lambda image, data, rng: (taken.update([kind]), (image, image))[1]

    for kind in KINDS:
        monkeypatch.setitem(KINDS, kind, counted(kind))
    data = data_of(noise="mixture", mixture={"camera": 6, "correlated": 0, "gaussian": 3, "poisson": 1}, patch=16)
    assert list(shares(data)) == ["camera", "gaussian", "poisson"]
    assert shares(data)["camera"] == pytest.approx(0.6)
    rng = np.random.default_rng(0)
    for _ in range(1000):
        degrade(region(data), data, rng)
    assert taken["camera"] == pytest.approx(600, abs=50)
    assert taken["poisson"] == pytest.approx(100, abs=30)
    assert taken["correlated"] == 0


def test_a_mixture_may_be_of_one_kind() -> None:
    alone = data_of(noise="mixture", mixture={"camera": 0, "correlated": 0, "gaussian": 1}, sigma=[10, 10], patch=32)
    noisy, truth = degrade(GREY[:32, :32], alone, np.random.default_rng(0))
    assert spread(noisy) == pytest.approx(10, rel=0.1)
    assert np.array_equal(truth, GREY[:32, :32])


def test_conditions_of_an_evaluation_are_named() -> None:
    assert [each.name for each in conditions(data_of(eval_sigma=[15, 50]))] == ["sigma15", "sigma50"]
    assert [each.name for each in conditions(data_of(noise="poisson", shot=[0, 0.02]))][1] == "sigma25shot0.01"
    mixed = data_of(noise="mixture", eval_sigma=[15, 25, 50])
    assert [each.name for each in conditions(mixed)] == ["camera", "correlated", "sigma15", "sigma25", "sigma50"]
    assert main_of(mixed).name == "camera"
    assert main_of(data_of()).name == "sigma25"
    image = PHOTO[:51, :53]
    for condition in conditions(mixed):
        degraded, truth = condition.apply(image, np.random.default_rng(0))
        again, _ = condition.apply(image, np.random.default_rng(0))
        assert degraded.shape == truth.shape == image.shape
        assert np.array_equal(degraded, again)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("data.camera.jpeg", 1.5, "data.camera.jpeg"),
        ("data.camera.quality", [90, 60], "data.camera.quality"),
        ("data.camera.shot", [0, 0.1], "data.camera.shot"),
        ("data.correlated.sigma", [5, 2], "data.correlated.sigma"),
        ("data", {"sigma": [0, 50], "sigma_spacing": "log"}, "data.sigma must start above 0"),
        ("data.sigma_spacing", "cubic", "data.sigma_spacing"),
        ("data.mixture", {"camera": 0, "correlated": 0, "gaussian": 0}, "data.mixture"),
        ("data.mixture.gaussian", -1, "data.mixture.gaussian"),
        ("data.camera.jpg", 0.5, "data.camera.jpg"),
        ("data.camera.malvar", "often", "data.camera.malvar"),
    ],
)
def test_ranges_are_held_before_anything_is_built(field: str, value: object, named: str) -> None:
    with pytest.raises(UsageError, match=named.replace(".", r"\.")):
        load_recipe(None, {field: value})
