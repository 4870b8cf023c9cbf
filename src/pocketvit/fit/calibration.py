"""Real training images for calibration and sensitivity ranking: never validation images, which judge the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pocketvit.data.collections import Splits
from pocketvit.data.crops import training_sample
from pocketvit.export.artifact import answers, pixel_model_of
from pocketvit.models.trained import Trained
from pocketvit.runtimes import open_session
from pocketvit.runtimes.probe import probe
from pocketvit.spec.metrics import psnr
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.recipe import Recipe
from pocketvit.spec.target import Target

MAX_RESTORE_IMAGES = 16
"""Tiles are large and hold many positions each: more of them only cost time."""


@dataclass(frozen=True)
class Calibration:
    """Model inputs made from training images, with what the float model and the ground truth say about them."""

    inputs: tuple[Pixels, ...]
    """(H, W, 3) uint8 each, as the exported file takes them."""
    truths: tuple[np.ndarray, ...]
    outputs: dict[str, np.ndarray]
    """Outputs of the trained float model."""
    task: str
    threads: int

    def score(self, path: Path, runtime: str) -> float:
        """Run the file in a process of its own first, then say how good it is.

        How good a file is on these inputs: PSNR to the ground truth (dB) for restore; for classify the percentage
        of images on which it gives the finest class that the float model gives.

        Raises:
            VerificationError: the engine crashes on the file or refuses it.
        """
        target = Target(runtime, "int8", self.threads)
        probe(path, target, self.inputs[0].shape[:2])  # an engine that crashes on a new file must not end this process
        session = open_session(path, target)
        last = list(self.outputs)[-1]
        values = [session.run({"pixels": pixels[None]})[last][0] for pixels in self.inputs]
        if self.task == "restore":
            return float(
                np.mean(
                    [
                        psnr(np.clip(np.rint(v), 0, 255).astype(np.uint8), t)
                        for v, t in zip(values, self.truths, strict=True)
                    ]
                )
            )
        return float(
            100 * np.mean([v.argmax() == wanted.argmax() for v, wanted in zip(values, self.outputs[last], strict=True)])
        )

    def scorer(self, runtime: str) -> Callable[[Path], float]:
        """:meth:`score` for the files of one runtime."""
        return lambda path: self.score(path, runtime)


def make_calibration(trained: Trained, splits: Splits, recipe: Recipe) -> Calibration:
    """Draw ``compress.calibration_images`` samples from the training data, as the model meets them in use.

    Classify: evaluation preprocessing, no augmentation. Restore: noisy crops of the tile's size.
    """
    count = len(splits.train.items)
    wanted = recipe.compress.calibration_images
    if trained.task.name == "restore":
        wanted = min(wanted, MAX_RESTORE_IMAGES)
    chosen = np.random.default_rng(recipe.train.seed).permutation(count)[:wanted]
    plain = replace(recipe.train, augment="none")
    side = max(trained.preprocess.size)
    data = replace(recipe.data, patch=side, patches_per_image=1)
    samples = [training_sample(splits.train, data, trained.preprocess, plain, 0, int(i)) for i in chosen]
    height, width = trained.preprocess.size
    inputs = tuple(np.ascontiguousarray(pixels[:height, :width]) for pixels, _ in samples)
    truths = tuple(t[:height, :width] if trained.task.name == "restore" else t for _, t in samples)
    return Calibration(
        inputs, truths, answers(pixel_model_of(trained), inputs), trained.task.name, recipe.target.threads
    )
