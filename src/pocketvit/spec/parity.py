"""Golden parity: an exported file's answers against the trained model's, with limits by task and precision.

A float file must give the same numbers. An int8 file may not, by its nature: what counts there is the change of the
task's metric on the goldens, and that most answers stay the same. A mismatch fails; it is never a warning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import VerificationError
from pocketvit.spec.golden import Golden
from pocketvit.spec.hierarchy import LevelSpec
from pocketvit.spec.manifest import Manifest
from pocketvit.spec.preprocess import PIXELS
from pocketvit.spec.split import HEAD_TOLERANCES
from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.base import Raw, Task

UPPER = ("max_abs", "mean_abs", "metric_drop")
LOWER = ("min_cosine", "mean_cosine", "min_agreement")
PER_OUTPUT = ("max_abs", "mean_abs", "min_cosine", "mean_cosine")
PER_TASK = ("metric_drop", "min_agreement")


class Runs(Protocol):
    """What is needed of a :class:`pocketvit.runtimes.Session`."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """One answer by output name."""


def tolerances(manifest: Manifest, precision: str) -> Mapping[str, float]:
    """Limits of one precision: the task's, and what the manifest states where that is as tight or tighter.

    Raises:
        VerificationError: the task has no limits for this precision, so that anything would pass; the manifest states
            a limit that does not exist, which would be a limit nobody checks, or one that is looser than the task's,
            which would let another model pass.
    """
    known = HEAD_TOLERANCES if manifest.is_head else TASKS[manifest.task].tolerances
    stated, table = manifest.tolerances.get(precision, {}), known.get(precision, {})
    if not table:
        whose = "a head" if manifest.is_head else f"the task {manifest.task}"
        what = f"{whose} has no limits for the precision {precision}."
        raise VerificationError(what, f"It has them for {', '.join(known)}.")
    unknown = sorted(set(stated) - {*UPPER, *LOWER})
    if unknown:
        what = f"tolerances.{precision}.{unknown[0]} in the manifest is no known limit."
        raise VerificationError(what, f"Known limits: {', '.join((*UPPER, *LOWER))}.")
    for name in sorted(set(stated) & set(table)):
        if not (stated[name] <= table[name] if name in UPPER else stated[name] >= table[name]):
            what = f"tolerances.{precision}.{name} in the manifest is {stated[name]:g}, looser than {table[name]:g}."
            raise VerificationError(what, f"{table[name]:g} is what this version allows at most; export it again.")
    return {**table, **stated}


def relative(manifest: Manifest) -> bool:
    """Whether differences are shares of the goldens' mean: as the task says, and always of features."""
    return manifest.is_head or TASKS[manifest.task].relative


def run_goldens(session: Runs, inputs: NDArray[Any], name: str = PIXELS) -> dict[str, NDArray[np.float32]]:
    """Answers to (N, H, W, 3) uint8, one image at a time, joined along the first axis.

    ``name`` is that of the file's input: a tail's takes (N, tokens, width) float32.

    Raises:
        VerificationError: the engine fails on the file, or answers differ in shape.
    """
    rows = [session.run({name: image[None]}) for image in inputs]
    if len({tuple((name, value.shape) for name, value in row.items()) for row in rows}) > 1:
        raise VerificationError("the answers change their shape from image to image.", "Export the artifact again.")
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def compare(output: NDArray[Any], golden: NDArray[Any], relative: bool = False) -> dict[str, float]:
    """How far one (N, ...) output is from the golden one; NaN where it holds NaN.

    Returns:
        Largest and mean absolute difference, least and mean cosine similarity of a sample. An all-zero answer has
        cosine 1 with an all-zero golden and 0 with any other. ``relative`` differences are shares of the mean absolute
        value of their golden.
    """
    a, b = output.reshape(len(output), -1).astype(np.float64), golden.reshape(len(golden), -1).astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.where(norms == 0, np.all(a == b, axis=1), (a * b).sum(axis=1) / np.maximum(norms, 1e-300))
    difference = np.abs(a - b)
    if relative:
        difference /= np.maximum(np.abs(b).mean(axis=1, keepdims=True), 1e-12)
    return {
        "max_abs": float(difference.max()),
        "mean_abs": float(difference.mean()),
        "min_cosine": float(cosine.min()),
        "mean_cosine": float(cosine.mean()),
    }


def compare_all(outputs: Raw, goldens: Raw, relative: bool = False) -> dict[str, float]:
    """:func:`compare` of all outputs together: the worst of the extremes, the mean of the means."""
    rows = [compare(outputs[name], golden, relative) for name, golden in goldens.items()]
    join = {"max_abs": np.max, "min_cosine": np.min}  # unlike Python's, these keep a NaN
    return {name: float(join.get(name, np.mean)([row[name] for row in rows])) for name in PER_OUTPUT}


def golden_metric(task: Task, levels: Sequence[LevelSpec], outputs: Raw, truth: NDArray[Any]) -> tuple[str, float]:
    """Name and value of the task's main metric of raw (N, ...) outputs on the goldens."""
    evaluator = task.evaluator(levels, "")
    for index, answer in enumerate(truth):
        one = {name: value[index : index + 1] for name, value in outputs.items()}
        evaluator.update(task.finish(one, levels), answer)
    return evaluator.main, next(x.value for x in evaluator.metrics() if x.name == evaluator.main)


def task_figures(manifest: Manifest, outputs: Raw, golden: Golden) -> dict[str, float]:
    """The metric on the goldens, its loss against the trained model, and of decisions the share of equal ones; nothing
    of a head, which does not answer."""
    task, levels = TASKS[manifest.task], manifest.levels
    if manifest.is_head:
        return {}
    if not all(np.isfinite(value).all() for value in outputs.values()):
        return {"metric": float("nan"), "metric_drop": float("nan"), "min_agreement": float("nan")}
    name, reference = golden_metric(task, levels, golden.outputs, golden.truth)
    _, value = golden_metric(task, levels, outputs, golden.truth)
    figures = {"metric": value, "metric_drop": task.metric(name).loss(value, reference)}
    if task.agreement is not None:
        figures["min_agreement"] = task.agreement(outputs, golden.outputs)
    return figures


def violations(figures: Mapping[str, float], limits: Mapping[str, float], names: Sequence[str]) -> list[str]:
    """One phrase for each limit among ``names`` that is not met; NaN meets none."""
    found = []
    for name in names:
        if name not in limits or name not in figures:
            continue
        value, limit = figures[name], limits[name]
        if not (value <= limit if name in UPPER else value >= limit):
            found.append(f"{name} {value:.4g}, allowed {'at most' if name in UPPER else 'at least'} {limit:.4g}")
    return found


def parity_violations(manifest: Manifest, outputs: Raw, golden: Golden, limits: Mapping[str, float]) -> list[str]:
    """Everything that keeps ``outputs`` from being the golden ones."""
    found, shares = [], relative(manifest)
    for name, reference in golden.outputs.items():
        figures = compare(outputs[name], reference, shares)
        found += [f"{name}: {text}" for text in violations(figures, limits, PER_OUTPUT)]
    return found + violations(task_figures(manifest, outputs, golden), limits, PER_TASK)
