"""Flicker is measured against hand-worked numbers; the smoother takes trembling out and lets motion through."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from pocketvit.errors import DataError, UsageError
from pocketvit.spec.depth_video import Smoother, change


def _map(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def test_change_by_hand() -> None:
    found = change(_map(1, 2, 4, 0), _map(2, 4, 8.8, 3))  # twice as far, but for one tenth more at the third pixel
    assert found.metres == pytest.approx((1 + 2 + 4.8) / 3, rel=1e-6)
    assert found.aligned == pytest.approx(0.4 / 3, rel=1e-5)
    assert found.relative == pytest.approx(0.1 / 3, rel=1e-5)


def test_pixels_without_a_value_do_not_count_and_none_in_common_is_an_error() -> None:
    assert change(_map(1, 0), _map(1, 5)).metres == 0
    with pytest.raises(DataError, match="no pixel in common"):
        change(_map(1, 0), _map(0, 1))
    with pytest.raises(DataError, match="no neighbours"):
        change(_map(1, 1), np.ones((2, 2), np.float32))


def test_a_still_trembles_less() -> None:
    rng = np.random.default_rng(0)
    still = np.linspace(1, 4, 64 * 64).reshape(64, 64)
    frames = [(still * (1 + 0.01 * rng.standard_normal(still.shape))).astype(np.float32) for _ in range(20)]
    smoother = Smoother()
    steady = [smoother(frame) for frame in frames]

    def flicker(maps: list[np.ndarray]) -> float:
        return float(np.mean([change(a, b).relative for a, b in pairwise(maps[5:])]))

    assert flicker(steady) < 0.35 * flicker(frames)
    assert np.abs(steady[-1] - still).mean() < np.abs(frames[-1] - still).mean()


def test_motion_is_taken_as_it_is() -> None:
    smoother, before, after = Smoother(), np.full((8, 8), 4, np.float32), np.full((8, 8), 4, np.float32)
    after[:, :3] = 1  # something came near
    smoother(before)
    np.testing.assert_allclose(smoother(after), after, rtol=1e-5)


def test_scale_is_that_of_the_newest_frame() -> None:
    smoother = Smoother(keep=0.9)
    smoother(np.full((4, 4), 2, np.float32))
    np.testing.assert_allclose(smoother(np.full((4, 4), 3, np.float32)), 3, rtol=1e-6)


def test_keep_0_changes_nothing_and_reset_and_size_begin_anew() -> None:
    a, b = _map(1, 2, 3), _map(1.02, 2, 3)
    plain = Smoother(keep=0)
    plain(a)
    np.testing.assert_array_equal(plain(b), b)
    kept = Smoother()
    kept(a)
    assert kept(b)[0, 0] < 1.02
    kept.reset()
    np.testing.assert_array_equal(kept(b), b)
    np.testing.assert_array_equal(kept(np.ones((2, 2), np.float32)), np.ones((2, 2), np.float32))


@pytest.mark.parametrize("wrong", [{"keep": 1.0}, {"keep": -0.1}, {"jump": 0.0}])
def test_settings_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="smoother"):
        Smoother(**wrong)
