from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np
import pytest

from pocketvit.bench.timing import Ratio, Timing, interleave, interval_of, speedup


def test_percentiles_of_known_times() -> None:
    timing = Timing(tuple(float(x) for x in range(1, 102)))
    assert (timing.p50, timing.p90, timing.p99, timing.mean) == (51, 91, 100, 51)
    low, high = timing.ci95
    assert 38 <= low < 51 < high <= 64


def test_interval_holds_the_median_in_95_of_100_samples() -> None:
    rng = np.random.default_rng(0)
    true = np.exp(1.0)
    hits = 0
    for _ in range(400):
        low, high = interval_of(tuple(rng.lognormal(1.0, 0.5, 41)))
        hits += low <= true <= high
    assert 0.92 <= hits / 400 <= 0.99


@pytest.mark.parametrize(("percentile", "count"), [(50, 20), (90, 60), (90, 200), (99, 800), (10, 60)])
def test_interval_holds_any_percentile_in_95_of_100_samples(percentile: float, count: int) -> None:
    rng = np.random.default_rng(1)
    true = -np.log1p(-percentile / 100)  # of the exponential distribution
    times = rng.exponential(1.0, (400, count))
    inside = [low <= true <= high for low, high in (Timing(tuple(row)).interval(percentile) for row in times)]
    assert 0.93 <= np.mean(inside) <= 0.995


def test_few_times_bound_a_high_percentile_by_the_largest() -> None:
    timing = Timing(tuple(float(x) for x in range(1, 16)))
    assert timing.interval(90)[1] == 15
    assert timing.interval(90)[0] > timing.interval(50)[0]
    assert Timing(tuple(float(x) for x in range(1, 101))).interval(90)[1] < 100


def test_interval_of_few_times() -> None:
    assert interval_of((3.0,)) == (3.0, 3.0)
    assert interval_of((3.0, 1.0, 2.0)) == (1.0, 3.0)


def test_wide_or_not() -> None:
    rng = np.random.default_rng(0)
    assert not Timing(tuple(rng.normal(10, 0.2, 100))).wide
    assert Timing(tuple(rng.normal(10, 3, 100))).wide
    assert Timing((5.0, 50.0, 5.0)).wide
    assert Timing((4.0,) * 20).spread == 0
    assert not Timing((4.0,) * 20).wide


def test_dictionary_is_json() -> None:
    document = json.loads(json.dumps(Timing((1.0, 2.0, 3.0)).to_dict()))
    assert (document["p50_ms"], document["runs"], document["ci95_ms"]) == (2.0, 3, [1.0, 3.0])
    assert set(document) == {
        "p50_ms",
        "p90_ms",
        "p99_ms",
        "mean_ms",
        "ci95_ms",
        "p90_ci95_ms",
        "spread",
        "wide",
        "runs",
    }


def test_interleaved_in_turns_with_warm_up_left_out() -> None:
    order: list[str] = []
    timings = interleave(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, seconds=0.0, min_rounds=4, warmup=2
    )
    assert order == ["a", "b"] * 6
    assert {name: len(t.times_ms) for name, t in timings.items()} == {"a": 4, "b": 4}


def test_of_several_calls_under_a_name_each_time_is_the_mean_and_they_take_turns_too() -> None:
    order: list[str] = []

    def call(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            order.append(name)
            time.sleep(seconds)

        return run

    calls = {"a": [call("a1", 0.002), call("a2", 0.02)], "b": [call("b1", 0.001), call("b2", 0.001)]}
    timings = interleave(calls, seconds=0.0, min_rounds=3, warmup=1)
    assert order == ["a1", "b1"] + ["a1", "b1", "a2", "b2"] * 3
    assert min(timings["a"].times_ms) >= 11
    assert min(timings["b"].times_ms) >= 1
    assert len(timings["a"].times_ms) == len(timings["b"].times_ms) == 3
    with pytest.raises(ValueError, match="zip"):
        interleave({"a": [lambda: None], "b": [lambda: None] * 2})


def test_stops_after_the_seconds_or_the_rounds() -> None:
    start = time.perf_counter()
    timings = interleave({"a": lambda: time.sleep(0.002)}, seconds=0.1, min_rounds=2, warmup=0)
    assert 0.09 < time.perf_counter() - start < 3
    assert len(timings["a"].times_ms) <= 50
    assert len(interleave({"a": lambda: None}, seconds=5, max_rounds=7)["a"].times_ms) == 7


def test_times_are_milliseconds() -> None:
    assert interleave({"a": lambda: time.sleep(0.005)}, seconds=0.0, min_rounds=5, warmup=0)["a"].p50 >= 5


def test_speedup_is_taken_round_by_round() -> None:
    slow, fast = Timing((10.0, 40.0, 10.0)), Timing((5.0, 20.0, 4.0))  # the machine was slow in the second round
    ratio = speedup(slow, fast)
    assert ratio.ratios == (2.0, 2.0, 2.5)
    assert ratio.p50 == 2.0
    assert ratio.to_dict()["rounds"] == 3
    with pytest.raises(ValueError):
        speedup(slow, Timing((1.0,)))
    assert Ratio((1.0, 3.0)).p50 == 2.0


def test_a_pause_lies_between_calls_and_is_not_counted() -> None:
    began = time.perf_counter()
    timings = interleave({"a": lambda: None, "b": lambda: None}, seconds=0, min_rounds=5, warmup=0, pause_ms=8)
    assert time.perf_counter() - began >= 10 * 0.008
    assert timings["a"].p50 < 4
