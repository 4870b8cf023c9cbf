"""Negative controls: copies of model files with damaged weights, and goldens as a wrong preprocessing would give them.

A check that passes everything proves nothing. Weights are damaged inside the files, past all checksums: the middle half
of every weight tensor becomes zero. Where a tensor lies is read from the format itself, so that the copy still opens.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pocketvit.runtimes import RUNTIMES
from pocketvit.spec.preprocess import Pixels


def damaged_copy(runtime: str, files: Sequence[Path], folder: Path) -> Path:
    """Copy the model file and its companions into ``folder`` with damaged weights, and return the copy of the first."""
    copies = [folder / file.name for file in files]
    for file, copy in zip(files, copies, strict=True):
        shutil.copyfile(file, copy)
    # Engines open each other's files (OpenVINO opens ONNX), so the format decides before the engine does.
    own = RUNTIMES[runtime]
    by_format = (record for record in (own, *RUNTIMES.values()) if record.suffix == copies[0].suffix)
    next(by_format, own).damage(copies)
    return copies[0]


def swap_channels(pixels: Pixels) -> Pixels:
    """What a model gets where blue and red are mistaken for each other."""
    return np.ascontiguousarray(pixels[..., ::-1])


def normalise_twice(pixels: Pixels) -> Pixels:
    """What a model gets where mean and deviation are not its own: a quarter of the contrast, and brighter."""
    shifted: Pixels = np.rint(0.25 * pixels + 0.45 * 255).astype(np.uint8)
    return shifted


def is_grey(pixels: Pixels) -> bool:
    """Whether the images have so little colour that swapping channels changes nothing."""
    return float(np.abs(pixels[..., 0].astype(np.int16) - pixels[..., 2]).mean()) < 4.0
