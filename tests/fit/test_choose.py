from pathlib import Path

from pocketvit.fit.choose import choose, equal_in, nearest_misses, pareto
from pocketvit.fit.handover import handed_over
from pocketvit.spec.budget import Budget, Floor

from .rows_for_tests import ERROR, TOP1, limits, row


def test_without_a_latency_limit_the_best_metric_wins_and_not_the_fastest(tmp_path: Path) -> None:
    rows = [row(tmp_path, "fast", 40, 5), row(tmp_path, "good", 90, 25)]
    assert choose(rows, limits())[0].name == "good"
    assert choose(rows, limits(), "speed")[0].name == "fast"
    assert choose([row(tmp_path, "small", 40, 9, 10), rows[1]], limits(), "size")[0].name == "small"


def test_within_a_latency_limit_the_best_metric_wins_and_ties_go_to_the_faster(tmp_path: Path) -> None:
    rows = [
        row(tmp_path, "slow", 92, 30),
        row(tmp_path, "good", 90, 12),
        row(tmp_path, "tie", 89.99, 9),
        row(tmp_path, "fast", 88, 5),
    ]
    chosen, why = choose(rows, limits(Budget(latency_ms=15)))
    assert chosen.name == "tie"
    assert why == "the best metric within 15 ms (p50), then the fastest of 2 equals"
    assert choose(rows, limits(floor=Floor(value=91)))[0].name == "slow"
    assert choose(rows, limits(Budget(latency_ms=1)))[0] is None
    assert choose(rows, limits(Budget(size_mb=0.05)))[0] is None


def test_rates_that_differ_by_one_photo_are_equal(tmp_path: Path) -> None:
    slow, fast = row(tmp_path, "slow", 90.0, 12, count=100), row(tmp_path, "fast", 89.0, 6, count=100)
    assert choose([slow, fast], limits(spec=TOP1))[0].name == "fast"
    many = [row(tmp_path, "slow", 90.0, 12, count=1000), row(tmp_path, "fast", 89.0, 6, count=1000)]
    assert choose(many, limits(spec=TOP1))[0].name == "slow"


def test_overlapping_latency_intervals_are_equal_and_the_better_or_smaller_one_is_taken(tmp_path: Path) -> None:
    scattered = tuple(9.0 + 0.05 * i for i in range(41))
    a = row(tmp_path, "a", 90.0, 10, 200, times=scattered)
    b = row(tmp_path, "b", 90.0, 10, 100, times=tuple(t + 0.1 for t in scattered))
    assert equal_in("speed", a, b, limits())
    assert choose([a, b], limits())[0].name == "b"
    c = row(tmp_path, "c", 90.5, 10, 300, times=tuple(t + 0.1 for t in scattered))
    assert choose([a, c], limits(), "speed")[0].name == "c"
    far = row(tmp_path, "far", 90.0, 30)
    assert not equal_in("speed", a, far, limits())


def test_a_metric_of_which_less_is_better_chooses_the_least(tmp_path: Path) -> None:
    rows = [row(tmp_path, "worse", 0.12, 5), row(tmp_path, "better", 0.10, 9)]
    assert choose(rows, limits(spec=ERROR))[0].name == "better"
    assert [r.name for r in pareto([*rows, row(tmp_path, "beaten", 0.13, 10)], limits(spec=ERROR))] == [
        "worse",
        "better",
    ]


def test_the_percentile_of_the_budget_decides(tmp_path: Path) -> None:
    spiky = row(tmp_path, "spiky", 90, 10, times=(10.0,) * 40 + (40.0,) * 20)
    steady = row(tmp_path, "steady", 90, 11)
    assert choose([spiky, steady], limits(Budget(latency_ms=15, percentile="p90")))[0].name == "steady"
    assert choose([spiky, steady], limits(Budget(latency_ms=15)))[0].name == "spiky"


def test_pareto_drops_what_is_beaten_everywhere_and_keeps_equals(tmp_path: Path) -> None:
    a, b, c = row(tmp_path, "a", 90, 10), row(tmp_path, "b", 89, 11), row(tmp_path, "c", 90, 10)
    assert [r.name for r in pareto([a, b, c], limits())] == ["a", "c"]


def test_nearest_misses_come_first_with_what_they_miss(tmp_path: Path) -> None:
    slow = row(tmp_path, "slow", 80, 50, times=(50.0,) * 20)
    near = row(tmp_path, "near", 90, 12, times=(12.0,) * 20)
    lines = nearest_misses([slow, near], limits(Budget(latency_ms=10)))
    assert lines == ["near: latency_ms 12 > 10", "slow: latency_ms 50 > 10"]


def test_the_chosen_row_is_handed_over_first_and_each_variant_once(tmp_path: Path) -> None:
    float_file = row(tmp_path, "float", 90, 20, 400)
    first = row(tmp_path, "int8", 89.9, 10, 100, precision="int8")
    second = row(tmp_path, "int8 (2)", 89.95, 9, 90, precision="int8")
    other = row(tmp_path, "other", 90, 8, 50, precision="fp16", model="another network")
    rows = [float_file, first, second, other]
    assert [r.name for r in handed_over(second, rows, limits())] == ["int8 (2)", "float"]
    assert [r.name for r in handed_over(float_file, rows, limits())] == ["float", "int8 (2)"]


def test_a_file_that_the_base_install_runs_is_handed_over_too(tmp_path: Path) -> None:
    """Also where it is beaten in all figures, or too slow; not where it misses the floor or is of another network."""
    chosen = row(tmp_path, "ov", 91, 5, 50, runtime="openvino")
    slow, slower = row(tmp_path, "ort", 90, 20, 100), row(tmp_path, "ort int8", 89, 30, 200, precision="int8")
    bad, other = row(tmp_path, "bad", 40, 4, 300), row(tmp_path, "other", 90, 6, 60, model="another network")
    rules = limits(Budget(latency_ms=10), Floor(value=80))
    assert [r.name for r in handed_over(chosen, [chosen, slow, slower, bad, other], rules)] == ["ov", "ort"]
    assert [r.name for r in handed_over(chosen, [chosen, bad, other], rules)] == ["ov"]
    small = limits(Budget(size_mb=0.07), Floor(value=80))
    assert [r.name for r in handed_over(chosen, [chosen, slow], small)] == ["ov"]
