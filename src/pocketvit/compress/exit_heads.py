"""Training the heads of early exits on features that are computed once. P photos (each view counts), E exits."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketvit.compress.step import Context
from pocketvit.data.crops import training_sample
from pocketvit.models.layers.exits import EarlyExits, ExitHead, Logits
from pocketvit.models.pixels import normalise
from pocketvit.models.trained import Trained
from pocketvit.progress import track
from pocketvit.tasks import TORCH_TASKS
from pocketvit.tasks.classify import Classifier, distil, loss

BATCH = 32
"""Photos that are looked at together."""


@dataclass(frozen=True)
class Learning:
    """How heads are trained."""

    epochs: int = 30
    lr: float = 2e-3
    weight_decay: float = 0.05
    batch_size: int = 128
    folds: int = 4
    """Each photo's confidence is taken from heads that learned from the other folds."""
    distill_weight: float = 0.5
    """Share of the loss that is learned from the last head's answer instead of the labels."""
    distill_temperature: float = 2.0


@dataclass(frozen=True)
class Pooled:
    """What exits see of the training photos, view by view."""

    inputs: tuple[Tensor, ...]
    """(P, width) of each exit."""
    labels: Tensor
    """(P, levels) int64."""
    last: Logits
    """(P, C) of each level: what the last head says."""
    photos: int
    """Different photos: P is this times the views."""
    task: Any
    state: Any
    """Of the loss: see ``TorchTask``."""

    def rows(self, photos: NDArray[np.int64]) -> Tensor:
        """Rows of all views of some photos."""
        views = len(self.labels) // self.photos
        return torch.from_numpy((np.arange(views)[:, None] * self.photos + photos).ravel())


@torch.no_grad()
def look_at(network: Trained, context: Context, views: int, *, quiet: bool = True) -> Pooled:
    """Run the training photos once for each view: the first as the model meets them in use, the others augmented.

    Raises:
        DataError: a photo cannot be decoded.
    """
    recipe, collection, model = context.recipe, context.data.train, network.model
    assert isinstance(model, Classifier)
    assert isinstance(model.exits, EarlyExits)
    data = replace(recipe.data, patches_per_image=1)
    parts: list[tuple[Tensor, ...]] = []
    count, width = len(collection.items), len(model.exits.after)
    with nullcontext(lambda: None) if quiet else track("exits", views * -(-count // BATCH)) as advance:
        for view in range(views):
            train = replace(recipe.train, augment="none") if view == 0 else recipe.train
            for start in range(0, count, BATCH):
                indices = range(start, min(start + BATCH, count))
                samples = [training_sample(collection, data, network.preprocess, train, view, i) for i in indices]
                pixels, truth = (torch.from_numpy(np.stack(part)) for part in zip(*samples, strict=True))
                x = normalise(pixels, network.preprocess).contiguous()
                pooled, last = model.on_the_way(x, model.exits)
                parts.append((*pooled, *last, truth))
                advance()
    joined = [torch.cat(column) for column in zip(*parts, strict=True)]
    state = TORCH_TASKS[network.task.name].state(network.task, collection)
    last = tuple(joined[width:-1])
    return Pooled(tuple(joined[:width]), joined[-1].reshape(len(joined[-1]), -1), last, count, network.task, state)


def fit_head(head: ExitHead, pooled: Pooled, number: int, how: Learning, photos: NDArray[np.int64]) -> None:
    """Train the head of exit ``number`` in place on some photos: AdamW, cosine schedule, labels and the last head."""
    rows, generator = pooled.rows(photos), torch.Generator().manual_seed(number)
    optimizer = torch.optim.AdamW(head.parameters(), lr=how.lr, weight_decay=how.weight_decay)
    per_epoch = -(-len(rows) // how.batch_size)
    steps = how.epochs * per_epoch
    head.train()
    with torch.enable_grad():
        for at in range(steps):
            if at % per_epoch == 0:
                order = rows[torch.randperm(len(rows), generator=generator)]
            chosen = order[at % per_epoch * how.batch_size :][: how.batch_size]
            for group in optimizer.param_groups:
                group["lr"] = how.lr * 0.5 * (1 + math.cos(math.pi * at / steps))
            answer = head(pooled.inputs[number][chosen])
            hard = loss(answer, pooled.labels[chosen], pooled.task, pooled.state)
            soft = distil(answer, tuple(level[chosen] for level in pooled.last), how.distill_temperature)
            total = (1 - how.distill_weight) * hard + how.distill_weight * soft
            optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    head.eval()


def cross_fitted(exits: EarlyExits, pooled: Pooled, number: int, how: Learning) -> Logits:
    """What heads of exit ``number`` say to each photo (P, C), none of which has learned from it."""
    folds = np.random.default_rng(0).permutation(pooled.photos) % how.folds
    answers = tuple(torch.zeros_like(level) for level in pooled.last)
    for fold in range(how.folds):
        head = ExitHead(exits.width, exits.hidden, exits.classes)
        fit_head(head, pooled, number, how, np.flatnonzero(folds != fold))
        rows = pooled.rows(np.flatnonzero(folds == fold))
        with torch.no_grad():
            for level, said in zip(answers, head(pooled.inputs[number][rows]), strict=True):
                level[rows] = said
    return answers
