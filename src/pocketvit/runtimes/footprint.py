"""How much memory the runs of a file of any size take, measured in a process of its own at two sizes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np

from pocketvit.errors import PocketvitError, VerificationError
from pocketvit.runtimes import open_session
from pocketvit.runtimes.probe import fresh_process
from pocketvit.spec.manifest import Memory
from pocketvit.spec.preprocess import PIXELS
from pocketvit.spec.target import Target

SIDES = (64, 384, 896)
"""Of square images: one that the engine warms up with, and the two that are measured."""
MARGIN = 1.05


def footprint(path: Path, target: Target) -> Memory | None:
    """Memory of runs of the file ``path``, above the process that has opened it; ``None`` where it cannot be told.

    Raises:
        VerificationError: the engine crashed or refused the file.
    """
    run, last_words = fresh_process("pocketvit.runtimes.footprint", {"path": str(path), "target": str(target)}, 300)
    if run.returncode:
        what = f"{target.runtime} cannot run {path.name} at several sizes: {last_words[:300]}"
        raise VerificationError(what, "Take another precision or runtime on this machine.")
    peaks = json.loads(run.stdout.strip().splitlines()[-1])
    if len(peaks) < 2:
        return None
    small, large = SIDES[1] ** 2, SIDES[2] ** 2
    # The larger of growth and share: engines ask for memory in steps. Input and answer alone are 15 bytes.
    slope = max((peaks[1] - peaks[0]) / (large - small), peaks[1] / large, 15.0)
    fixed = max(peaks[0] - slope * small, 0.0)
    return Memory(fixed_mb=round(fixed / 1e6 + 1, 1), bytes_per_pixel=round(slope * MARGIN, 1))


def resident(field: str) -> float:
    """``VmRSS`` or ``VmHWM`` (the peak) of this process in bytes."""
    found = re.search(rf"^{field}:\s*(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024.0 if found else float("nan")


def _peaks(path: str, target: str) -> list[float]:
    """Bytes that one run of each size took at its peak, above what was there before it."""
    session, peaks = open_session(Path(path), Target.parse(target)), []
    for side in SIDES:
        pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        session.run({PIXELS: pixels})
        peaks.append(resident("VmHWM") - before)
    return peaks[1:]


if __name__ == "__main__":
    try:
        wanted = json.loads(sys.argv[1])
        print(json.dumps(_peaks(**wanted) if Path("/proc/self/clear_refs").exists() else []))
    except PocketvitError as error:
        sys.exit(error.what)
