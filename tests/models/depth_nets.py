"""Depth networks of tests, exported without the task: a score or metres (B, 1, h, w) at the size of the input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit.export.formats import exporter
from pocketvit.export.wrap import PixelModel
from pocketvit.runtimes import open_session
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.target import Target
from tests.tiny import photo

SMALL: dict[str, Any] = {"embed_dim": 32, "num_heads": 2, "hooks": [0, 1], "widths": [8, 12, 16, 24]}
ADABINS: dict[str, Any] = {
    **{"backbone": "restorer_xs", "decoder_width": 32, "width": 12, "token_dim": 16, "layers": 1, "num_heads": 2},
    **{"mlp_ratio": 2.0, "patch_size": 4, "num_bins": 8, "queries": 4},
}


def as_output(answer: Any, preprocess: Preprocess) -> Tensor:
    depth = answer[0] if isinstance(answer, tuple) else answer
    return F.interpolate(depth, size=preprocess.size, mode="bilinear", align_corners=False)[:, 0]


def check_files(network: nn.Module, size: tuple[int, int], folder: Path) -> None:
    """ONNX Runtime and OpenVINO answer as the network does."""
    model, pixels = PixelModel(network.eval(), Preprocess(size=size), as_output, ["depth"]), photo(*size)[None]
    with torch.inference_mode():
        wanted = model(torch.from_numpy(pixels)).numpy()  # type: ignore[union-attr]
    assert np.ptp(wanted) > 0
    for runtime in ("onnxruntime", "openvino"):
        path = exporter(runtime)(model, size, folder, "model").path
        found = open_session(path, Target(runtime, "fp32", 1)).run({"pixels": pixels})["depth"]
        np.testing.assert_allclose(found, wanted, atol=1e-4 * max(1.0, float(np.abs(wanted).max())))
