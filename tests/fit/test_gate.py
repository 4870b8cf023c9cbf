from dataclasses import replace
from pathlib import Path

import pytest

from pocketvit.fit.gate import judge, limits_of, shortfalls, usable_rows
from pocketvit.fit.rows import Row
from pocketvit.spec.budget import Budget, Floor
from pocketvit.spec.recipe import CompressConfig, load_recipe

from .rows_for_tests import ERROR, PSNR, TOP1, limits, row


def test_a_step_stays_only_with_a_gain_and_above_the_floor(tmp_path: Path) -> None:
    base = row(tmp_path, "float", 90, 10)
    faster = row(tmp_path, "faster", 89.8, 7, 90, precision="int8", speedup=1.4, gain=1.4)
    half = limits(floor=Floor(max_drop=0.5))
    assert judge(base, base, faster, CompressConfig(), half).kept
    rejected = judge(base, base, faster, CompressConfig(), limits(floor=Floor(max_drop=0.1)))
    assert not rejected.kept
    assert "below the floor: psnr lost 0.2 > 0.1" in rejected.reason
    same = row(tmp_path, "same", 90, 10, 90, speedup=1.0, gain=1.0)
    assert "no gain over float" in judge(base, base, same, CompressConfig(), half).reason
    small = row(tmp_path, "small", 90, 10, 30, speedup=1.0, gain=1.0)
    assert judge(base, base, small, CompressConfig(), half).kept
    assert not judge(base, base, small, CompressConfig(min_shrink=4.0), half).kept
    assert not judge(base, base, faster, CompressConfig(min_speedup=1.5), half).kept
    # What only prepares the step behind it needs no gain, but the floor holds for it too.
    ready = judge(base, base, same, CompressConfig(), half, prepares=True)
    assert ready.kept
    assert ready.reason.startswith("stays for the steps behind it: 1.00x speed")
    bad = row(tmp_path, "bad", 80, 10, 90, speedup=1.0, gain=1.0)
    assert not judge(base, base, bad, CompressConfig(), half, prepares=True).kept
    crashed = Row("x", "onnxruntime", "int8", reason="crashed")
    assert judge(base, base, crashed, CompressConfig(), half).reason == "crashed"


def test_a_step_is_judged_against_the_state_before_and_against_the_float_file(tmp_path: Path) -> None:
    origin = row(tmp_path, "float", 30.0, 10)
    before = row(tmp_path, "pruned", 29.9, 6, 50, speedup=1.7, gain=1.7)
    step = row(tmp_path, "pruned > int8", 29.85, 5.9, 49, speedup=1.7, gain=1.01)
    assert "no gain over pruned" in judge(origin, before, step, CompressConfig(), limits()).reason
    lost = replace(step, gain=1.5)
    # 0.05 dB against the state before, but 0.15 dB against the float file, which is what the floor counts from.
    verdict = judge(origin, before, lost, CompressConfig(), limits(floor=Floor(max_drop=0.1)))
    assert "psnr lost 0.15 > 0.1" in verdict.reason
    slower_than_float = replace(step, gain=1.5, speedup=0.9)
    grown = row(tmp_path, "grown", 29.9, 9, 100)
    refused = judge(origin, grown, replace(slower_than_float, built=grown.built), CompressConfig(), limits())
    assert "no gain over float" in refused.reason


@pytest.mark.parametrize(
    ("metric", "kb", "words"),
    [
        (90, 100, "1.20x speed, as large, psnr unchanged"),
        (89.9996, 40, "1.20x speed, 2.50x smaller, psnr -0.0004 dB"),
        (90.25, 125, "1.20x speed, 1.25x larger, psnr +0.25 dB"),
    ],
)
def test_what_did_not_change_is_said_so(tmp_path: Path, metric: float, kb: int, words: str) -> None:
    base, step = row(tmp_path, "float", 90, 10), row(tmp_path, "step", metric, 8, kb, speedup=1.2, gain=1.2)
    assert judge(base, base, step, CompressConfig(), limits()).reason == words


def test_a_librarys_default_is_a_field_and_is_never_kept(tmp_path: Path) -> None:
    base = row(tmp_path, "float", 90, 10)
    default = row(tmp_path, "any name", 90, 5, 20, precision="int8", speedup=2.0, gain=2.0, baseline=True)
    verdict = judge(base, base, default, CompressConfig(), limits())
    assert not verdict.kept
    assert "built to compare with" in verdict.reason


def test_a_metric_of_which_less_is_better_is_judged_in_its_direction(tmp_path: Path) -> None:
    base = row(tmp_path, "float", 0.10, 10)
    worse = row(tmp_path, "worse", 0.13, 5, 50, gain=2.0, speedup=2.0)
    better = row(tmp_path, "better", 0.09, 5, 50, gain=2.0, speedup=2.0)
    floor = limits(floor=Floor(max_drop=0.02), spec=ERROR)
    assert "abs_rel lost 0.03 > 0.02" in judge(base, base, worse, CompressConfig(), floor).reason
    assert judge(base, base, better, CompressConfig(), floor).kept
    ceiling = limits(floor=Floor(value=0.12), spec=ERROR)
    assert shortfalls(worse, [worse], ceiling) == ["abs_rel 0.13 > 0.12"]
    assert shortfalls(base, [base], ceiling) == []


def test_the_default_floor_is_that_of_the_metric_it_is_on() -> None:
    sets = {"task": {"name": "restore"}}
    assert limits_of(load_recipe(None, sets), "psnr@sigma25").floor.max_drop == 0.1
    assert limits_of(load_recipe(None, sets | {"floor.metric": "ssim"}), "ssim").floor.max_drop == 0.005
    assert limits_of(load_recipe(None, sets | {"floor.value": 30}), "psnr").floor.max_drop is None
    assert limits_of(load_recipe(None, {}), "fine.top1").floor.max_drop == 1.0


def test_a_latency_limit_is_met_when_the_upper_end_of_its_interval_is(tmp_path: Path) -> None:
    wide = row(tmp_path, "wide", 90, 10, times=tuple(8.0 + 0.1 * i for i in range(41)))
    low, high = wide.timing.interval(50)
    assert low < wide.timing.p50 == 10.0 < high
    assert shortfalls(wide, [wide], limits(Budget(latency_ms=high + 0.01))) == []
    assert shortfalls(wide, [wide], limits(Budget(latency_ms=10.05))) == [f"latency_ms {high:.4g} > 10.05"]
    slow90 = wide.timing.interval(90)[1]
    assert shortfalls(wide, [wide], limits(Budget(latency_ms=slow90 - 0.01, percentile="p90"))) != []


def test_rows_say_every_limit_they_miss(tmp_path: Path) -> None:
    slow = row(tmp_path, "slow", 80, 50, 5000, memory_mb=300.0, times=(50.0,) * 20)
    missed = shortfalls(slow, [slow], limits(Budget(latency_ms=10, size_mb=1, memory_mb=200), Floor(value=85), TOP1))
    assert missed == ["latency_ms 50 > 10", "size_mb 5 > 1", "memory_mb 300 > 200", "top1 80 < 85"]
    assert shortfalls(Row("x"), [], limits()) == ["not measured"]


def test_a_drop_counts_from_the_float_file_of_the_same_origin_and_runtime(tmp_path: Path) -> None:
    big = row(tmp_path, "big", 92, 25, origin="big")
    small = row(tmp_path, "small", 89, 10, origin="small")
    int8 = row(tmp_path, "int8", 88.5, 5, 30, precision="int8", origin="small")
    assert usable_rows([big, small, int8], limits(floor=Floor(max_drop=1.0))) == [big, small, int8]
    assert usable_rows([big, small, int8], limits(floor=Floor(max_drop=0.4))) == [big, small]


@pytest.mark.parametrize(("precision", "names"), [("any", ["float", "int8"]), ("int8", ["int8"]), ("bf16", [])])
def test_the_targets_precision_limits_the_choice(tmp_path: Path, precision: str, names: list[str]) -> None:
    rows = [row(tmp_path, "float", 90, 10), row(tmp_path, "int8", 89.99, 8, 50, precision="int8")]
    assert [r.name for r in usable_rows(rows, limits(spec=PSNR, precision=precision))] == names


def test_a_speed_gain_that_may_be_noise_is_none(tmp_path: Path) -> None:
    base = row(tmp_path, "float", 90, 10)
    faster = row(tmp_path, "faster", 90, 9, precision="bf16", speedup=1.1, gain=1.1)
    assert judge(base, base, faster, CompressConfig(), limits()).kept
    assert "no gain" in judge(base, base, replace(faster, certain=False), CompressConfig(), limits()).reason
