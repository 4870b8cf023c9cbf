"""The validation metric of a torch model, with the same preprocessing, protocol and evaluators as for exported files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

import numpy as np
import torch
from torch import nn

from pocketvit.data.cases import Case
from pocketvit.models.pixels import normalise
from pocketvit.models.restorer import DenseDenoiser, Restorer
from pocketvit.models.trained import Trained
from pocketvit.spec.evaluators import Evaluator
from pocketvit.spec.hierarchy import decide, leaf_paths
from pocketvit.spec.preprocess import Pixels, prepare
from pocketvit.spec.results import Classification, Level, Restored
from pocketvit.spec.tiles import run_tiled


@torch.inference_mode()
def run_batch(trained: Trained, pixels: np.ndarray) -> list[np.ndarray]:
    """(B, H, W, 3) uint8 model inputs -> float32 outputs as the exported file gives them.

    Restore: one array (B, H, W, 3), 0 to 255, clamped, not rounded. Classify: probabilities (B, classes) for each level.
    """
    device = next(trained.model.parameters()).device
    x = normalise(torch.from_numpy(np.ascontiguousarray(pixels)).to(device), trained.preprocess)
    output = trained.model(x)
    if trained.task.name == "restore":
        return [(output.float().clamp(0, 1) * 255.0).permute(0, 2, 3, 1).cpu().numpy()]
    return [torch.softmax(logits.float(), dim=1).cpu().numpy() for logits in output]


def restore(trained: Trained, image: Pixels) -> Restored:
    """Restore one (H, W, 3) uint8 image: whole where the network takes any size and the image is no larger than 1 megapixel, else in tiles."""
    spec = trained.preprocess
    if isinstance(trained.model, (Restorer, DenseDenoiser)) and image.shape[0] * image.shape[1] <= 1_000_000:
        return Restored(np.clip(np.rint(run_batch(trained, image[None])[0][0]), 0, 255).astype(np.uint8))
    return Restored(run_tiled(lambda tile: run_batch(trained, tile[None])[0][0], image, spec.size, spec.overlap))


def classify(trained: Trained, images: list[Pixels]) -> list[Classification]:
    """Classify images of any size, one batch."""
    inputs = np.stack([prepare(image, trained.preprocess) for image in images])
    scores = run_batch(trained, inputs)
    chosen = decide(scores, leaf_paths(trained.levels))
    return [
        Classification(
            tuple(
                Level(level.name, tuple(level.labels), scores[k][i], int(chosen[i, k]))
                for k, level in enumerate(trained.levels)
            )
        )
        for i in range(len(images))
    ]


def validate(
    trained: Trained,
    cases: Iterable[Case],
    evaluator: Evaluator,
    on_image: Callable[[int], None] = lambda n: None,
    batch: int = 32,
) -> dict[str, float]:
    """Score the model on ``cases`` and return metric values by name; the model is left in the mode it was in."""
    was_training = trained.model.training
    trained.model.eval()
    try:
        if trained.task.name == "restore":
            for case in cases:
                evaluator.update(restore(trained, case.image), case.truth, case.condition)
                on_image(1)
        else:
            waiting: list[Case] = []
            for next_case in chain(cases, [None]):
                if next_case is not None:
                    waiting.append(next_case)
                if waiting and (next_case is None or len(waiting) == batch):
                    for one, result in zip(waiting, classify(trained, [c.image for c in waiting]), strict=True):
                        evaluator.update(result, one.truth, one.condition)
                    on_image(len(waiting))
                    waiting = []
    finally:
        trained.model.train(was_training)
    return {name: value for name, value, _ in evaluator.metrics()}


def freeze(model: nn.Module) -> nn.Module:
    """Evaluation mode, no gradients."""
    return model.eval().requires_grad_(False)
