"""The validation metric of a torch model by the protocol of the artifact: its tiles, its rounding, its evaluator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pocketvit.data.cases import Case
from pocketvit.models.pixels import normalise
from pocketvit.models.trained import Trained
from pocketvit.runtimes.whole import UNMEASURED, tile_for
from pocketvit.spec.preprocess import Pixels, Preprocess, prepare
from pocketvit.spec.tasks import task_of
from pocketvit.spec.tasks.base import Evaluator, Result
from pocketvit.spec.tiles import Run, run_tiled
from pocketvit.tasks import TORCH_TASKS

BATCH_PIXELS = 32 * 256 * 256
"""Of the model inputs that are answered at once: large ones take their memory one by one."""


@torch.inference_mode()
def run_batch(trained: Trained, pixels: Pixels) -> list[NDArray[np.float32]]:
    """(B, H, W, 3) uint8 model inputs -> float32 outputs (B, ...), those of the exported file in its order."""
    device = next(trained.model.parameters()).device
    x = normalise(torch.from_numpy(np.ascontiguousarray(pixels)).to(device), trained.preprocess)
    outputs = TORCH_TASKS[trained.task.name].graph_output(trained.model(x), trained.preprocess)
    return [each.cpu().numpy() for each in (outputs if isinstance(outputs, tuple) else (outputs,))]


def answer(trained: Trained, images: Sequence[Pixels]) -> list[Result]:
    """Typed answers for (H, W, 3) uint8 images of any size, as :class:`pocketvit.runtimes.model.Model` gives them."""
    record, spec = task_of(trained.task.name), trained.preprocess
    names = [output.name for output in record.outputs(trained.levels, spec, trained.task)]

    def one(tile: Pixels) -> NDArray[np.float32]:
        return run_batch(trained, tile[None])[0][0]

    if spec.resize == "tile":
        answers = (_restored(one, image, spec) for image in images)
        return [record.finish({names[0]: image[None]}, trained.levels) for image in answers]
    outputs = run_batch(trained, np.stack([prepare(image, spec) for image in images]))
    rows = (dict(zip(names, (each[i : i + 1] for each in outputs), strict=True)) for i in range(len(images)))
    return [record.finish(row, trained.levels) for row in rows]


def _restored(one: Run, image: Pixels, spec: Preprocess) -> NDArray[Any]:
    """Whole or in tiles, as the artifact's files would run it."""
    size = tile_for(image.shape[:2], spec, UNMEASURED) if spec.multiple else spec.size
    return run_tiled(one, image, size, spec.overlap) if size else one(image)


def validate(
    trained: Trained,
    cases: Iterable[Case],
    evaluator: Evaluator,
    on_image: Callable[[int], None] = lambda n: None,
    batch: int = 32,
) -> dict[str, float]:
    """Score the model on ``cases`` and return metric values by name; the model is left in the mode it was in."""
    was_training, left = trained.model.training, iter(cases)
    trained.model.eval()
    fitting = BATCH_PIXELS // math.prod(trained.preprocess.size)
    # Whole photos: only as many in memory as are needed.
    size = 1 if trained.preprocess.resize == "tile" else max(1, min(batch, fitting))
    try:
        while waiting := list(islice(left, size)):
            for case, result in zip(waiting, answer(trained, [case.image for case in waiting]), strict=True):
                evaluator.update(result, case.truth, case.condition)
            on_image(len(waiting))
    finally:
        trained.model.train(was_training)
    return {measure.name: measure.value for measure in evaluator.metrics()}
