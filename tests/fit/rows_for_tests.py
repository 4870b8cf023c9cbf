"""Rows with figures that were never measured, for tests of decisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pocketvit.bench.timing import Timing
from pocketvit.export.built import Built
from pocketvit.fit.gate import Limits
from pocketvit.fit.rows import Row
from pocketvit.spec.budget import Budget, Floor
from pocketvit.spec.tasks.base import Measure, MetricSpec

TOP1 = MetricSpec("top1", "%", default_drop=1.0, rate=True)
PSNR = MetricSpec("psnr", "dB", default_drop=0.1, tie=0.02)
ERROR = MetricSpec("abs_rel", "", default_drop=0.01, tie=0.001, higher_is_better=False)


def limits(
    budget: Budget | None = None, floor: Floor | None = None, spec: MetricSpec = PSNR, precision: str = "any"
) -> Limits:
    return Limits(budget or Budget(), floor or Floor(max_drop=100.0), spec, precision)


def row(
    folder: Path,
    name: str,
    metric: float,
    ms: float,
    kb: int = 100,
    *,
    precision: str = "fp32",
    times: tuple[float, ...] = (),
    count: int = 1000,
    **more: Any,
) -> Row:
    """A kept row; its times scatter by a hundredth of a percent unless ``times`` are given."""
    path = folder / f"{name}.onnx"
    path.write_bytes(b"x" * kb * 1000)
    times = times or tuple(ms * (1 + 1e-4 * (i % 3 - 1)) for i in range(60))
    fields: dict[str, Any] = {
        "origin": "a",
        "kept": True,
        "main": "m",
        "measures": (Measure("m", metric, "dB", count, metric - 1, metric + 1),),
        "timing": Timing(times),
        "step": "" if precision == "fp32" else precision,
        "built": Built("onnxruntime", precision, path),
    }
    runtime = more.pop("runtime", "onnxruntime")
    return Row(name, runtime, precision, **{**fields, **more})
