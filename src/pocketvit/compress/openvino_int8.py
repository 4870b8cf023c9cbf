"""Static int8 for OpenVINO, done by NNCF: its transformer recipe keeps in float what transformers need there.

Where the result misses the floor, layers go back to float, first those whose rounding disturbs the answers most for the
work it saves: the quantiser of one layer's input is taken out of the graph, and the outputs say what that mended.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from pocketvit.compress.step import Context, LayerRank, StepReport, milder_counts
from pocketvit.errors import DataError, MissingDependencyError, UsageError
from pocketvit.export import openvino as openvino_format
from pocketvit.export.built import Built
from pocketvit.export.wrap import INPUT
from pocketvit.spec.preprocess import Pixels

RANK_IMAGES = 8
"""Calibration images on which layers are ranked."""


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
    smooth_quant: float | None = None
    """Strength of smooth quantisation for matrix products; ``None`` is NNCF's own choice, -1 switches it off."""
    max_float_layers: int | None = None
    """At most so many layers go back to float where the floor is missed; ``None`` sets no limit."""

    def __post_init__(self) -> None:
        if self.preset not in ("mixed", "performance"):
            raise UsageError(f"int8: unknown preset {self.preset!r}.", "Take mixed or performance.")


def nncf_int8(step: NncfInt8, built: Built, context: Context) -> Iterator[StepReport]:
    """Quantise a float OpenVINO IR; asked again, with more layers in float.

    Args:
        step: settings.
        built: the float file (``openvino:fp32``).
        context: calibration images.

    Raises:
        UsageError: not a float IR, or an ignored pattern matches nothing.
        DataError: no calibration images.
        MissingDependencyError: NNCF or OpenVINO is missing.
    """
    if built.runtime != "openvino" or built.precision != "fp32":
        raise UsageError(f"this int8 step starts from openvino:fp32, not {built.key}.", "Export to OpenVINO first.")
    if not context.calibration:
        raise DataError("there are no calibration images.", "Give some training images.")
    quantised = _quantise(step, built, context.calibration, ())
    stem = f"{built.path.stem}-int8"
    # The graph is saved from a copy: saving changes it, and the ranking needs it as it is.
    yield StepReport("int8", asdict(step), openvino_format.save(quantised.clone(), context.folder, stem, "int8"))
    quantised.reshape([1, *context.calibration[0].shape])  # where it takes any size: the work is counted by shapes
    order, errors = _rank(quantised, built, context)
    macs = [_macs(op) for op in order]
    most = len(order) - 1 if step.max_float_layers is None else min(len(order) - 1, step.max_float_layers)
    for count in list(milder_counts(macs, 0, most))[1:]:
        floats = tuple(op.get_friendly_name() for op in order[:count])
        result = openvino_format.save(_quantise(step, built, context.calibration, floats), context.folder, stem, "int8")
        ranking = tuple(
            LayerRank(op.get_friendly_name(), error, mac, i < count)
            for i, (op, error, mac) in enumerate(zip(order, errors, macs, strict=True))
        )
        yield StepReport("int8", asdict(step), result, ranking, (), {"float_share": sum(macs[:count]) / sum(macs)})


def _quantise(step: NncfInt8, built: Built, calibration: Sequence[Pixels], floats: Sequence[str]) -> Any:
    """The quantised graph with the layers named ``floats`` left in float."""
    try:
        import nncf
    except ImportError as error:
        raise MissingDependencyError.of("NNCF", "train") from error
    logging.getLogger("nncf").setLevel(logging.ERROR)
    options: dict[str, Any] = {"fast_bias_correction": step.fast_bias_correction}
    if step.transformer:
        options["model_type"] = nncf.ModelType.TRANSFORMER
    if step.ignored or floats:
        options["ignored_scope"] = nncf.IgnoredScope(names=list(floats), patterns=list(step.ignored))
    if step.smooth_quant is not None:
        alphas = nncf.AdvancedSmoothQuantParameters(matmul=step.smooth_quant)
        options["advanced_parameters"] = nncf.AdvancedQuantizationParameters(smooth_quant_alphas=alphas)
    graph = openvino_format.engine().Core().read_model(str(built.path))
    dataset = nncf.Dataset([{INPUT: image[None]} for image in calibration])
    preset = nncf.QuantizationPreset(step.preset)
    try:
        return nncf.quantize(graph, dataset, preset=preset, subset_size=len(calibration), **options)
    except nncf.ValidationError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"NNCF: {reason}.", "Correct the step's `ignored` patterns.") from error


def _rank(quantised: Any, built: Built, context: Context) -> tuple[list[Any], list[float]]:
    """Quantised matrix products and convolutions, the one that should go back to float first, and their errors."""
    core = openvino_format.engine().Core()
    images = context.calibration[:RANK_IMAGES]
    reference = _answers(core, core.read_model(str(built.path)), images, context)

    def error(graph: Any) -> float:
        got = _answers(core, graph, images, context)
        return float(np.mean([context.change(a, b) for a, b in zip(got, reference, strict=True)]))

    layers = [op for op in quantised.get_ops() if _is_quantised_layer(op)]
    whole = error(quantised)
    mended = {}
    for op in layers:
        without = quantised.clone()
        twin = next(x for x in without.get_ops() if x.get_friendly_name() == op.get_friendly_name())
        twin.input(0).replace_source_output(twin.input_value(0).get_node().input_value(0))
        mended[op.get_friendly_name()] = max(whole - error(without), 0.0)
    order = sorted(layers, key=lambda op: -(mended[op.get_friendly_name()] ** 2) / max(_macs(op), 1))
    return order, [mended[op.get_friendly_name()] for op in order]


def _is_quantised_layer(op: Any) -> bool:
    kinds = ("MatMul", "Convolution", "GroupConvolution")
    return op.get_type_name() in kinds and op.input_value(0).get_node().get_type_name() == "FakeQuantize"


def _macs(op: Any) -> int:
    """Multiply-accumulates of a matrix product or convolution, from its shapes."""
    output, weight = math.prod(op.output(0).get_shape()), list(op.input_value(1).get_shape())
    if op.get_type_name() == "MatMul":
        return output * list(op.input_value(0).get_shape())[-1]
    return output * math.prod(weight[1:] if op.get_type_name() == "Convolution" else weight[2:])


def _answers(core: Any, graph: Any, images: Sequence[Pixels], context: Context) -> list[list[np.ndarray]]:
    config = {"INFERENCE_NUM_THREADS": context.threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(graph, "CPU", config)
    return [[np.array(compiled({INPUT: x[None]})[port]) for port in compiled.outputs] for x in images]
