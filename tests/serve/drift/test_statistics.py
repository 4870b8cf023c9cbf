"""What is measured of photos is what was put in; distances are Mahalanobis', of a covariance that scikit-learn agrees
with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pocketvit.serve.drift.statistics import (
    Cloud,
    distances_apart,
    laplacian_variance,
    noise_sigma,
    photo_statistics,
    shrunk_covariance,
    statistics_of,
)
from pocketvit.spec.images import list_images, read_image
from pocketvit.spec.regions import octaves, regions
from pocketvit.spec.tasks import TASKS
from tests.tiny import noisy, photo

PHOTOS = Path(__file__).resolve().parents[4] / "shared" / "data" / "bsds500" / "val32"


@pytest.mark.parametrize("sigma", [0, 1, 2, 5, 10, 25, 50])
def test_noise_on_grey_is_what_was_added(sigma: float) -> None:
    grey = np.full((300, 301, 3), 128, np.uint8)
    assert noise_sigma(regions(noisy(grey, sigma))) == pytest.approx(sigma, rel=0.03, abs=0.05)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no real photos here")
def test_noise_on_real_photos_is_near_what_was_added() -> None:
    found = [noise_sigma(regions(noisy(read_image(path), 25))) for path in list_images(PHOTOS)[:8]]
    assert all(23 < sigma < 27 for sigma in found), found


def test_the_four_statistics_of_known_pictures() -> None:
    y, x = np.mgrid[0:200, 0:300]
    squares = np.repeat((((y // 10 + x // 10) % 2) * 100 + 50).astype(np.uint8)[..., None], 3, axis=2)
    found = photo_statistics(squares)
    assert found["brightness"] == pytest.approx(100)
    assert found["contrast"] == pytest.approx(50)
    assert found["noise"] == 0
    dark = photo_statistics(squares // 2)
    assert (dark["brightness"], dark["contrast"]) == (pytest.approx(50), pytest.approx(25))
    assert dark["sharpness"] == pytest.approx(found["sharpness"] / 4)


def test_the_laplacian_is_scipys() -> None:
    from scipy.ndimage import laplace

    plane = np.random.default_rng(0).normal(size=(40, 50))
    assert laplacian_variance(plane[None]) == pytest.approx(laplace(plane)[1:-1, 1:-1].var())


def test_a_large_photo_is_looked_at_in_parts_and_tells_the_same() -> None:
    grey = noisy(np.full((2000, 3000, 3), 90, np.uint8), 10)
    assert regions(grey).shape == (16, 128, 128, 3)
    found = photo_statistics(grey)
    assert found["noise"] == pytest.approx(10, rel=0.03)
    assert found["brightness"] == pytest.approx(90, abs=0.2)
    assert regions(np.zeros((50, 30_000, 3), np.uint8)).shape == (16, 50, 128, 3)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500, 3), (2, 3, 3), (3, 3, 3)])
def test_the_smallest_photos_have_statistics(shape: tuple[int, int, int]) -> None:
    found = photo_statistics(np.full(shape, 7, np.uint8))
    assert found == {"brightness": pytest.approx(7), "contrast": pytest.approx(0), "noise": 0, "sharpness": 0}
    assert np.isfinite(octaves(np.zeros((1, *shape[:2])))).all()


def test_an_octave_holds_what_averaging_takes_away() -> None:
    fine = np.tile([[0.0, 2.0], [2.0, 0.0]], (16, 16))[None]
    coarse = fine.repeat(4, axis=1).repeat(4, axis=2)[:, :32, :32]
    assert octaves(fine) == pytest.approx([np.log10(1.01), -2, -2, -2])
    assert octaves(coarse) == pytest.approx([-2, -2, np.log10(1.01), -2])


@pytest.mark.parametrize(("n", "d"), [(30, 50), (200, 5), (40, 40)])
def test_the_covariance_is_scikit_learns(n: int, d: int) -> None:
    from sklearn.covariance import ledoit_wolf

    rng = np.random.default_rng(n)
    samples = rng.normal(size=(n, d)) @ rng.normal(size=(d, d))
    samples -= samples.mean(axis=0)
    np.testing.assert_allclose(shrunk_covariance(samples), ledoit_wolf(samples, assume_centered=True)[0], rtol=1e-9)


def test_distances_are_one_for_what_is_alike_and_large_for_what_is_not() -> None:
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(8, 8))
    alike, other = rng.normal(size=(400, 8)) @ mix, (rng.normal(size=(50, 8)) + 4) @ mix
    apart = distances_apart(alike)
    cloud = Cloud.of(alike)
    assert np.mean(apart) == pytest.approx(0.95, abs=0.1)
    assert min(cloud.distance(each) for each in other) > np.percentile(apart, 99)
    identical = Cloud.of(np.ones((40, 3)))
    assert identical.distance(np.ones(3)) == 0
    assert np.isfinite(identical.distance(np.zeros(3)))


def test_signs_of_each_task_are_numbers_of_the_stated_names() -> None:
    import dataclasses

    from pocketvit.spec.tasks.classify import Classification, Level
    from pocketvit.spec.tasks.depth import Depth
    from pocketvit.spec.tasks.detect import Detections
    from pocketvit.spec.tasks.restore import Restored
    from pocketvit.spec.tasks.segment import Segmentation

    image, scores = photo(60, 80), np.array([0.1, 0.7, 0.2], np.float32)
    level = Level(**{f.name: {"scores": scores, "labels": ["a", "b", "c"], "index": 1, "name": "label"}[f.name]
                     for f in dataclasses.fields(Level)})  # fmt: skip
    results = {
        "classify": Classification((level,)),
        "restore": Restored(np.clip(image.astype(int) + 3, 0, 255).astype(np.uint8)),
        "depth": Depth(np.linspace(1, 4, 48, dtype=np.float32).reshape(6, 8)),
        "segment": Segmentation(np.tile(scores[:, None, None], (1, 6, 8)), ("a", "b", "c")),
        "detect": Detections(("a", "b", "c"), np.array([[0.1, 0.1, 0.5, 0.6]], np.float32), np.array([1]), scores[1:2]),
    }
    assert set(results) == {name for name, task in TASKS.items() if task.signs}
    found = {}
    for name, result in results.items():
        signs = TASKS[name].signs
        assert signs is not None
        values, embedding = signs.read(result, image)
        assert values.keys() == signs.statistics.keys() <= {each.name for each in statistics_of(name)}
        assert embedding.ndim == 1
        assert np.isfinite([*values.values(), *embedding]).all()
        found[name] = values
    assert found["classify"] == {"confidence": pytest.approx(0.7), "margin": pytest.approx(0.5)}
    assert found["restore"]["removed"] == pytest.approx(3, abs=0.2)
    octaves = pytest.approx(np.log2(3.7 / 1.3), rel=1e-3)
    assert found["depth"] == {"middle": pytest.approx(2.5), "spread": octaves}
    assert found["segment"] == {"confidence": pytest.approx(0.7), "unsure": 0}
    assert found["detect"] == {"boxes": 1, "confidence": pytest.approx(0.7)}
