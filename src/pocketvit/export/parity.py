"""Does an exported file give the answers of the trained model? A mismatch is an error, never a warning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import VerificationError
from pocketvit.export.built import Built
from pocketvit.export.wrap import INPUT
from pocketvit.runtimes import RUNTIMES, open_session
from pocketvit.spec.artifact import Golden
from pocketvit.spec.target import Target

Arrays = Mapping[str, NDArray[Any]]


def compare(outputs: Arrays, expected: Arrays) -> dict[str, float]:
    """Largest and mean absolute difference and the least cosine over all outputs and samples (arrays are (N, ...))."""
    difference, cosines = [], []
    for name, want in expected.items():
        got = np.asarray(outputs[name], np.float64).reshape(len(want), -1)
        flat = np.asarray(want, np.float64).reshape(len(want), -1)
        difference.append(np.abs(got - flat))
        norms = np.linalg.norm(got, axis=1) * np.linalg.norm(flat, axis=1)
        cosines.append(((got * flat).sum(axis=1) + 1e-12) / (norms + 1e-12))
    return {
        "max_abs": float(max(d.max() for d in difference)),
        "mean_abs": float(np.mean([d.mean() for d in difference])),
        "min_cosine": float(min(c.min() for c in cosines)),
    }


def run_file(
    built: Built, inputs: Iterable[NDArray[np.uint8]], names: Sequence[str], threads: int = 2
) -> dict[str, NDArray[np.float32]]:
    """Outputs of an exported file for (H, W, 3) uint8 inputs, stacked by name; ``names`` in order where the file has none."""
    session = open_session(built.path, Target(built.runtime, built.precision, threads, built.device))
    rows = [session.run({INPUT: image[None]}) for image in inputs]
    stacked = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return stacked if RUNTIMES[built.runtime].named_outputs else dict(zip(names, stacked.values(), strict=False))


def check_parity(built: Built, golden: Golden, limits: Mapping[str, float], threads: int = 2) -> dict[str, float]:
    """Run the goldens through a file and hold the answers against the trained model's.

    Returns:
        ``max_abs``, ``mean_abs`` and ``min_cosine`` as measured.

    Raises:
        VerificationError: outputs are missing or misshapen, hold NaN, or differ by more than ``limits``.
    """
    outputs = run_file(built, golden.inputs, list(golden.outputs), threads)
    todo = "The file is not usable; export with another format, or report the model's architecture."
    for name, want in golden.outputs.items():
        if name not in outputs or outputs[name].shape != want.shape:
            raise VerificationError(
                f"{built.path.name}: output {name} is {outputs[name].shape if name in outputs else 'missing'}, not {want.shape}.",
                todo,
            )
        if not np.isfinite(outputs[name]).all():
            raise VerificationError(f"{built.path.name}: output {name} holds NaN or infinity.", todo)
    found = compare(outputs, golden.outputs)
    if broken := exceeded(found, limits):
        raise VerificationError(
            f"{built.path.name} ({built.key}) differs from the trained model: {', '.join(broken)}.", todo
        )
    return found


def exceeded(found: Mapping[str, float], limits: Mapping[str, float]) -> list[str]:
    """One phrase for each limit that is broken."""
    broken = [
        f"{key} {found[key]:.4g} > {limits[key]:.4g}"
        for key in ("max_abs", "mean_abs")
        if key in limits and not found[key] <= limits[key]
    ]
    if "min_cosine" in limits and not found["min_cosine"] >= limits["min_cosine"]:
        broken.append(f"min_cosine {found['min_cosine']:.6g} < {limits['min_cosine']:.6g}")
    return broken
