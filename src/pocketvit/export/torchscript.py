"""TorchScript: a traced, frozen graph for LibTorch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from pocketvit.export.built import Built
from pocketvit.export.wrap import PixelModel
from pocketvit.files import replacing


def write(pixel_model: PixelModel, size: tuple[int, int], folder: Path, stem: str = "model") -> Built:
    """Write ``<stem>.pt``: (1, H, W, 3) uint8 gives the outputs in the order of ``pixel_model.output_names``."""
    path = folder / f"{stem}.pt"
    trace: Any = torch.jit.trace  # untyped in torch
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        free = bool(pixel_model.preprocess.multiple)  # odd, so that what pads and cuts is in the trace
        odd = (size[0] | 1, size[1] | 1) if free else size
        traced = trace(pixel_model.float().cpu().eval(), (pixel_model.example(odd),), check_trace=not free)
        with replacing(path) as partial:
            torch.jit.freeze(traced).save(str(partial))
    return Built("torchscript", "fp32", path)
