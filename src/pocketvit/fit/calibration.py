"""Real training images for calibration and sensitivity ranking: never validation images, which judge the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pocketvit.compress.step import Context
from pocketvit.data.crops import training_sample
from pocketvit.export.built import Built
from pocketvit.fit.measure import Measurer
from pocketvit.runtimes.probe import probe
from pocketvit.spec.preprocess import PIXELS

MAX_CROPS = 16
"""Tiles are large and hold many positions each: more of them only cost time."""


def make_context(measurer: Measurer, runtime: str, folder: Path, *, quiet: bool = True) -> Context:
    """Draw ``compress.calibration_images`` samples from the training data, as the model meets them in use.

    Whole photos get the evaluation's preprocessing; pixel tasks take crops of the tile's size. Nothing is augmented.
    """
    recipe, trained, task = measurer.recipe, measurer.trained, measurer.task
    train = measurer.splits.train
    crops = task.geometry == "pixels"
    wanted = min(recipe.compress.calibration_images, MAX_CROPS) if crops else recipe.compress.calibration_images
    chosen = np.random.default_rng(recipe.train.seed).permutation(len(train.items))[:wanted]
    height, width = trained.preprocess.size
    data = replace(recipe.data, patch=max(height, width), patches_per_image=1)
    plain = replace(recipe.train, augment="none")
    samples = [training_sample(train, data, trained.preprocess, plain, 0, int(i)) for i in chosen]
    inputs = tuple(np.ascontiguousarray(pixels[:height, :width]) for pixels, _ in samples)
    truths = tuple(truth[:height, :width] if crops else truth for _, truth in samples)

    def score(path: Path) -> float:
        # An engine that crashes on a new file must not end this process.
        built = Built(runtime, "int8", path)
        probe(path, measurer.target(built), inputs[0].shape[:2])
        model = measurer.open(built)
        evaluator = task.evaluator(trained.levels, "")
        for pixels, truth in zip(inputs, truths, strict=True):
            evaluator.update(model.finish(model.session.run({PIXELS: pixels[None]})), truth)
        value = next(m.value for m in evaluator.metrics() if m.name == evaluator.main)
        return value if task.metric(evaluator.main).higher_is_better else -value

    def time(files: Sequence[Built]) -> list[float]:
        return [timing.p50 for timing in measurer.time(files)]

    max_change, max_loss = task.change_limits
    return Context(
        inputs,
        folder,
        score,
        task.change,
        max_change,
        max_loss,
        recipe.target.threads,
        measurer.splits,
        recipe,
        runtime=runtime,
        time=time,
        shared=folder.parent,
        quiet=quiet,
    )
