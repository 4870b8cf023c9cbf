"""Static int8 for OpenVINO, done by NNCF: its transformer recipe keeps what transformers need in float (without it top-1 collapses)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pocketvit.compress.report import Pixels, StepReport
from pocketvit.errors import DataError, MissingDependencyError, UsageError
from pocketvit.export import openvino as openvino_format
from pocketvit.export.built import Built
from pocketvit.export.wrap import INPUT


@dataclass(frozen=True)
class NncfInt8:
    """Settings of ``nncf.quantize``."""

    preset: Literal["mixed", "performance"] = "mixed"
    """``mixed``: asymmetric activations; ``performance``: symmetric everywhere."""
    transformer: bool = True
    """NNCF's recipe for transformer graphs."""
    ignored: tuple[str, ...] = ()
    """Regular expressions of layer names that stay in float, e.g. ``.*fc2.*``."""
    fast_bias_correction: bool = True
    smooth: float | None = None
    """Strength of smooth quantisation for matrix products; ``None`` is NNCF's own choice, -1 switches it off."""

    def __post_init__(self) -> None:
        if self.preset not in ("mixed", "performance"):
            raise UsageError(f"int8: unknown preset {self.preset!r}.", "Take mixed or performance.")


def nncf_int8(
    step: NncfInt8, built: Built, calibration: Sequence[Pixels], score: Callable[[Path], float] | None, folder: Path
) -> StepReport:
    """Quantise a float OpenVINO IR.

    Args:
        step: settings.
        built: the float file (``openvino:fp32``).
        calibration: (H, W, 3) uint8 model inputs, from training images.
        score: metric of a model file; listed in the report.
        folder: where ``<stem>-int8.xml`` and ``.bin`` are written.

    Raises:
        UsageError: not a float IR, or an ignored pattern matches nothing.
        DataError: no calibration images.
        MissingDependencyError: NNCF or OpenVINO is missing.
    """
    if built.runtime != "openvino" or built.precision != "fp32":
        raise UsageError(f"this int8 step starts from openvino:fp32, not {built.key}.", "Export to OpenVINO first.")
    if not calibration:
        raise DataError("there are no calibration images.", "Give some training images.")
    try:
        import nncf
    except ImportError as error:
        raise MissingDependencyError.of("NNCF", "train") from error
    logging.getLogger("nncf").setLevel(logging.ERROR)
    options: dict[str, Any] = {"fast_bias_correction": step.fast_bias_correction}
    if step.transformer:
        options["model_type"] = nncf.ModelType.TRANSFORMER
    if step.ignored:
        options["ignored_scope"] = nncf.IgnoredScope(patterns=list(step.ignored))
    if step.smooth is not None:
        alphas = nncf.AdvancedSmoothQuantParameters(matmul=step.smooth)
        options["advanced_parameters"] = nncf.AdvancedQuantizationParameters(smooth_quant_alphas=alphas)
    graph = openvino_format.engine().Core().read_model(str(built.path))
    dataset = nncf.Dataset([{INPUT: image[None]} for image in calibration])
    try:
        quantised = nncf.quantize(
            graph, dataset, preset=nncf.QuantizationPreset(step.preset), subset_size=len(calibration), **options
        )
    except nncf.ValidationError as error:
        raise UsageError(
            f"NNCF: {' '.join(str(error).split())[:200]}.", "Correct the step's `ignored` patterns."
        ) from error
    result = openvino_format.save(quantised, folder, f"{built.path.stem}-int8", "int8")
    return StepReport("int8", asdict(step), result, (), ((0, score(result.path)),) if score else ())
