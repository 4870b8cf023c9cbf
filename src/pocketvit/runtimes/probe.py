"""Run a model file once in a process of its own, so that an engine that crashes on it takes nothing else down.

Engines are native code: on some processors a file that is valid makes them end the process (seen: an int8 file of a
convolutional network in OpenVINO). Nothing in Python can catch that from inside.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import PocketvitError, VerificationError
from pocketvit.spec.target import Target

TIMEOUT_S = 300


def probe(path: Path, target: Target, size: tuple[int, int]) -> None:
    """Open ``path`` and answer one noise image of ``size`` (height, width) in a fresh process; a tail noisy features.

    Raises:
        VerificationError: the engine crashed, hung or refused the file; the message names the engine and how it ended.
    """
    request = {"path": str(path), "target": str(target), "size": size}
    todo = "Take another precision or runtime on this machine."
    try:
        run, last_words = fresh_process("pocketvit.runtimes.probe", request, TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        what = f"{target.runtime} did not answer within {TIMEOUT_S} s on {path.name}."
        raise VerificationError(what, todo) from error
    if run.returncode < 0:
        ended = signal.Signals(-run.returncode).name
        raise VerificationError(f"{target.runtime} crashed on {path.name} ({ended}).", todo)
    if run.returncode != 0:
        raise VerificationError(f"{target.runtime} refuses {path.name}: {last_words[:300]}", todo)


def fresh_process(
    module: str, request: Mapping[str, Any], timeout_s: float | None = None
) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run ``module`` with ``request`` as JSON in a process of its own: how it ended, and its last error line."""
    command = [sys.executable, "-P", "-m", module, json.dumps(request)]  # -P: not what lies in this folder
    run = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    return run, (run.stderr.strip().splitlines() or [f"it ended with {run.returncode}"])[-1]


def _main(request: str) -> None:
    from pocketvit.runtimes import open_session

    wanted = json.loads(request)
    session = open_session(Path(wanted["path"]), Target.parse(wanted["target"]))
    rng, (name, port) = np.random.default_rng(0), next(iter(session.inputs.items()))
    noise: NDArray[Any] = rng.integers(0, 256, (1, *wanted["size"], 3), dtype=np.uint8)
    if port.dtype == "float32" and port.shape is not None:
        noise = rng.standard_normal(port.shape, np.float32)
    for _ in range(2):
        session.run({name: noise})


if __name__ == "__main__":
    try:
        _main(sys.argv[1])
    except PocketvitError as error:
        sys.exit(error.what)
