"""Golden parity: an exported file's answers against the trained model's, with limits by task and precision.

A float file must give the same numbers. An int8 file may not, by its nature: what counts there is the change of the
task's metric on the goldens, and that most answers stay the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import VerificationError
from pocketvit.runtimes import Session
from pocketvit.runtimes.model import PIXELS, finish
from pocketvit.spec.artifact import Golden
from pocketvit.spec.evaluators import make_evaluator
from pocketvit.spec.manifest import Manifest
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.tolerances import TOLERANCES

Outputs = Mapping[str, NDArray[np.float32]]

UPPER = ("max_abs", "mean_abs", "metric_drop")
LOWER = ("min_cosine", "mean_cosine", "min_agreement")
PER_OUTPUT = ("max_abs", "mean_abs", "min_cosine", "mean_cosine")


def tolerances(manifest: Manifest, precision: str) -> dict[str, float]:
    """Limits of one precision: what the manifest states, or the defaults where it states nothing.

    Raises:
        VerificationError: the manifest states a limit that does not exist, which would be a limit nobody checks.
    """
    stated = manifest.tolerances.get(precision, {})
    unknown = sorted(set(stated) - {*UPPER, *LOWER})
    if unknown:
        raise VerificationError(
            f"tolerances.{precision}.{unknown[0]} in the manifest is no known limit.",
            f"Known limits: {', '.join((*UPPER, *LOWER))}.",
        )
    return stated or TOLERANCES[manifest.task][precision]


def run_goldens(session: Session, inputs: Pixels) -> dict[str, NDArray[np.float32]]:
    """Answers to (N, H, W, 3) uint8, one image at a time, joined along the first axis."""
    rows = [session.run({PIXELS: image[None]}) for image in inputs]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def compare(output: NDArray[np.float32], golden: NDArray[np.float32]) -> dict[str, float]:
    """Largest and mean absolute difference and the cosine similarity by sample (least and mean) of one output; NaN where it holds NaN."""
    a, b = output.reshape(len(output), -1).astype(np.float64), golden.reshape(len(golden), -1).astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.where(norms == 0, np.all(a == b, axis=1), (a * b).sum(axis=1) / np.maximum(norms, 1e-300))
    difference = np.abs(a - b)
    return {
        "max_abs": float(difference.max()),
        "mean_abs": float(difference.mean()),
        "min_cosine": float(cosine.min()),
        "mean_cosine": float(cosine.mean()),
    }


def golden_metric(manifest: Manifest, outputs: Outputs, truth: NDArray[Any]) -> float:
    """The task's main metric of raw outputs on the goldens (PSNR in dB, top-1 of the finest level in %)."""
    evaluator = make_evaluator(manifest.task, manifest.levels)
    for index, answer in enumerate(truth):
        evaluator.update(finish({name: value[index : index + 1] for name, value in outputs.items()}, manifest), answer)
    return next(value for name, value, _ in evaluator.metrics() if name == evaluator.main)


def task_figures(manifest: Manifest, outputs: Outputs, golden: Golden) -> dict[str, float]:
    """The metric on the goldens, its loss against the trained model, and for classification the share of equal answers in %."""
    if not all(np.isfinite(value).all() for value in outputs.values()):
        return {"metric": float("nan"), "metric_drop": float("nan"), "min_agreement": float("nan")}
    reference, value = (
        golden_metric(manifest, golden.outputs, golden.truth),
        golden_metric(manifest, outputs, golden.truth),
    )
    figures = {"metric": value, "metric_drop": 0.0 if value == reference else reference - value}
    if manifest.task == "classify":
        finest = f"probs_{manifest.levels[-1].name}"
        figures["min_agreement"] = float(
            100 * np.mean(outputs[finest].argmax(axis=1) == golden.outputs[finest].argmax(axis=1))
        )
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


def parity_violations(manifest: Manifest, outputs: Outputs, golden: Golden, limits: Mapping[str, float]) -> list[str]:
    """Everything that keeps ``outputs`` from being the golden ones."""
    found = []
    for name, reference in golden.outputs.items():
        found += [f"{name}: {text}" for text in violations(compare(outputs[name], reference), limits, PER_OUTPUT)]
    return found + violations(task_figures(manifest, outputs, golden), limits, ("metric_drop", "min_agreement"))
