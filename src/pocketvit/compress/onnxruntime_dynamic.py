"""Dynamic int8 for ONNX Runtime: weights in int8, activations quantised anew for each image by their own range.

Nothing is calibrated: the range of a tensor is found when the engine runs (``DynamicQuantizeLinear``). It is one range
for all tokens, so a few loud tokens or channels, which trained vision transformers have, cost all others their bits;
static int8 evens those out beforehand (:mod:`pocketvit.compress.qdq`). ``onnxruntime.quantization`` does the mechanics.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from pocketvit.compress.layers import Layer, session
from pocketvit.compress.onnx_edit import counts
from pocketvit.compress.products import as_products
from pocketvit.compress.step import Context, LayerRank, StepReport, milder_counts
from pocketvit.errors import UsageError
from pocketvit.export.built import Built
from pocketvit.export.onnx import save
from pocketvit.export.wrap import INPUT
from pocketvit.files import scratch, writing

PRECISION = "int8-dynamic"


@dataclass(frozen=True)
class DynamicInt8:
    """Settings of ``onnxruntime.quantization.quantize_dynamic``, which takes MatMul and Gemm layers here."""

    per_channel: bool = True
    """One scale for each output channel of a weight; off, one for the weight."""
    reduce_range: bool = False
    """7-bit weights, for processors whose 8-bit products saturate (AVX2 without VNNI)."""
    ignored: tuple[str, ...] = ()
    """Regular expressions of layer names that stay in float, e.g. ``.*fc2``."""
    rank_images: int = 8
    """Calibration images on which layers are ranked, where the floor is missed and layers go back to float."""
    max_float_layers: int | None = None
    """At most so many layers go back to float; ``None`` sets no limit."""

    def __post_init__(self) -> None:
        if self.rank_images < 1 or (self.max_float_layers or 0) < 0:
            what = "int8-dynamic: rank_images must be 1 or more, max_float_layers 0 or more."
            raise UsageError(what, "Correct the step.")
        for pattern in self.ignored:
            try:
                re.compile(pattern)
            except re.error as error:
                what = f"int8-dynamic: ignored pattern {pattern!r} is no regular expression ({error})."
                raise UsageError(what, "Correct the step.") from error


def dynamic_int8(step: DynamicInt8, built: Built, context: Context) -> Iterator[StepReport]:
    """Write ``<stem>-int8-dynamic.onnx``; asked again, with more layers in float, if there are calibration images.

    Args:
        step: settings.
        built: the float file (``onnxruntime:fp32``).
        context: calibration images are used for ranking alone.

    Yields:
        Reports; the notes hold the number of layers and of those quantised, and the share of the multiplications that
        is left in float. The first has no ranking: it needs no image.

    Raises:
        UsageError: not a float ONNX file of ours, nothing to quantise, or a pattern that names no layer.
    """
    if built.key != "onnxruntime:fp32":
        raise UsageError(f"int8-dynamic starts from onnxruntime:fp32, not {built.key}.", "Export to ONNX first.")
    graph, layers = as_products(built.path)
    chosen = [layer for layer in layers if not any(re.fullmatch(p, layer.label) for p in step.ignored)]
    for pattern in step.ignored:
        if not any(re.fullmatch(pattern, layer.label) for layer in layers):
            raise UsageError(f"int8-dynamic: ignored pattern {pattern!r} names no layer.", "Correct the step.")
    if not chosen:
        raise UsageError("int8-dynamic: every layer is ignored.", "Leave the step out.")
    path = context.folder / f"{built.path.stem}-{PRECISION}.onnx"
    quantise(step, graph, chosen, path)
    yield _report(step, path, layers, chosen, ())
    images = context.calibration[: step.rank_images]
    if not images:
        return
    order, errors = _rank(step, graph, chosen, images, context)
    most = len(order) - 1 if step.max_float_layers is None else min(len(order) - 1, step.max_float_layers)
    for count in list(milder_counts([float(max(x.macs, 1)) for x in order], 0, most))[1:]:
        quantise(step, graph, order[count:], path)
        ranks = tuple(LayerRank(x.label, errors[x.node], x.macs, i < count) for i, x in enumerate(order))
        yield _report(step, path, layers, order[count:], ranks)


def quantise(step: DynamicInt8, graph: onnx.ModelProto, layers: Sequence[Layer], path: Path) -> None:
    """Write the graph with ``layers`` quantised.

    Raises:
        UsageError: the library left some of them in float.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it advises to preprocess, which is for graphs without shapes
    try:
        with scratch() as folder, writing(path):
            save(graph, folder / "float.onnx")
            quantize_dynamic(
                folder / "float.onnx",
                path,
                op_types_to_quantize=["MatMul"],
                per_channel=step.per_channel,
                reduce_range=step.reduce_range,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=[layer.node for layer in layers],
            )
    finally:
        logging.disable(disabled)
    done = counts(onnx.load(path))["MatMulInteger"]
    if done != len(layers):
        what = f"int8-dynamic: {done} of {len(layers)} layers were quantised."
        raise UsageError(what, "This ONNX Runtime has no dynamic form of the rest; leave the step out.")


def _report(
    step: DynamicInt8, path: Path, layers: Sequence[Layer], done: Sequence[Layer], ranking: tuple[LayerRank, ...]
) -> StepReport:
    work, whole = sum(x.macs for x in done), sum(x.macs for x in layers)
    notes: dict[str, Any] = {"layers": len(layers), "quantised": len(done), "float_share": 1 - work / max(whole, 1)}
    made = Built("onnxruntime", PRECISION, path)
    return StepReport(PRECISION, asdict(step), made, ranking, notes=notes)


def _rank(
    step: DynamicInt8, graph: onnx.ModelProto, layers: Sequence[Layer], images: Sequence[Any], context: Context
) -> tuple[list[Layer], dict[str, float]]:
    """Layers, the one that should go back to float first, and how far the outputs move when each alone is quantised."""

    def answers(model: onnx.ModelProto) -> list[Any]:
        runner = session(model, context.threads)
        return [runner.run(None, {INPUT: image[None]}) for image in images]

    wanted, errors = answers(graph), dict[str, float]()
    with scratch() as folder:
        for layer in layers:
            quantise(step, graph, [layer], folder / "one.onnx")
            got = answers(onnx.load(folder / "one.onnx"))
            errors[layer.node] = float(np.mean([context.change(a, b) for a, b in zip(got, wanted, strict=True)]))
    return sorted(layers, key=lambda x: -(errors[x.node] ** 2) / max(x.macs, 1)), errors
