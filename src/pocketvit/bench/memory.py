"""What a fresh process needs to load an artifact and answer once: peak resident memory, and time until it can answer.

A process that has trained or exported before holds memory of its own, so the figure is taken in a new one. The child
reads ``VmHWM``, which starts anew with the program; ``ru_maxrss`` would carry over the parent's peak.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pocketvit.errors import PocketvitError, UsageError
from pocketvit.files import scratch
from pocketvit.runtimes.footprint import resident
from pocketvit.runtimes.model import load
from pocketvit.runtimes.probe import fresh_process
from pocketvit.spec.images import MAX_PIXELS, read_image
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.target import Target

DEFAULT_SIZE = (480, 640)
"""Height and width of the picture that stands in where none is given: a camera frame."""

Source = str | os.PathLike[str]
ImageSource = Source | Pixels | None


@dataclass(frozen=True)
class FreshRun:
    """Figures of a process that loaded an artifact and answered once."""

    peak_rss_mb: float
    """Peak resident memory in MB (1e6 bytes), Python and engine included."""
    load_ms: float
    """Importing the engine, reading the file and compiling it."""
    first_ms: float
    """The first answer."""


def peak_rss_mb(
    artifact: Source, target: str | Target | None = None, image: ImageSource = None, *, trust: bool = False
) -> float:
    """Peak resident MB (1e6 bytes) of a :func:`fresh_run`."""
    return fresh_run(artifact, target, image, trust=trust).peak_rss_mb


def fresh_run(
    artifact: Source,
    target: str | Target | None = None,
    image: ImageSource = None,
    size: tuple[int, int] = DEFAULT_SIZE,
    *,
    trust: bool = False,
) -> FreshRun:
    """Load and answer once in a fresh process.

    Args:
        artifact: folder or shipped name.
        target: ``runtime:precision:threads``; by default the artifact's own.
        image: image file or (H, W, 3) uint8 array; by default a synthetic picture of ``size`` (height, width).
        size: of the synthetic picture.
        trust: also run files that are programs (TorchScript).

    Raises:
        PocketvitError: the child failed; the message holds its last line.
    """
    if isinstance(image, np.ndarray):
        with scratch() as temporary:
            file = temporary / "image.npy"
            np.save(file, image, allow_pickle=False)
            return fresh_run(artifact, target, file, size, trust=trust)
    named = {"artifact": artifact, "target": target, "image": image}
    request = {key: None if value is None else str(value) for key, value in named.items()}
    run, last_words = fresh_process("pocketvit.bench.memory", request | {"size": size, "trust": trust})
    if run.returncode != 0:
        what = f"{artifact}: a fresh process could not answer ({last_words})."
        raise PocketvitError(what, "Run `pocketvit verify` on it, and look for free memory.")
    return FreshRun(**json.loads(run.stdout.strip().splitlines()[-1]))


def synthetic(size: tuple[int, int]) -> Pixels:
    """A (height, width, 3) uint8 picture, always the same: waves and noise, repeated so that it takes no memory."""
    y, x = np.mgrid[0:256, 0:256]
    waves = 60 * np.sin(x * np.pi / 16)[..., None] * np.cos(y * np.pi / 16)[..., None]
    noise = np.random.default_rng(0).normal(0, 20, (256, 256, 3))
    block: Pixels = np.clip(128 + waves + noise, 0, 255).astype(np.uint8)
    return block[np.arange(size[0]) % 256][:, np.arange(size[1]) % 256]


def timing_image(image: Source | None, size: tuple[int, int]) -> Pixels:
    """The decoded ``image``, or a synthetic one of ``size``."""
    return read_image(image) if image is not None else synthetic(size)


def parse_size(text: str) -> tuple[int, int]:
    """``"480x640"`` -> (480, 640), height first.

    Raises:
        UsageError: it is not two positive numbers, or more pixels than images may have.
    """
    found = re.fullmatch(r"\s*0*([1-9][0-9]{0,8})\s*x\s*0*([1-9][0-9]{0,8})\s*", text.lower(), re.ASCII)
    if found is None:
        raise UsageError(f"size {text!r} is not HEIGHTxWIDTH.", "Write e.g. 480x640.")
    height, width = map(int, found.groups())
    if height * width > MAX_PIXELS:
        what = f"size {text} are more than {MAX_PIXELS // 1_000_000} megapixels."
        raise UsageError(what, "No image of that size is read; take a smaller one.")
    return height, width


def _own_peak_mb() -> float:
    """Peak resident memory of this process in MB."""
    if Path("/proc/self/status").is_file() and not math.isnan(peak := resident("VmHWM")):
        return peak / 1e6
    import psutil

    info = psutil.Process().memory_info()
    if hasattr(info, "peak_wset"):  # Windows
        return float(info.peak_wset) / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def _answer_once(request: dict[str, Any]) -> FreshRun:
    began = time.perf_counter()
    model = load(request["artifact"], request["target"], trust=request["trust"])
    loaded, name = time.perf_counter(), request["image"]
    stored = str(name).endswith(".npy")
    image = np.load(name, allow_pickle=False) if stored else timing_image(name, tuple(request["size"]))
    start = time.perf_counter()
    model(image)
    return FreshRun(_own_peak_mb(), (loaded - began) * 1e3, (time.perf_counter() - start) * 1e3)


if __name__ == "__main__":
    try:
        print(json.dumps(vars(_answer_once(json.loads(sys.argv[1])))))
    except PocketvitError as error:
        sys.exit(error.what)
