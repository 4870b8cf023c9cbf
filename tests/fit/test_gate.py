from pathlib import Path
from typing import Any

import pytest

from pocketvit.bench.timing import Timing
from pocketvit.export.built import Built
from pocketvit.fit.candidates import Candidate
from pocketvit.fit.gate import Row, choose, float_metric, floor_of, judge, nearest_misses, pareto, shortfalls
from pocketvit.fit.training import halve, rungs
from pocketvit.spec.budget import Budget, Floor
from pocketvit.spec.recipe import CompressConfig, load_recipe


def row(
    tmp_path: Path,
    name: str,
    metric: float,
    ms: float,
    kb: int = 100,
    *,
    precision: str = "fp32",
    p90: float | None = None,
    **more: Any,
) -> Row:
    path = tmp_path / f"{name}.onnx"
    path.write_bytes(b"x" * kb * 1000)
    times = (ms,) * 8 + (p90 if p90 is not None else ms,) * 2
    fields: dict[str, Any] = {"kept": True, "origin": "a", **more}
    return Row(
        name, "onnxruntime", precision, Built("onnxruntime", precision, path), {}, metric, Timing(times), **fields
    )


def test_a_step_stays_only_with_a_gain_and_above_the_floor(tmp_path: Path) -> None:
    base = row(tmp_path, "float", 90, 10)
    faster = row(tmp_path, "faster", 89.8, 7, 90, precision="int8", speedup=1.4)
    assert judge(base, faster, CompressConfig(), Floor(max_drop=0.5)).kept
    rejected = judge(base, faster, CompressConfig(), Floor(max_drop=0.1))
    assert not rejected.kept
    assert "below the floor" in rejected.reason
    assert (
        "no gain"
        in judge(base, row(tmp_path, "same", 90, 10, 90, speedup=1.0), CompressConfig(), Floor(max_drop=1)).reason
    )
    assert judge(base, row(tmp_path, "small", 90, 10, 30, speedup=1.0), CompressConfig(), Floor(max_drop=1)).kept
    assert not judge(
        base, row(tmp_path, "small", 90, 10, 30, speedup=1.0), CompressConfig(min_shrink=4.0), Floor(max_drop=1)
    ).kept
    assert not judge(base, faster, CompressConfig(min_speedup=1.5), Floor(max_drop=1)).kept
    assert judge(base, Row("x", "onnxruntime", "int8", reason="crashed"), CompressConfig(), Floor()).reason == "crashed"


def test_within_a_latency_limit_the_best_metric_wins_and_ties_go_to_the_faster(tmp_path: Path) -> None:
    rows = [
        row(tmp_path, "slow", 92, 30),
        row(tmp_path, "good", 90, 12),
        row(tmp_path, "tie", 89.99, 9),
        row(tmp_path, "fast", 88, 5),
    ]
    assert choose(rows, Budget(latency_ms=15), Floor(max_drop=9))[0].name == "tie"
    assert choose(rows, Budget(), Floor(max_drop=9))[0].name == "fast"
    assert choose(rows, Budget(), Floor(value=91))[0].name == "slow"
    assert choose(rows, Budget(latency_ms=1), Floor())[0] is None
    assert choose(rows, Budget(size_mb=0.05), Floor())[0] is None


def test_a_drop_counts_from_the_float_model_of_the_same_origin(tmp_path: Path) -> None:
    big = row(tmp_path, "big", 92, 25, origin="big")
    small = row(tmp_path, "small", 89, 10, origin="small")
    assert float_metric([big, small], "small") == 89
    assert choose([big, small], Budget(latency_ms=15), Floor(max_drop=1.0))[0].name == "small"


def test_the_percentile_of_the_budget_decides_and_budget_comes_before_pareto(tmp_path: Path) -> None:
    spiky = row(tmp_path, "spiky", 90, 10, p90=40)
    steady = row(tmp_path, "steady", 90, 11, p90=11)
    assert choose([spiky, steady], Budget(latency_ms=15, percentile="p90"), Floor())[0].name == "steady"
    assert choose([spiky, steady], Budget(latency_ms=15), Floor())[0].name == "spiky"


def test_the_targets_precision_limits_the_choice(tmp_path: Path) -> None:
    rows = [row(tmp_path, "float", 90, 10), row(tmp_path, "int8", 89.9, 8, 50, precision="int8")]
    assert choose(rows, Budget(latency_ms=20), Floor(), "int8")[0].name == "int8"
    assert choose(rows, Budget(latency_ms=20), Floor(), "bf16")[0] is None


def test_pareto_drops_what_is_beaten_everywhere_and_keeps_equals(tmp_path: Path) -> None:
    a, b, c = row(tmp_path, "a", 90, 10), row(tmp_path, "b", 89, 11), row(tmp_path, "c", 90, 10)
    assert [r.name for r in pareto([a, b, c])] == ["a", "c"]


def test_rows_say_every_limit_they_miss(tmp_path: Path) -> None:
    slow = row(tmp_path, "slow", 80, 50, 5000)
    missed = shortfalls(slow, [slow], Budget(latency_ms=10, size_mb=1), Floor(value=85))
    assert missed == ["latency_ms 50 > 10", "size_mb 5 > 1", "metric 80 < 85"]
    near = row(tmp_path, "near", 90, 12)
    lines = nearest_misses([slow, near], Budget(latency_ms=10), Floor())
    assert [line.split(":")[0] for line in lines] == ["near", "slow"]


def test_the_default_floor_is_the_tasks(tmp_path: Path) -> None:
    assert floor_of("classify", Floor()).max_drop == 1.0
    assert floor_of("restore", Floor(metric="ssim")).max_drop == 0.1
    assert floor_of("restore", Floor(value=30)).max_drop is None


@pytest.mark.parametrize(("count", "expected"), [(1, [8]), (2, [1, 8]), (4, [1, 2, 8]), (5, [1, 2, 4, 8])])
def test_rungs_double_until_one_model_is_left(count: int, expected: list[int]) -> None:
    assert rungs(load_recipe(None, {"train.epochs": 8}), count) == expected


def test_halving_keeps_one_that_surely_meets_the_latency() -> None:
    a, b, c, d = (Candidate(name, (8, 8)) for name in "abcd")
    values = {a.key: 4.0, b.key: 3.0, c.key: 2.0, d.key: 1.0}
    assert halve([a, b, c, d], values, set()) == [a, b]
    assert halve([a, b, c, d], values, {c.key, d.key}) == [a, c]
    assert halve([a, b], values, {b.key}) == [b]
