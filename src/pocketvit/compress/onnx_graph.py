"""Graph optimisation of ONNX files for ONNX Runtime: fewer nodes, the same answers.

ONNX Runtime's own fusions leave a third of a small vision transformer's time between the matrix products. Here
attention becomes one node without packing, splitting and transposing (``MultiHeadAttention``, which also shares its
queries out among threads, where products of three heads leave one of two idle), products take tokens without reshapes,
int8 ones are the kernel itself with the bias inside (``MatMulIntegerToFloat``), and behind the last attention nothing
is computed for tokens that no answer needs. Residual sums stay apart from the norms behind them:
``SkipLayerNormalization`` was several times slower than the two nodes it stands for (onnxruntime 1.31, profile on an
AVX-512 machine).

It is meant to stand behind ``int8``: that step finds and names its layers in the plain export, ranks them with the
norms in front of them, and what it writes is rewritten here, quantisers included. The other order would need a second
way to find layers, and in float alone the rewrite gains too little to be sure of passing the gate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from pocketvit.compress.layers import session
from pocketvit.compress.onnx_attention import attention, dead_rows, value_scales
from pocketvit.compress.onnx_edit import Editor, counts
from pocketvit.compress.onnx_fuse import GELUS, biases, gelus, layer_scales, linear_layers, reshapes
from pocketvit.compress.step import Context, StepReport
from pocketvit.errors import DataError, UsageError, VerificationError
from pocketvit.export.built import Built
from pocketvit.export.onnx import save
from pocketvit.export.wrap import INPUT
from pocketvit.files import scratch

_IMAGES = 16
"""Calibration images on which answers are compared."""
_SAME = 1e-3
"""Of float files the largest accepted difference of an output, as a share of the largest output."""


@dataclass(frozen=True)
class LeanGraph:
    """Settings of the graph step."""

    gelu: Literal["exact", "tanh", "sigmoid"] = "exact"
    """The GELU as trained, or an approximation: by tanh, or x * sigmoid(1.702 x). What it changes is measured."""
    fuse_attention: bool = True
    drop_rows: bool = True
    """Compute behind the last attention only the tokens that the answer takes."""
    max_error: float | None = None
    """Largest accepted change of the outputs on calibration images, in the task's measure (mean over the images).
    ``None``: of fp32 files no output may differ by more than a thousandth of the largest; of int8 ones, in which a
    value on the edge between two steps may fall to the other and move all behind it, what the task allows int8."""

    def __post_init__(self) -> None:
        if self.gelu not in GELUS:
            raise UsageError(f"graph: unknown gelu {self.gelu!r}.", f"Take {', '.join(GELUS)}.")
        if self.max_error is not None and not self.max_error > 0:
            raise UsageError(f"graph: max_error must be above 0, not {self.max_error}.", "Correct the step.")


def lean_graph(step: LeanGraph, built: Built, context: Context) -> StepReport:
    """Write ``<stem>-lean.onnx``, which answers as its source does.

    Args:
        step: settings.
        built: an ``onnxruntime`` file of fp32 or int8; the precision stays.
        context: calibration images.

    Returns:
        Its notes hold the number of nodes before and after, in the file and as the engine runs it (after its own
        optimisation), how often each rewrite was done, the largest difference of an output (``max_abs``) and the mean
        change in the task's measure (``change``).

    Raises:
        UsageError: not such a file, or nothing in it that could be rewritten: it stays as it is.
        DataError: no calibration images.
        VerificationError: the new file answers differently.
    """
    if built.runtime != "onnxruntime" or built.precision not in ("fp32", "int8"):
        raise UsageError(f"graph starts from onnxruntime:fp32 or int8, not {built.key}.", "Export to ONNX first.")
    if not context.calibration:
        raise DataError("there are no calibration images.", "Give some training images.")
    source = onnx.load(built.path)
    lean, found = rewrite(source, step)
    if not found.keys() - {"reshape"}:  # the engine tidies reshapes itself
        what = "graph: no attention, GELU, norm or linear layer that could be fused was found; the file stays as it is."
        raise UsageError(what, "Leave the step out for this model.")
    moved = _compare(source, lean, context)
    if not moved.within(step.max_error, built.precision, context.max_change):
        what = f"graph: the rewritten file answers differently, by up to {moved.most:.2g} (change {moved.change:.2g})."
        raise VerificationError(what, "Take gelu: exact, or leave the step out.")
    path = context.folder / f"{built.path.stem}-lean.onnx"
    save(lean, path)
    nodes = [counts(model) for model in (source, lean)]
    run = [executed(file) for file in (built.path, path)]
    notes = {
        "nodes": [x.total() for x in nodes],
        "nodes_run": [x.total() for x in run],
        "kinds_run": [dict(x.most_common()) for x in run],
        "rewrites": dict(found),
        "max_abs": moved.most,
        "change": moved.change,
    }
    told = f"{run[0].total()} nodes became {run[1].total()}, outputs moved by at most {moved.most:.1g}"
    return StepReport("graph", asdict(step), Built(built.runtime, built.precision, path), notes=notes, told=told)


def rewrite(model: onnx.ModelProto, step: LeanGraph) -> tuple[onnx.ModelProto, Counter[str]]:
    """The rewritten graph, and how often each rewrite found its pattern; ``model`` stays as it is."""
    graph, found = Editor(model), Counter[str]()
    passes: dict[str, Callable[[Editor], int]] = {"linear": linear_layers, "reshape": reshapes}
    passes |= {"layer_scale": layer_scales}
    passes |= {"attention": attention, "value_scale": value_scales} if step.fuse_attention else {}
    passes |= {"bias": biases, "gelu": partial(gelus, kind=step.gelu)}
    passes |= {"dead_rows": dead_rows} if step.drop_rows else {}
    for name, change in passes.items():
        if count := change(graph):
            found[name] = count
            graph.sort()  # what nobody takes any more must not count as a taker in the next
    return graph.finish(), found


def executed(path: Path) -> Counter[str]:
    """Kinds of the nodes that the engine runs for a file, after its own optimisation."""
    import onnxruntime

    with scratch() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath, options.log_severity_level = str(folder / "run.onnx"), 4
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return counts(onnx.load(folder / "run.onnx"))


@dataclass(frozen=True)
class _Moved:
    """How far the outputs on calibration images went."""

    most: float
    """Largest difference."""
    peak: float
    """Largest output."""
    change: float
    """Mean of the task's measure."""

    def within(self, limit: float | None, precision: str, allowed: float) -> bool:
        """Whether that is accepted; a NaN is not."""
        if limit is not None:
            return self.change <= limit
        return self.most <= _SAME * self.peak if precision == "fp32" else self.change <= allowed


def _compare(source: onnx.ModelProto, lean: onnx.ModelProto, context: Context) -> _Moved:
    runners: list[Any] = [session(model, context.threads) for model in (source, lean)]
    most, peak, changes = [], [], []
    for image in context.calibration[:_IMAGES]:
        want, got = (runner.run(None, {INPUT: image[None]}) for runner in runners)
        most += [float(np.abs(a - b).max()) for a, b in zip(got, want, strict=True)]
        peak += [float(np.abs(a).max()) for a in want]
        changes.append(context.change(got, want))
    return _Moved(float(np.max(most)), float(np.max(peak)), float(np.mean(changes)))
