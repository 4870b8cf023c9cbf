"""The table of steps: a step's type decides which function carries it out. A new step is a dataclass, a function and one row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pocketvit.compress.cast import Bf16, Fp16, bf16, fp16
from pocketvit.compress.onnxruntime_int8 import LibraryDefaultInt8, StaticInt8, library_default_int8, static_int8
from pocketvit.compress.openvino_int8 import NncfInt8, nncf_int8
from pocketvit.compress.report import LayerRank, Pixels, StepReport
from pocketvit.errors import UsageError
from pocketvit.export.built import Built

STEPS: dict[type, Callable[..., StepReport]] = {
    StaticInt8: static_int8,
    LibraryDefaultInt8: library_default_int8,
    NncfInt8: nncf_int8,
    Bf16: bf16,
    Fp16: fp16,
}

BY_NAME: dict[tuple[str, str], type] = {
    ("onnxruntime", "int8"): StaticInt8,
    ("openvino", "int8"): NncfInt8,
    ("openvino", "bf16"): Bf16,
    ("openvino", "fp16"): Fp16,
    ("onnxruntime", "fp16"): Fp16,
}
"""Which step a recipe's name means in each runtime; pairs that are missing do not exist."""

__all__ = [
    "BY_NAME",
    "STEPS",
    "Bf16",
    "Fp16",
    "LayerRank",
    "LibraryDefaultInt8",
    "NncfInt8",
    "StaticInt8",
    "StepReport",
    "apply",
]


def apply(
    step: Any, built: Built, calibration: Sequence[Pixels], score: Callable[[Path], float] | None, folder: Path
) -> StepReport:
    """Carry out one step; the input file is never changed.

    Args:
        step: an instance of one of ``STEPS``.
        built: the float file to start from.
        calibration: (H, W, 3) uint8 model inputs from training images.
        score: metric of a model file, higher is better; ``None`` where there is none.
        folder: existing folder for the new file.

    Raises:
        UsageError: no such step, or it does not go with the file.
        DataError: calibration images are needed and missing.
    """
    if type(step) not in STEPS:
        raise UsageError(
            f"{type(step).__name__} is no compression step.", f"Take one of {', '.join(t.__name__ for t in STEPS)}."
        )
    return STEPS[type(step)](step, built, calibration, score, folder)
