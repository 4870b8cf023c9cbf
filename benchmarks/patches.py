"""How much making noise slows training: patches a second with each kind of noise, taken in turns.

python benchmarks/patches.py [--data ../shared/data/bsds500/train] [--recipe recipes/denoise_photo.yaml] [--steps 60]

Three figures for each kind: samples alone (one process), training steps on samples made in the same process, and steps
on samples of one loader process. ``gaussian`` is the plain case. Rounds take turns; medians and their spread are shown.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch

from pocketvit.data.collections import load_collection
from pocketvit.data.loader import Batch, Loader
from pocketvit.models.pixels import normalise
from pocketvit.spec.environment import environment
from pocketvit.spec.recipe import Recipe, load_recipe
from pocketvit.tasks import TORCH_TASKS
from pocketvit.tasks.start import new_model
from pocketvit.train.schedule import make_optimizer

KINDS = ("gaussian", "poisson", "correlated", "camera", "mixture")


def endless(loader: Loader) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


def train_steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, batches: list[Batch]) -> None:
    """As the training loop does a step, in bf16."""
    task = TORCH_TASKS[recipe.task.name]
    for pixels, truth in batches:
        x = normalise(pixels, recipe.preprocess).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(x)
        task.loss(output, task.targets(truth), recipe.task, None).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/bsds500/train")
    parser.add_argument("--recipe", default="recipes/denoise_photo.yaml")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    base = load_recipe(arguments.recipe, {"data.train": [arguments.data]})
    size = base.train.batch_size
    model = new_model(base, ()).model.to(memory_format=torch.channels_last).train()
    optimizer = make_optimizer(model, base.train)
    found: dict[tuple[str, str], list[float]] = {}
    for turn in range(arguments.rounds + 1):
        for kind in KINDS:
            for workers in (0, 1):
                recipe = replace(base, data=replace(base.data, noise=kind, workers=workers))
                collection = load_collection(recipe.data.train, recipe.data, recipe.task.name, "train")
                with closing(Loader(collection, recipe.data, recipe.preprocess, recipe.train)) as loader:
                    batches = endless(loader)
                    for _ in range(4):  # photos are decoded, the process has started
                        next(batches)
                    began = time.perf_counter()
                    if not workers:
                        for _ in range(arguments.steps):
                            next(batches)
                        alone = size * arguments.steps / (time.perf_counter() - began)
                        found.setdefault((kind, "samples alone"), []).append(alone)
                        began = time.perf_counter()
                    for _ in range(arguments.steps):
                        train_steps(model, optimizer, recipe, [next(batches)])
                    rate = size * arguments.steps / (time.perf_counter() - began)
                    how = "steps, one loader process" if workers else "steps, same process"
                    found.setdefault((kind, how), []).append(rate)
        if turn == 0:
            found.clear()  # warm-up
    print(
        f"patches of {base.data.patch}x{base.data.patch} a second, batches of {size}, {torch.get_num_threads()} threads"
    )
    for (kind, how), rates in sorted(found.items(), key=lambda entry: entry[0][1]):
        print(f"{how:26s} {kind:12s} {np.median(rates):7.0f}   ({min(rates):.0f} to {max(rates):.0f})")
    print(environment())


if __name__ == "__main__":
    main()
