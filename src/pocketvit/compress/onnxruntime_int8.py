"""Static int8 for ONNX Runtime: quantise what carries weights, rank layers by what they cost, the worst back in float.

The stock recipes of the library fail on vision transformers (facts of the project: 0.1 % of 82.9 % top-1); one of them
is kept as a step so that the report can show it as a rejected candidate.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from pocketvit.compress.avx2 import on_avx2
from pocketvit.compress.float_cost import milliseconds
from pocketvit.compress.layers import Layer, Stats, array, collect, find_layers, prepare, session
from pocketvit.compress.onnx_attention import dead_rows
from pocketvit.compress.onnx_edit import Editor
from pocketvit.compress.onnx_graph import LeanGraph, rewrite
from pocketvit.compress.qdq import Plan, norm_before, plan_layer, quantise
from pocketvit.compress.step import Context, LayerRank, StepReport, milder_counts
from pocketvit.errors import DataError, UsageError
from pocketvit.export.built import Built
from pocketvit.export.onnx import save
from pocketvit.export.wrap import INPUT
from pocketvit.files import scratch, writing
from pocketvit.spec.preprocess import Pixels

Answers = list[list[NDArray[np.float32]]]


@dataclass(frozen=True)
class StaticInt8:
    """Settings of our static int8 recipe."""

    max_drop: float | None = None
    """Largest accepted loss of the score on calibration images against the float file; ``None`` takes the task's."""
    max_error: float | None = None
    """Largest accepted change of the outputs on calibration images (``LayerRank.error``); ``None`` takes the task's."""
    max_float_share: float = 0.3
    """At most this share of the multiplications goes back to float at first; more only where the floor asks for it."""
    max_float_layers: int | None = None
    """At most so many layers go back to float; ``None`` sets no limit."""
    smooth: tuple[float, ...] = (0.5, 0.65, 0.8, 0.9)
    """Strengths tried for evening out channels between input and weights; empty switches it off."""
    clip: tuple[float, ...] = (1.0,)
    """Shares of the seen activation range tried; below 1 cuts off outliers, which vision transformers need."""
    compensate: bool = True
    """Round the weights of linear layers so that they make up for each other's errors and for the input's (GPTQ)."""
    kinds: tuple[str, ...] = ()
    """Layers to quantise: Gemm, MatMul, Conv; empty chooses by where the work is."""
    rank_images: int = 16
    """Calibration images (at most half) that are held back from calibrating: on them sensitivity is measured."""
    weigh: Literal["time", "work"] = "time"
    """What a layer in float costs: milliseconds on this machine, measured by groups of layers of one shape, or its
    multiplications (which count as well where a run is too short to time)."""
    reduce_range: bool = False
    """7-bit weights, for old processors whose 8-bit products saturate (AVX2 without VNNI)."""

    def __post_init__(self) -> None:
        least = (self.max_drop or 0, self.max_float_layers or 0, self.max_float_share)
        if min(least) < 0 or min(self.rank_images, 1 if self.max_error is None else self.max_error) <= 0:
            what = "int8: max_drop, max_float_share, max_float_layers must be 0 or more, max_error, rank_images more."
            raise UsageError(what, "Correct the step.")
        if self.weigh not in ("time", "work"):
            raise UsageError(f"int8: unknown weigh {self.weigh!r}.", "Take time or work.")
        if unknown := set(self.kinds) - {"Gemm", "MatMul", "Conv"}:
            raise UsageError(f"int8: unknown kind of layer {unknown.pop()!r}.", "Take Gemm, MatMul or Conv.")
        if not self.clip or not all(0 < share <= 1 for share in self.clip) or not all(0 < s < 1 for s in self.smooth):
            raise UsageError("int8: clip needs shares in (0, 1], smooth strengths in (0, 1).", "Correct the step.")


@dataclass(frozen=True)
class LibraryDefaultInt8:
    """ONNX Runtime's ``quantize_static`` with its defaults, to compare with."""


@dataclass(frozen=True)
class _Quantiser:
    """A float graph with a plan for each of its layers."""

    graph: onnx.ModelProto
    layers: list[Layer]
    stats: dict[str, Stats]
    norms: dict[str, onnx.NodeProto | None]
    plans: dict[str, Plan]

    def build(self, kept_float: Sequence[Layer]) -> onnx.ModelProto:
        """The graph with all layers quantised but ``kept_float``."""
        floats = {x.node for x in kept_float}
        chosen = [x for x in self.layers if x.node not in floats]
        return quantise(self.graph, chosen, self.plans, self.stats, self.norms)


def static_int8(step: StaticInt8, built: Built, context: Context) -> Iterator[StepReport]:
    """Quantise a float ONNX file; asked again, with more layers in float.

    Args:
        step: settings.
        built: the float file (``onnxruntime:fp32``).
        context: calibration images, and limits that the outputs on them must keep.

    Yields:
        Reports; the ranking lists every layer, the scores every number of float layers that was tried.

    Raises:
        UsageError: not an ONNX file of ours, or nothing to quantise.
        DataError: no calibration images.

    The notes hold under ``avx2`` what becomes of the file on processors with AVX2 and without VNNI, as emulated by
    :mod:`pocketvit.compress.avx2` on the held-back images: products, how many of them saturate, the share of their sums
    that do, and the change of the outputs here (``error``) and there (``error_there``). Our own sessions ask the engine
    for exact products there; who opens the file otherwise takes weights of 7 bits (``reduce_range``).
    """
    _check(built, context.calibration)
    images, seen = held_back(context.calibration, step.rank_images)
    quantiser = _plan(step, built, seen, context.threads)
    answers = outputs(quantiser.graph, images, context.threads)
    error_of = _ErrorOf(images, answers, context)
    layers = quantiser.layers
    errors = {x.node: error_of(quantiser.build([y for y in layers if y != x])) for x in layers}
    costs = _costs(step, quantiser, images[0], context.threads)
    work = {x.node: float(max(x.macs, 1)) for x in layers} if costs is None else costs
    # Back to float first goes what disturbs most for the time it saves; errors of layers add up about like variances.
    order = sorted(layers, key=lambda x: -(errors[x.node] ** 2) / work[x.node])
    path = context.folder / f"{built.path.stem}-int8.onnx"
    search = _Search(step, context, lambda count: quantiser.build(order[:count]), path, built.path, error_of)
    first = smallest(search, most_float(order, step))
    most = len(order) - 1 if step.max_float_layers is None else min(len(order) - 1, step.max_float_layers)
    for count in milder_counts([work[x.node] for x in order], first, most):
        graph = quantiser.build(order[:count])
        save(graph, path)
        accepted = search(count)
        found = on_avx2(graph, images, error_of, search.errors[count], search.max_error, context.threads)
        ranking = tuple(
            LayerRank(x.label, errors[x.node], x.macs, i < count, None if costs is None else costs[x.node])
            for i, x in enumerate(order)
        )
        notes = {"accepted": accepted, "error": search.errors[count], **_notes(quantiser, order[:count], search)}
        notes["avx2"] = found.to_dict()
        result, scores = Built("onnxruntime", "int8", path), tuple(search.scores.items())
        yield StepReport("int8", asdict(step), result, ranking, scores, notes, found.told)


def quantise_all(step: StaticInt8, built: Built, context: Context) -> Built:
    """The file with every layer quantised, without ranking or scoring any: what is timed of it holds, its answers may
    not. Raises what :func:`static_int8` does."""
    _check(built, context.calibration)
    path = context.folder / f"{built.path.stem}-int8.onnx"
    save(_plan(step, built, context.calibration, context.threads).build(()), path)
    return Built("onnxruntime", "int8", path)


def _plan(step: StaticInt8, built: Built, images: Sequence[Pixels], threads: int) -> _Quantiser:
    graph = _prepared(built.path)
    layers = find_layers(graph, step.kinds)
    stats = collect(graph, layers, images, threads)
    norms = {x.node: norm_before(graph, x) for x in layers}
    options: dict[str, Any] = {name: getattr(step, name) for name in ("smooth", "clip", "reduce_range", "compensate")}
    plans = {
        x.node: plan_layer(x, array(graph, x.weight), stats, foldable=norms[x.node] is not None, **options)
        for x in layers
    }
    return _Quantiser(graph, layers, stats, norms, plans)


def _prepared(path: Path) -> onnx.ModelProto:
    """The float graph to quantise, in which layers compute only tokens that the answer takes: of a class token's graph
    the last block is all but free in float, and the ranking must know."""
    graph = Editor(onnx.load(path))
    if not dead_rows(graph):
        return prepare(path)
    with scratch() as folder:
        save(graph.finish(), folder / path.name)
        return prepare(folder / path.name)


def _costs(step: StaticInt8, quantiser: _Quantiser, image: Pixels, threads: int) -> dict[str, float] | None:
    """Milliseconds by layer, in the lean graph that the step ``graph`` makes of the file; None: by multiplications."""
    if step.weigh == "work":
        return None

    def build(kept_float: Sequence[Layer]) -> onnx.ModelProto:
        return rewrite(quantiser.build(kept_float), LeanGraph())[0]

    def shapes(layer: Layer) -> tuple[object, ...]:
        return layer.kind, layer.macs, array(quantiser.graph, layer.weight).shape

    return milliseconds(build, quantiser.layers, shapes, image, threads)


def _notes(quantiser: _Quantiser, kept_float: Sequence[Layer], search: _Search) -> dict[str, Any]:
    evened = [
        quantiser.norms[x.node] is not None for x in quantiser.layers if quantiser.plans[x.node].factor is not None
    ]
    return {
        "max_drop": search.max_drop,
        "max_error": search.max_error,
        "layers": len(quantiser.layers),
        "float_share": sum(x.macs for x in kept_float) / sum(x.macs for x in quantiser.layers),
        "evened_free": sum(evened),
        "evened_by_multiplication": len(evened) - sum(evened),
    }


def held_back(calibration: Sequence[Pixels], count: int) -> tuple[list[Pixels], list[Pixels]]:
    """(images to rank on, images to calibrate on): apart, unless there is only one."""
    cut = min(count, len(calibration) // 2)
    return (list(calibration[:cut]), list(calibration[cut:])) if cut else (list(calibration), list(calibration))


def most_float(order: Sequence[Layer], step: StaticInt8) -> int:
    """How many layers of the ranking may go back to float; at least one stays quantised."""
    shares = np.cumsum([x.macs for x in order]) / sum(x.macs for x in order)
    count = int((shares <= step.max_float_share + 1e-9).sum())
    return min(count, len(order) - 1, len(order) if step.max_float_layers is None else step.max_float_layers)


class _ErrorOf:
    """How far a graph's outputs are from the float model's on the held-back images."""

    def __init__(self, images: Sequence[Pixels], answers: Answers, context: Context) -> None:
        self.images, self.answers, self.context = images, answers, context

    def __call__(self, graph: onnx.ModelProto) -> float:
        got = outputs(graph, self.images, self.context.threads)
        return float(np.mean([self.context.change(a, b) for a, b in zip(got, self.answers, strict=True)]))


class _Search:
    """Called with a number of float layers: whether the file is good enough, by its outputs and by its score."""

    def __init__(
        self,
        step: StaticInt8,
        context: Context,
        build: Callable[[int], onnx.ModelProto],
        path: Path,
        source: Path,
        error_of: _ErrorOf,
    ) -> None:
        self.build, self.path, self.score, self.error_of = build, path, context.score, error_of
        self.max_drop = context.max_loss if step.max_drop is None else step.max_drop
        self.max_error = context.max_change if step.max_error is None else step.max_error
        self.base = context.score(source) if np.isfinite(self.max_drop) else None
        self.scores: dict[int, float] = {}
        self.errors: dict[int, float] = {}

    def __call__(self, count: int) -> bool:
        if count not in self.errors:
            graph = self.build(count)
            self.errors[count] = self.error_of(graph)
            if self.base is not None and self.errors[count] <= self.max_error:
                save(graph, self.path)
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


def outputs(graph: onnx.ModelProto, images: Sequence[Pixels], threads: int = 2) -> Answers:
    """All outputs of a graph for each image."""
    runner = session(graph, threads)
    return [runner.run(None, {INPUT: image[None]}) for image in images]


def library_default_int8(step: LibraryDefaultInt8, built: Built, context: Context) -> StepReport:
    """Quantise with the library's defaults: every operator it knows, per tensor, min-max; see :func:`static_int8`."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    _check(built, context.calibration)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{INPUT: image[None]} for image in context.calibration])

        def get_next(self) -> Any:
            return next(self.batches, None)

    path = context.folder / f"{built.path.stem}-int8-library-default.onnx"
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with scratch() as temporary:
            prepared = temporary / "prepared.onnx"
            quant_pre_process(str(built.path), str(prepared), skip_symbolic_shape=True)
            with writing(path):
                quantize_static(str(prepared), str(path), Reader())
    finally:
        logging.disable(disabled)
    return StepReport("int8-library-default", asdict(step), Built("onnxruntime", "int8", path))


def _check(built: Built, calibration: Sequence[Pixels]) -> None:
    if built.runtime != "onnxruntime" or built.precision != "fp32":
        raise UsageError(f"this int8 step starts from onnxruntime:fp32, not {built.key}.", "Export to ONNX first.")
    if not calibration:
        raise DataError("there are no calibration images.", "Give some training images.")
