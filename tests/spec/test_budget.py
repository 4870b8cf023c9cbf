from __future__ import annotations

import pytest

from pocketvit.errors import UsageError
from pocketvit.spec.budget import Budget, Floor
from pocketvit.spec.target import Target
from pocketvit.spec.tasks import TASKS

PSNR = TASKS["restore"].metric("psnr")


def test_target_text_round_trip() -> None:
    assert Target.parse("openvino:bf16:1") == Target("openvino", "bf16", 1)
    assert Target.parse("openvino") == Target("openvino", "fp32", 2)
    assert str(Target.parse("onnxruntime:int8")) == "onnxruntime:int8:2"
    assert Target.parse("onnxruntime@cuda") == Target("onnxruntime", "fp32", 2, "cuda")
    assert Target.parse("litert:int8:4@phone").key == "litert:int8@phone"
    for text in ("openvino:bf16:1", "onnxruntime:fp16:2@cuda", "openvino:int8:3@npu"):
        assert str(Target.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("t u", "no plain word"),
        ("openvino@", "no plain word"),
        ("openvino@a@b", "no plain word"),
        ("openvino:int3", "unknown precision 'int3'"),
        ("openvino:fp32:x", "no thread count"),
        ("openvino:fp32:0", "at least 1"),
        ("a:b:1:2", "too many"),
    ],
)
def test_wrong_targets(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Target.parse(text)


def test_budget_names_each_limit_that_is_missed() -> None:
    budget = Budget(latency_ms=10, size_mb=5)
    assert budget.misses(latency_ms=10, size_mb=5, memory_mb=1e9) == []
    assert budget.misses(latency_ms=12.5, size_mb=6, memory_mb=None) == ["latency_ms 12.5 > 10", "size_mb 6 > 5"]
    assert budget.misses(latency_ms=None, size_mb=1, memory_mb=None) == []
    assert Budget(memory_mb=100).misses(latency_ms=1, size_mb=1, memory_mb=101) == ["memory_mb 101 > 100"]


@pytest.mark.parametrize("field", ["latency_ms", "size_mb", "memory_mb"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limits_must_be_positive(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"budget.{field}"):
        Budget(**{field: value})


@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_max_drop_must_not_be_negative(value: float) -> None:
    with pytest.raises(UsageError, match=r"floor\.max_drop"):
        Floor(max_drop=value)
    assert Floor(max_drop=0.0).misses(29.9, 30.0, PSNR) == ["psnr lost 0.1 > 0"]


def test_floor_value_must_be_a_number() -> None:
    with pytest.raises(UsageError, match=r"floor\.value"):
        Floor(value=float("nan"))


def test_floor() -> None:
    assert Floor().misses(-1e9, 30, PSNR) == []
    assert Floor(value=29.2).misses(29.2, None, PSNR) == []
    assert Floor(value=29.2).misses(29.1, None, PSNR) == ["psnr 29.1 < 29.2"]
    assert Floor(max_drop=0.5).misses(29.5, 30.0, PSNR) == []
    assert len(Floor(max_drop=0.5, value=29.9).misses(29.4, 30.0, PSNR)) == 2
    assert Floor(max_drop=0.5).misses(1.0, None, PSNR) == []
    distance = TASKS["classify"].metric("mistake_distance")
    assert Floor(value=0.5).misses(0.6, None, distance) == ["mistake_distance 0.6 > 0.5"]
    assert Floor(max_drop=0.1).misses(0.3, 0.5, distance) == []
