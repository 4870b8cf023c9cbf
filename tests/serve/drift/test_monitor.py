"""Detectors speak of a change, soon, once, and not of chance; and when it is over."""

from __future__ import annotations

import numpy as np
import pytest

from pocketvit.serve.drift.monitor import WINDOW, Change, Watch

RNG = np.random.default_rng


def fed(watch: Watch, values: np.ndarray) -> list[tuple[int, Change]]:
    """Each change with the number of values until then."""
    told = [(i, watch.update(float(value))) for i, value in enumerate(values, start=1)]
    return [(i, change) for i, change in told if change is not None]


@pytest.mark.parametrize("shape", ["normal", "exponential"])
def test_chance_is_no_change(shape: str) -> None:
    """10 streams of 1000 requests that are like their references."""
    for seed in range(10):
        values = getattr(RNG(seed), shape)(size=1200)
        assert fed(Watch("noise", values[:200]), values[200:]) == []


@pytest.mark.parametrize("by", [-1.0, 1.0, 3.0])
def test_a_shift_is_told_soon_and_once(by: float) -> None:
    for seed in range(5):
        values = RNG(seed).normal(10, 2, 200)
        watch = Watch("brightness", values)
        assert fed(watch, RNG(seed + 100).normal(10, 2, 150)) == []
        (when, change), *more = fed(watch, RNG(seed + 200).normal(10 + 2 * by, 2, 300))
        assert more == []
        assert watch.drifting
        assert when <= (60 if abs(by) == 1 else 15)
        assert change.statistic == "brightness"
        assert change.detector in ("adwin", "page_hinkley")
        assert change.before == pytest.approx(10, abs=0.5)
        assert np.sign(change.after - change.before) == np.sign(by)


def test_it_is_also_told_where_the_first_requests_are_unlike_the_reference() -> None:
    watch = Watch("noise", RNG(0).normal(5, 1, 200))
    assert fed(watch, RNG(1).normal(9, 1, 50))[0][0] <= 15


def test_a_slow_change_is_told() -> None:
    watch = Watch("brightness", RNG(0).normal(0, 1, 200))
    told = fed(watch, RNG(1).normal(0, 1, 600) + np.linspace(0, 3, 600))
    assert [change.detector for _, change in told] == [told[0][1].detector]
    assert 100 < told[0][0] < 400


def test_a_change_too_small_to_matter_is_not_told() -> None:
    watch = Watch("brightness", RNG(0).normal(0, 1, 500))
    assert fed(watch, RNG(1).normal(0.1, 1, 3000)) == []


def test_when_it_is_over_that_is_told_and_the_next_change_too() -> None:
    watch = Watch("noise", RNG(0).normal(0, 1, 200))
    fed(watch, RNG(1).normal(3, 1, 200))
    ((when, change),) = fed(watch, RNG(2).normal(0, 1, 300))
    assert (change.detector, watch.drifting) == ("recovered", False)
    assert WINDOW * 0.8 <= when <= WINDOW * 1.5
    assert [change.detector != "recovered" for _, change in fed(watch, RNG(3).normal(-3, 1, 50))] == [True]


def test_a_reference_of_one_value_can_be_watched() -> None:
    watch = Watch("noise", np.zeros(50))
    assert fed(watch, np.zeros(50)) == []
    assert fed(watch, np.full(50, 0.5)) != []
