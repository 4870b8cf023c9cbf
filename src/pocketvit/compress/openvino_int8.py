"""Static int8 for OpenVINO, done by NNCF: its transformer recipe keeps in float what transformers need there.

Where the result misses the floor, layers go back to float, first those whose rounding disturbs the answers most for the
work it saves: the quantiser of one layer's input is taken out of the graph, and the outputs say what that mended.

What OpenVINO does with a file is proven in a process of its own (:mod:`pocketvit.runtimes.openvino_check`): where it
crashes or answers wrongly, products of two activations, then all matrix products stay in float. What it would do on a
processor with AVX2 and without VNNI, whose products can saturate, is asked in the same way and told.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from pocketvit.compress.step import Context, LayerRank, StepReport, milder_counts
from pocketvit.errors import DataError, MissingDependencyError, UsageError, VerificationError
from pocketvit.export import openvino as openvino_format
from pocketvit.export.built import Built
from pocketvit.export.wrap import INPUT
from pocketvit.runtimes import check_target
from pocketvit.runtimes.openvino import hint_of
from pocketvit.runtimes.openvino_check import WRONG, check_int8
from pocketvit.spec.environment import processor
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.target import Target

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
    products: bool = True
    """Products of two activations (attention) in int8 as well, where NNCF does that. Off, the file is one for every
    processor: on some the engine gets them wrong, where a step that meets one of these leaves them in float itself."""
    fast_bias_correction: bool = True
    smooth_quant: float | None = None
    """Strength of smooth quantisation for matrix products; ``None`` is NNCF's own choice, -1 switches it off."""
    max_float_layers: int | None = None
    """At most so many layers go back to float where the floor is missed; ``None`` sets no limit."""

    def __post_init__(self) -> None:
        if self.preset not in ("mixed", "performance"):
            raise UsageError(f"int8: unknown preset {self.preset!r}.", "Take mixed or performance.")


@dataclass(frozen=True)
class NncfInt8Bf16(NncfInt8):
    """int8 with bf16 arithmetic for what the file leaves in float.

    The file is that of the ``int8`` step where that was kept; only where it was not do the settings count.
    """


@dataclass(frozen=True)
class LibraryDefaultNncf:
    """``nncf.quantize`` with its defaults, to compare with."""


def library_default_nncf(step: LibraryDefaultNncf, built: Built, context: Context) -> StepReport:
    """Quantise a float IR as NNCF does where it is told nothing: symmetric, and with no regard to transformers; see
    :func:`nncf_int8`. What the engine makes of the file is not proven."""
    _check(built, context, "int8")
    graph = _quantise(NncfInt8(preset="performance", transformer=False), built, context.calibration, ())
    name = f"{built.path.stem}-int8-library-default"
    return StepReport("int8-library-default", {}, openvino_format.save(graph, context.folder, name, "int8"))


def nncf_int8(step: NncfInt8, built: Built, context: Context, precision: str = "int8") -> Iterator[StepReport]:
    """Quantise a float OpenVINO IR; asked again, with more layers in float.

    Args:
        step: settings.
        built: the float file (``openvino:fp32``).
        context: calibration images.
        precision: ``int8``, or ``int8-bf16`` for a file whose rest is computed in bf16.

    Raises:
        UsageError: not a float IR, an ignored pattern matches nothing, or a processor without bf16 where that is asked.
        DataError: no calibration images.
        MissingDependencyError: NNCF or OpenVINO is missing.
        VerificationError: OpenVINO fails on all that can be made of it.
    """
    _check(built, context, precision)
    quantised, result, careful, told = _sound(step, built, context, precision)
    found = "not checked: this processor has no AVX2"
    if "avx2" in processor()["flags"]:
        found = _fault(result, built, context, "AVX2") or "sound"
        if WRONG in found:  # else it is sound, or the engine cannot pretend to have no more, which proves nothing
            told = "; ".join(filter(None, (told, f"on processors with AVX2 and without VNNI: {found}")))
    yield StepReport(precision, asdict(step), result, notes={"avx2": found}, told=told)
    quantised.reshape([1, *context.calibration[0].shape])  # where it takes any size: the work is counted by shapes
    order, errors = _rank(quantised, built, context, precision)
    macs = [_macs(op) for op in order]
    most = len(order) - 1 if step.max_float_layers is None else min(len(order) - 1, step.max_float_layers)
    for count in list(milder_counts(macs, 0, most))[1:]:
        floats = tuple(op.get_friendly_name() for op in order[:count])
        graph = _quantise(step, built, context.calibration, (*careful, *floats))
        result = openvino_format.save(graph, context.folder, result.path.stem, precision)
        if _fault(result, built, context):
            continue
        ranking = tuple(
            LayerRank(op.get_friendly_name(), error, mac, i < count)
            for i, (op, error, mac) in enumerate(zip(order, errors, macs, strict=True))
        )
        notes = {"float_share": sum(macs[:count]) / sum(macs)}
        yield StepReport(precision, asdict(step), result, ranking, (), notes, told)


def _check(built: Built, context: Context, precision: str) -> None:
    if built.runtime != "openvino" or built.precision != "fp32":
        raise UsageError(f"this {precision} step starts from openvino:fp32, not {built.key}.", "Export to OpenVINO.")
    if not context.calibration:
        raise DataError("there are no calibration images.", "Give some training images.")
    check_target(Target("openvino", precision, context.threads))


def nncf_int8_bf16(step: NncfInt8Bf16, built: Built, context: Context) -> Iterator[StepReport]:
    """The int8 files under the name of the other precision; from a float IR, quantised as :func:`nncf_int8` does it.

    Raises:
        UsageError: a processor without bf16, or as :func:`nncf_int8`; its other errors too.
    """
    if built.key == "openvino:int8":
        check_target(Target("openvino", "int8-bf16", context.threads))
        yield StepReport("int8-bf16", asdict(step), Built("openvino", "int8-bf16", built.path, built.companions))
    else:
        yield from nncf_int8(step, built, context, "int8-bf16")


def _sound(step: NncfInt8, built: Built, context: Context, precision: str) -> tuple[Any, Built, tuple[str, ...], str]:
    """The boldest quantised graph that OpenVINO computes as it should here, its file, what stays in float for that, and
    why, in words. Raises VerificationError: there is none."""
    inner, outer = _products(openvino_format.engine().Core().read_model(str(built.path)))
    choices = {"": (), "products of activations stay in float": inner}
    if not step.products:
        choices = {"": inner}
    choices |= {"matrix products stay in float": (*inner, *outer)}
    why, tried = "", set()
    for what, names in choices.items():
        if names in tried:
            continue
        tried.add(names)
        quantised = _quantise(step, built, context.calibration, names)
        # The graph is saved from a copy: saving changes it, and the ranking needs it as it is.
        file = openvino_format.save(quantised.clone(), context.folder, f"{built.path.stem}-{precision}", precision)
        if not (found := _fault(file, built, context)):
            return quantised, file, names, f"{what}: {why}" if why else ""
        why = why or found
    raise VerificationError(f"{why}; with more in float: {found}", "Take another precision or runtime here.")


def _fault(file: Built, built: Built, context: Context, isa: str = "") -> str:
    """What is wrong with what OpenVINO makes of a file, with instructions up to ``isa``; empty where nothing is."""
    precision = "int8" if isa else file.precision  # processors of that kind have no bf16
    try:
        check_int8(file.path, built.path, Target("openvino", precision, context.threads), context.calibration, isa)
    except VerificationError as error:
        return error.what.rstrip(".")
    return ""


def _products(graph: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the matrix products of two activations, and of those with weights."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for op in graph.get_ops():
        if op.get_type_name() == "ScaledDotProductAttention":
            found[False].append(op.get_friendly_name())
        elif op.get_type_name() == "MatMul":
            weights = any(_is_constant(op.input_value(index).get_node()) for index in (0, 1))
            found[weights].append(op.get_friendly_name())
    return tuple(found[False]), tuple(found[True])


def _is_constant(op: Any) -> bool:
    """Whether a value is known before the graph runs."""
    inputs = [port.get_node() for port in op.input_values()]
    return op.get_type_name() == "Constant" or (bool(inputs) and all(map(_is_constant, inputs)))


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


def _rank(quantised: Any, built: Built, context: Context, precision: str) -> tuple[list[Any], list[float]]:
    """Quantised matrix products and convolutions, the one that should go back to float first, and their errors."""
    core = openvino_format.engine().Core()
    images = context.calibration[:RANK_IMAGES]
    reference = _answers(core, core.read_model(str(built.path)), images, context, "fp32")

    def error(graph: Any) -> float:
        got = _answers(core, graph, images, context, precision)
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


def _answers(
    core: Any, graph: Any, images: Sequence[Pixels], context: Context, precision: str
) -> list[list[np.ndarray]]:
    config = {"INFERENCE_NUM_THREADS": context.threads, "INFERENCE_PRECISION_HINT": hint_of(precision)}
    compiled = core.compile_model(graph, "CPU", config)
    return [[np.array(compiled({INPUT: x[None]})[port]) for port in compiled.outputs] for x in images]
