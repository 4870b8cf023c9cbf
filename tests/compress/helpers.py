"""Carrying out one step, without the gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from pocketvit.compress.onnxruntime_int8 import outputs
from pocketvit.compress.step import Context, StepReport, no_score
from pocketvit.compress.table import STEPS, Planned, attempts
from pocketvit.export.built import Built
from pocketvit.spec.tasks import TASKS


def context(
    folder: Path,
    calibration: Sequence[np.ndarray] = (),
    score: Callable[[Path], float] | None = None,
    task: str = "classify",
) -> Context:
    limit, loss = TASKS[task].change_limits
    return Context(calibration, folder, score or no_score, TASKS[task].change, limit, loss)


def reports(step: Any, built: Built, where: Context) -> list[StepReport]:
    """All attempts of a step."""
    return list(attempts(planned(step), built, where))


def planned(step: Any) -> Planned:
    return Planned(next(kind for kind in STEPS if kind.config is type(step)), step)


def apply(
    step: Any,
    built: Built,
    calibration: Sequence[np.ndarray],
    score: Callable[[Path], float] | None,
    folder: Path,
    task: str = "classify",
) -> StepReport:
    """The first attempt of a step."""
    return next(attempts(planned(step), built, context(folder, calibration, score, task)))


def mean_error(graph: onnx.ModelProto, pictures: Sequence[np.ndarray], reference: Any) -> float:
    change = TASKS["classify" if reference[0][0].ndim == 2 else "restore"].change
    return float(np.mean([change(a, b) for a, b in zip(outputs(graph, pictures), reference, strict=True)]))
