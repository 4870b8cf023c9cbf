"""The knob of a restorer: nothing, less than trained, as trained, more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pocketvit.errors import UsageError
from pocketvit.runtimes.model import Model, load
from pocketvit.spec.manifest import Manifest
from pocketvit.spec.tasks.strength import Strength, adjusted
from tests.tiny import make_tiny_artifact, noisy, photo


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_tiny_artifact(tmp_path_factory.mktemp("strength") / "restore").path)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return noisy(photo(150, 170))  # several tiles


def answer(model: Model, image: np.ndarray, strength: Any = None) -> np.ndarray:
    found: np.ndarray = model(image, strength=strength).image  # type: ignore[attr-defined]
    return found


def test_the_ends_are_exact(model: Model, image: np.ndarray) -> None:
    plain = answer(model, image)
    assert (plain != image).any()
    assert (answer(model, image, 0) == image).all()
    assert (answer(model, image, 1) == plain).all()
    assert (answer(model, image, 2) == answer(model, plain)).all()


@pytest.mark.parametrize("strength", [0.25, 0.5, 0.9, 1.3, 1.75])
def test_between_them_pixels_are_blended_and_rounded_once(model: Model, image: np.ndarray, strength: float) -> None:
    first = answer(model, image)
    start, end, share = (image, first, strength) if strength < 1 else (first, answer(model, first), strength - 1)
    wanted = start + share * (end.astype(float) - start)
    assert np.abs(answer(model, image, strength) - wanted).max() <= 0.5 + 1e-4


def test_the_input_is_left_alone_and_the_model_runs_as_often_as_needed(image: np.ndarray) -> None:
    before, runs = image.copy(), list[int]()

    def half(pixels: np.ndarray) -> np.ndarray:
        runs.append(1)
        return pixels // 2

    for strength, count in ((0.0, 0), (0.5, 1), (1.0, 1), (1.5, 2), (2.0, 2)):
        runs.clear()
        adjusted(image, half, strength)
        assert len(runs) == count
    assert (image == before).all()


@pytest.mark.parametrize("strength", [-0.1, 2.1, float("nan"), float("inf"), "1", True])
def test_what_is_out_of_range_is_refused_before_anything_runs(model: Model, strength: object) -> None:
    with pytest.raises(UsageError, match="at least 0 and at most 2"):
        answer(model, "no such file", strength)  # type: ignore[arg-type]


def test_the_manifest_states_the_range(tmp_path: Path, image: np.ndarray) -> None:
    model = load(make_tiny_artifact(tmp_path / "a", strength=Strength(low=0.5, high=1)).path)
    assert model.manifest.strength == Strength(low=0.5, high=1)
    answer(model, image, 0.5)
    with pytest.raises(UsageError, match=r"at least 0\.5 and at most 1"):
        answer(model, image, 1.5)


def test_a_classifier_has_none(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "c", "classify")
    with pytest.raises(UsageError, match="strength goes with pictures"):
        load(artifact.path)(photo(40, 40), strength=0.5)
    fields = artifact.manifest.model_dump()
    with pytest.raises(ValidationError, match="classify has no strength"):
        Manifest(**fields | {"strength": {}})
