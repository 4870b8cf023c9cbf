"""Does an exported file give the answers of the trained model? A mismatch is an error, never a warning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import VerificationError
from pocketvit.export.built import Built
from pocketvit.runtimes import RUNTIMES, open_session
from pocketvit.spec.golden import Golden
from pocketvit.spec.parity import PER_OUTPUT, compare_all, run_goldens, violations
from pocketvit.spec.preprocess import PIXELS
from pocketvit.spec.target import Target


def run_file(
    built: Built, inputs: NDArray[Any], names: Sequence[str], threads: int = 2, *, input_name: str = PIXELS
) -> dict[str, NDArray[np.float32]]:
    """Outputs of an exported file for (N, H, W, 3) uint8 inputs, stacked by name; a tail's are (N, tokens, width).

    Where the format knows no names (TorchScript), ``names`` are given in order.
    """
    session = open_session(built.path, Target(built.runtime, built.precision, threads, built.device))
    stacked = run_goldens(session, inputs, input_name)
    return stacked if RUNTIMES[built.runtime].named_outputs else dict(zip(names, stacked.values(), strict=False))


def check_parity(
    built: Built,
    golden: Golden,
    limits: Mapping[str, float],
    threads: int = 2,
    *,
    relative: bool = False,
    input_name: str = PIXELS,
) -> dict[str, float]:
    """Run the goldens through a file and hold the answers against the trained model's (``relative``: ``Task``'s).

    Returns:
        ``max_abs``, ``mean_abs``, ``min_cosine`` and ``mean_cosine`` as measured.

    Raises:
        VerificationError: outputs are missing or misshapen, hold NaN, or differ by more than ``limits``.
    """
    outputs = run_file(built, golden.inputs, list(golden.outputs), threads, input_name=input_name)
    todo = "The file is not usable; export with another format, or report the model's architecture."
    for name, want in golden.outputs.items():
        if name not in outputs or outputs[name].shape != want.shape:
            shape = outputs[name].shape if name in outputs else "missing"
            raise VerificationError(f"{built.path.name}: output {name} is {shape}, not {want.shape}.", todo)
        if not np.isfinite(outputs[name]).all():
            raise VerificationError(f"{built.path.name}: output {name} holds NaN or infinity.", todo)
    found = compare_all(outputs, golden.outputs, relative)
    if broken := violations(found, limits, PER_OUTPUT):
        what = f"{built.path.name} ({built.key}) differs from the trained model: {', '.join(broken)}."
        raise VerificationError(what, todo)
    return found
