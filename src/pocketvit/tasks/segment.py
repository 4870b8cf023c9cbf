"""Segment: logits of each class and place from any network that decodes maps, cross-entropy over known pixels.

B batch   K classes   h w size of the network's answer (the input over ``stride``)   H W size of the model's input
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit.data.collections import Collection
from pocketvit.data.decode import read_item
from pocketvit.errors import UsageError
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.mask_files import IGNORED
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import Recipe
from pocketvit.spec.tasks import task_of
from pocketvit.spec.tasks.segment import answer_size
from pocketvit.tasks.base import TorchTask
from pocketvit.tasks.maps import at_size

MOST_WEIGHT = 20.0
"""A class that hardly occurs would else make a single pixel outweigh a photo."""
_LOOKED_AT = 200
"""Masks that class weights are counted on, evenly spread."""


class SegmentModel(nn.Module):
    """A network that gives a logit for each class and place, at ``stride``: normalised (B, 3, H, W) -> (B, K, h, w)."""

    def __init__(self, backbone: nn.Module, stride: int) -> None:
        super().__init__()
        self.backbone, self.stride = backbone, stride

    def forward(self, image: Tensor) -> Tensor:
        """Logits, bilinear from the network's own size where that is another one."""
        size = answer_size((int(image.shape[-2]), int(image.shape[-1])), self.stride)
        return at_size(self.backbone(image).float(), size)


def build(backbone: nn.Module, config: Any, levels: Sequence[LevelSpec], preprocess: Preprocess) -> SegmentModel:
    """The network with a last layer for the classes.

    Raises UsageError: it gives depth and nothing else (adaptive bins).
    """
    if not hasattr(backbone, "give_classes"):
        what = f"a {type(backbone).__name__} gives depth alone and no classes."
        raise UsageError(what, "Take a model.name that begins with pocketdepth or dpt_.")
    backbone.give_classes(len(levels[-1].labels))  # type: ignore[operator]
    return SegmentModel(backbone, config.stride)


def loss(output: Tensor, target: Tensor, config: Any, state: Tensor | None = None) -> Tensor:
    """Scalar; ``target`` is (B, H, W) int64, 255 where nothing is known, ``state`` the class weights (K,).

    The mean over known pixels, each by its class's weight; 0 where there are none.
    """
    logits, known = at_size(output.float(), target.shape[-2:]), target != IGNORED
    weight = None if state is None else state.to(logits.device)
    each = F.cross_entropy(logits, target, weight, ignore_index=IGNORED, reduction="none")
    count = known.sum() if weight is None else weight[torch.where(known, target, 0)][known].sum()
    total = each.sum() / count.clamp(min=1e-6)
    return total + config.dice_weight * dice(logits, target) if config.dice_weight else total


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - 2 sum(p g) / sum(p + g) of each class in the batch's truth, mean over these (Milletari et al. 2016, with the
    plain sums of Sudre et al. 2017); p are probabilities (B, K, H, W), g is the truth (B, H, W)."""
    known = (target != IGNORED)[:, None]
    truth = F.one_hot(torch.where(known[:, 0], target, 0), logits.shape[1]).movedim(-1, 1) * known
    probs = logits.softmax(dim=1) * known
    dims = (0, 2, 3)
    both, sums, there = (probs * truth).sum(dims), (probs + truth).sum(dims), truth.sum(dims) > 0
    losses = 1 - 2 * both / sums.clamp(min=1e-6)
    return torch.where(there, losses, 0).sum() / there.sum().clamp(min=1)


def distil(output: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence to the teacher's softened probabilities, times T^2 (Hinton et al. 2015), mean over the pixels of
    the student's answer."""
    other = at_size(teacher.detach().float(), output.shape[-2:])
    p, q = (F.log_softmax(logits.float() / temperature, dim=1) for logits in (output, other))
    return F.kl_div(p, q, reduction="none", log_target=True).sum(dim=1).mean() * temperature**2


def distil_hard(output: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy with the classes that the teacher decides for."""
    return F.cross_entropy(output.float(), at_size(teacher.detach().float(), output.shape[-2:]).argmax(dim=1))


def graph_output(answer: Tensor, preprocess: Preprocess) -> Tensor:
    """(B, K, h, w) float32 probabilities."""
    return torch.softmax(answer.float(), dim=1)


def check(recipe: Recipe) -> None:
    """Raise ``UsageError`` for a recipe that cannot be trained."""
    task_of(recipe.task.name).check_preprocess(recipe.preprocess)
    if recipe.train.augment == "randaugment":
        what = "train.augment randaugment moves pixels of the photo alone, and its mask would not go with it."
        raise UsageError(what, "Take crop, flip or none.")


def state(config: Any, collection: Collection) -> Tensor | None:
    """Class weights (K,), averaging 1 over the known pixels, where ``config.class_weights`` asks for them.

    A class without a pixel has weight 0: there is nothing to weigh.
    """
    if config.class_weights == "none":
        return None
    count = len(collection.levels[-1].labels)
    counts = torch.from_numpy(_pixels(collection, count)).double()
    share = counts / counts.sum().clamp(min=1)
    weights = torch.where(counts > 0, 1 / share.clamp(min=1e-12), 0.0)
    least = weights[counts > 0].min() if bool((counts > 0).any()) else torch.tensor(1.0)
    weights = weights.clamp(max=MOST_WEIGHT * float(least))
    return (weights / (weights * share).sum().clamp(min=1e-12)).float()


def _pixels(collection: Collection, count: int) -> Any:
    """(K,) known pixels of each class in some masks."""
    items = [item for item in collection.items if item.clean is not None]
    total = np.zeros(256, np.int64)
    for item in items[:: max(1, len(items) // _LOOKED_AT)]:
        mask = read_item(collection, item)[1]
        total += np.bincount(np.asarray(mask).ravel(), minlength=256)
    return total[:count]


SEGMENT = TorchTask(
    build=build,
    loss=loss,
    distil=distil,
    distil_hard=distil_hard,
    graph_output=graph_output,
    takes=("depth",),
    targets=lambda raw: raw.long(),
    state=state,
    check=check,
    uncut="its decoder reads what lies behind several blocks, and all of that would have to be sent",
)
