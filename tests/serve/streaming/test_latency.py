import numpy as np
import pytest

from pocketvit.serve.streaming.latency import Percentiles


@pytest.mark.parametrize("scale", [0.05, 3.0, 4000.0])
def test_percentiles_are_right_to_half_a_percent(scale: float) -> None:
    values = np.random.default_rng(0).lognormal(0, 1, 5000) * scale
    found = Percentiles()
    for value in values:
        found.add(value)
    for percent in (1, 50, 90, 99):
        want = np.percentile(values, percent, method="inverted_cdf")
        assert found.at(percent) == pytest.approx(want, rel=0.0051)
    assert found.to_dict() == {"p50": found.at(50), "p90": found.at(90), "max": values.max(), "count": 5000}


def test_nothing_one_value_and_what_lies_outside() -> None:
    found = Percentiles()
    assert found.to_dict() == {"p50": None, "p90": None, "max": None, "count": 0}
    found.add(7.0)
    assert found.at(50) == pytest.approx(7.0, rel=0.0051)
    assert found.at(90) <= 7.0
    for value in (-1.0, 0.0, 1e12):
        found.add(value)
    assert found.count == 4
    assert found.at(1) == pytest.approx(0.001, rel=0.01)


def test_its_memory_does_not_grow() -> None:
    found = Percentiles()
    size = found._bins.nbytes
    for number in range(10_000):
        found.add(number)
    assert found._bins.nbytes == size < 50_000
