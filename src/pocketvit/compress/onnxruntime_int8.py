"""Static int8 for ONNX Runtime: quantise what carries weights, rank layers by what they cost, put the worst back in float.

The stock recipes of the library fail on vision transformers (facts of the project: 0.1 % of 82.9 % top-1); one of them
is kept as a step so that the report can show it as a rejected candidate.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from pocketvit.compress.layers import Layer, array, collect, find_layers, prepare, session
from pocketvit.compress.qdq import norm_before, plan_layer, quantise
from pocketvit.compress.report import LayerRank, Pixels, StepReport, output_error
from pocketvit.errors import DataError, UsageError
from pocketvit.export.built import Built
from pocketvit.export.wrap import INPUT

Score = Callable[[Path], float]
Outputs = list[list[NDArray[np.float32]]]


@dataclass(frozen=True)
class StaticInt8:
    """Settings of our static int8 recipe."""

    max_drop: float | None = None
    """Largest accepted loss of the score against the float file, in the score's unit; ``None`` is 2 (points) for probabilities, 0.05 (dB) for images."""
    max_error: float | None = None
    """Largest accepted change of the outputs on calibration images (see ``LayerRank.error``); ``None`` is 0.03 for probabilities, 1 (of 255) for images."""
    max_float_share: float = 0.3
    """At most this share of the multiplications goes back to float; beyond it little speed is left to gain."""
    max_float_layers: int | None = None
    """At most so many layers go back to float; ``None`` sets no limit."""
    smooth: tuple[float, ...] = (0.5, 0.65, 0.8, 0.9)
    """Strengths tried for evening out channels between input and weights; empty switches it off."""
    clip: tuple[float, ...] = (1.0,)
    """Shares of the seen activation range tried; below 1 cuts off outliers, which costs vision transformers more than it gains."""
    compensate: bool = True
    """Round the weights of linear layers so that they make up for each other's errors and for the input's (GPTQ)."""
    kinds: tuple[str, ...] = ()
    """Layers to quantise: Gemm, MatMul, Conv; empty chooses by where the work is."""
    rank_images: int = 16
    """Calibration images (at most half) that are held back from calibrating: on them each layer's sensitivity is measured, outliers that ranges missed included."""
    reduce_range: bool = False
    """7-bit weights, for old processors whose 8-bit products saturate (AVX2 without VNNI)."""
    threads: int = 2
    """Threads used while calibrating."""

    def __post_init__(self) -> None:
        least, positive = (
            (self.max_drop or 0, self.max_float_layers or 0, self.max_float_share),
            (self.rank_images, self.threads, 1 if self.max_error is None else self.max_error),
        )
        if min(least) < 0 or min(positive) <= 0:
            raise UsageError(
                "int8: max_drop, max_float_share and max_float_layers must not be negative, max_error, rank_images and threads must be positive.",
                "Correct the step.",
            )
        if unknown := set(self.kinds) - {"Gemm", "MatMul", "Conv"}:
            raise UsageError(f"int8: unknown kind of layer {unknown.pop()!r}.", "Take Gemm, MatMul or Conv.")
        if not self.clip or not all(0 < share <= 1 for share in self.clip) or not all(0 < s < 1 for s in self.smooth):
            raise UsageError("int8: clip needs shares in (0, 1], smooth strengths in (0, 1).", "Correct the step.")


@dataclass(frozen=True)
class LibraryDefaultInt8:
    """ONNX Runtime's ``quantize_static`` with its defaults, to compare with."""


def static_int8(
    step: StaticInt8, built: Built, calibration: Sequence[Pixels], score: Score | None, folder: Path
) -> StepReport:
    """Quantise a float ONNX file.

    Args:
        step: settings.
        built: the float file (``onnxruntime:fp32``).
        calibration: (H, W, 3) uint8 model inputs, from training images.
        score: metric of a model file, higher is better; ``None`` judges by the outputs on calibration images.
        folder: where ``<stem>-int8.onnx`` is written.

    Returns:
        The report; its ranking lists every layer, its scores every number of float layers that was tried.

    Raises:
        UsageError: not an ONNX file of ours, or nothing to quantise.
        DataError: no calibration images.
    """
    _check(built, calibration)
    graph = prepare(built.path)
    layers = find_layers(graph, step.kinds)
    images, seen = held_back(calibration, step.rank_images)
    stats = collect(graph, layers, seen)
    norms = {x.node: norm_before(graph, x) for x in layers}
    options: dict[str, Any] = {
        "smooth": step.smooth,
        "clip": step.clip,
        "reduce_range": step.reduce_range,
        "compensate": step.compensate,
    }
    plans = {
        x.node: plan_layer(x, array(graph, x.weight), stats, foldable=norms[x.node] is not None, **options)
        for x in layers
    }

    def build(kept: Sequence[Layer]) -> onnx.ModelProto:
        floats = {x.node for x in kept}
        return quantise(graph, [x for x in layers if x.node not in floats], plans, stats, norms)

    reference = outputs(graph, images, step.threads)
    errors = {x.node: mean_error(build([y for y in layers if y != x]), images, reference, step.threads) for x in layers}
    # Back to float first goes what disturbs most for the time it saves; errors of layers add up about like variances.
    order = sorted(layers, key=lambda x: -(errors[x.node] ** 2) / max(x.macs, 1))
    path = folder / f"{built.path.stem}-int8.onnx"
    search = _Search(
        step, lambda count: onnx.save(build(order[:count]), path), path, score, built.path, images, reference
    )
    count = smallest(search, most_float(order, step))
    onnx.save(build(order[:count]), path)
    ranking = tuple(LayerRank(x.label, errors[x.node], x.macs, i < count) for i, x in enumerate(order))
    evened = [x for x in layers if plans[x.node].factor is not None]
    notes = {
        "accepted": search(count),
        "max_drop": search.max_drop,
        "max_error": search.max_error,
        "error": search.errors[count],
        "layers": len(layers),
        "float_share": sum(x.macs for x in order[:count]) / sum(x.macs for x in layers),
        "evened_free": sum(norms[x.node] is not None for x in evened),
        "evened_by_multiplication": sum(norms[x.node] is None for x in evened),
    }
    return StepReport(
        "int8", asdict(step), Built("onnxruntime", "int8", path), ranking, tuple(search.scores.items()), notes
    )


def held_back(calibration: Sequence[Pixels], count: int) -> tuple[list[Pixels], list[Pixels]]:
    """(images to rank on, images to calibrate on): apart, unless there is only one."""
    cut = min(count, len(calibration) // 2)
    return (list(calibration[:cut]), list(calibration[cut:])) if cut else (list(calibration), list(calibration))


def most_float(order: Sequence[Layer], step: StaticInt8) -> int:
    """How many layers of the ranking may go back to float; at least one stays quantised."""
    shares = np.cumsum([x.macs for x in order]) / sum(x.macs for x in order)
    count = int((shares <= step.max_float_share + 1e-9).sum())
    return min(count, len(order) - 1, len(order) if step.max_float_layers is None else step.max_float_layers)


class _Search:
    """Called with a number of float layers, builds the file and says whether it is good enough, by its score and by how far its outputs moved."""

    def __init__(
        self,
        step: StaticInt8,
        build: Callable[[int], None],
        path: Path,
        score: Score | None,
        source: Path,
        images: Sequence[Pixels],
        reference: Outputs,
    ) -> None:
        self.build, self.path, self.score, self.images, self.reference, self.threads = (
            build,
            path,
            score,
            images,
            reference,
            step.threads,
        )
        pictures = reference[0][0].ndim > 2
        self.max_drop = (0.05 if pictures else 2.0) if step.max_drop is None else step.max_drop
        self.max_error = (1.0 if pictures else 0.03) if step.max_error is None else step.max_error
        self.base = None if score is None else float(score(source))
        self.scores: dict[int, float] = {}
        self.errors: dict[int, float] = {}

    def __call__(self, count: int) -> bool:
        if count not in self.errors:
            self.build(count)
            self.errors[count] = mean_error(onnx.load(self.path), self.images, self.reference, self.threads)
            if self.score is not None and self.errors[count] <= self.max_error:
                self.scores[count] = float(self.score(self.path))
        if self.errors[count] > self.max_error:
            return False
        return self.base is None or self.scores[count] >= self.base - self.max_drop - 1e-9


def smallest(accepted: Callable[[int], bool], most: int) -> int:
    """The smallest count up to ``most`` that is accepted, by bisection; ``most`` where none is."""
    if accepted(0) or most == 0:
        return 0
    low, high = 0, most
    if not accepted(most):
        return most
    while high - low > 1:
        middle = (low + high) // 2
        if accepted(middle):
            high = middle
        else:
            low = middle
    return high


def outputs(graph: onnx.ModelProto, images: Sequence[Pixels], threads: int = 2) -> Outputs:
    """All outputs of a graph for each image."""
    runner = session(graph, threads)
    return [runner.run(None, {INPUT: image[None]}) for image in images]


def mean_error(graph: onnx.ModelProto, images: Sequence[Pixels], reference: Outputs, threads: int = 2) -> float:
    """Mean over images of :func:`pocketvit.compress.report.output_error`."""
    return float(
        np.mean([output_error(got, want) for got, want in zip(outputs(graph, images, threads), reference, strict=True)])
    )


def library_default_int8(
    step: LibraryDefaultInt8, built: Built, calibration: Sequence[Pixels], score: Score | None, folder: Path
) -> StepReport:
    """Quantise with the library's defaults: every operator it knows, per tensor, min-max. Arguments as for :func:`static_int8`."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    _check(built, calibration)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{INPUT: image[None]} for image in calibration])

        def get_next(self) -> Any:
            return next(self.batches, None)

    path = folder / f"{built.path.stem}-int8-library-default.onnx"
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            prepared = Path(scratch) / "prepared.onnx"
            quant_pre_process(str(built.path), str(prepared), skip_symbolic_shape=True)
            quantize_static(str(prepared), str(path), Reader())
    finally:
        logging.disable(disabled)
    scores = ((0, score(path)),) if score else ()
    return StepReport("int8-library-default", asdict(step), Built("onnxruntime", "int8", path), (), scores)


def _check(built: Built, calibration: Sequence[Pixels]) -> None:
    if built.runtime != "onnxruntime" or built.precision != "fp32":
        raise UsageError(f"this int8 step starts from onnxruntime:fp32, not {built.key}.", "Export to ONNX first.")
    if not calibration:
        raise DataError("there are no calibration images.", "Give some training images.")
