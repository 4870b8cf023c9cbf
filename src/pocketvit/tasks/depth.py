"""Depth: a network's score becomes metres or inverse depth; losses over the pixels whose depth is known.

B batch   h w size of the network's answer   H W size of the model's input   N adaptive bins
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit.data.collections import Collection
from pocketvit.data.decode import read_item
from pocketvit.errors import UsageError
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import Recipe
from pocketvit.spec.tasks import task_of
from pocketvit.tasks import depth_losses as losses
from pocketvit.tasks.base import TorchTask
from pocketvit.tasks.maps import at_size

LEAST_INVERSE = 1e-6
START_SHARE = 0.25
"""Of ``max_depth``: where a new model of metres begins; most of a photo is nearer than half of the range."""
DENSE = 0.5
"""Least share of known pixels whose right neighbour is known too, for slopes to mean anything."""
_LOOKED_AT = 8


class Answer(NamedTuple):
    """What the whole network gives."""

    depth: Tensor
    """(B, 1, h, w): metres, or inverse depth."""
    metric: bool
    centres: Tensor | None = None
    """(B, N) centres of adaptive bins in metres."""


class DepthModel(nn.Module):
    """A network that gives depth, and what its score means: normalised (B, 3, H, W) -> :class:`Answer`.

    Metric: min_depth + (max_depth - min_depth) * sigmoid(score); relative: relu(score), an inverse depth. A network
    with adaptive bins (``bins``) gives (depth in metres, centres) itself.
    """

    def __init__(self, backbone: nn.Module, config: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.metric, self.low, self.high = config.kind == "metric", config.min_depth, config.max_depth

    def forward(self, image: Tensor) -> Answer:
        """Depth at the network's own resolution."""
        found = self.backbone(image)
        if isinstance(found, tuple):
            return Answer(found[0].float(), True, found[1].float())
        score = found.float()
        if not self.metric:
            return Answer(F.relu(score), False)
        return Answer(self.low + (self.high - self.low) * torch.sigmoid(score), True)


def build(backbone: nn.Module, config: Any, levels: Sequence[LevelSpec], preprocess: Preprocess) -> DepthModel:
    """The network with the meaning of its score.

    Raises UsageError: adaptive bins are metres, and relative has none; or the network's head is for another task.
    """
    if (head := getattr(backbone, "answers", "depth")) != "depth":
        raise UsageError(f"model.options.head {head} gives no depth.", "Leave model.options.head out.")
    if getattr(backbone, "bins", False):
        if config.kind != "metric":
            what = f"task.kind {config.kind} does not go with a network of adaptive bins: they are metres."
            raise UsageError(what, "Set task.kind: metric, or take another model.name.")
        backbone.min_depth, backbone.max_depth = config.min_depth, config.max_depth  # what the bins divide
    else:
        share = (START_SHARE * config.max_depth - config.min_depth) / (config.max_depth - config.min_depth)
        share = min(max(share, 0.01), 0.99)
        _begin_at(backbone, math.log(share / (1 - share)) if config.kind == "metric" else 1.0)
    return DepthModel(backbone, config)


def _begin_at(network: nn.Module, score: float) -> None:
    """Let the last layer with a bias, which makes the score, begin at ``score``."""
    layers = [x.bias for x in network.modules() if isinstance(x, (nn.Conv2d, nn.Linear)) and x.bias is not None]
    if layers:
        nn.init.constant_(layers[-1], score)


def loss(output: Answer, target: Tensor, config: Any, state: None = None) -> Tensor:
    """Scalar; ``target`` is (B, H, W) in metres, 0 where nothing is known."""
    pred = _at(output.depth, tuple(target.shape[1:]))
    truth = target.float()
    if not output.metric:
        mask = truth > 0
        inverse = 1 / torch.where(mask, truth, 1.0)
        total = losses.scale_shift_invariant(pred, inverse, mask)
        if config.gradient_weight:
            aligned = losses.align_scale_shift(pred, inverse, mask)
            total = total + config.gradient_weight * losses.gradient_matching(aligned, inverse, mask)
        return total
    mask = (truth >= config.min_depth) & (truth <= config.max_depth)
    total = _METRIC[config.loss](pred, truth, mask, config)
    if config.gradient_weight:
        total = total + config.gradient_weight * losses.gradient_matching(pred, truth, mask)
    if output.centres is not None and config.chamfer_weight:
        total = total + config.chamfer_weight * losses.chamfer(output.centres, truth, mask)
    return total


_METRIC = {
    "auto": lambda pred, truth, mask, config: losses.silog(pred, truth, mask, config.silog_lambda),
    "silog": lambda pred, truth, mask, config: losses.silog(pred, truth, mask, config.silog_lambda),
    "berhu": lambda pred, truth, mask, config: losses.berhu(pred, truth, mask),
    "l1": lambda pred, truth, mask, config: losses.l1(pred, truth, mask),
}


def distil(output: Answer, teacher: Answer, temperature: float) -> Tensor:
    """Distance to the teacher's depth at the student's resolution.

    Metres are compared as they are (SILog); where one of the two is relative, inverse depth after scale and shift are
    taken out of both.
    """
    size = (output.depth.shape[2], output.depth.shape[3])
    pred, wanted = output.depth[:, 0], _at(teacher.depth, size).detach()
    mask = wanted > LEAST_INVERSE
    if output.metric and teacher.metric:
        return losses.silog(pred, wanted, mask)
    inverses = [
        (1 / values.clamp(min=LEAST_INVERSE)) if answer.metric else values
        for values, answer in ((pred, output), (wanted, teacher))
    ]
    return losses.scale_shift_invariant(inverses[0], inverses[1], mask)


def graph_output(answer: Answer, preprocess: Preprocess) -> Tensor:
    """(B, H, W) float32 at the model's input size, bilinear."""
    return _at(answer.depth.float(), preprocess.size)


def _at(depth: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, 1, h, w) -> (B, H, W)."""
    return at_size(depth, size)[:, 0]


def check(recipe: Recipe) -> None:
    """Raise ``UsageError`` for a recipe that cannot be trained."""
    record, data, train = task_of(recipe.task.name), recipe.data, recipe.train
    record.check_preprocess(recipe.preprocess)
    names = record.conditions(data.protocol, data.layout_of("val"))
    if getattr(recipe.task, "kind", "") == "relative" and any("+" not in name for name in names):
        what = f"data.protocol {', '.join(names)} compares metres, which task.kind relative has none of."
        raise UsageError(what, f"Set data.protocol: [{names[0]}+least_squares], or +median.")
    if data.layout == "clean" and not train.teacher:
        what = "data.layout clean has photos without depth, and there is no train.teacher to learn from."
        raise UsageError(what, "Name a teacher (train.teacher), or data with depth maps (data.layout).")
    if train.augment == "randaugment":
        what = "train.augment randaugment moves pixels of the photo alone, and its depth would not go with it."
        raise UsageError(what, "Take crop, flip or none.")


def state(config: Any, collection: Collection) -> None:
    """Nothing; but slopes are refused where depths are sparse.

    Raises UsageError: ``config.gradient_weight`` with ground truth that has next to no neighbours.
    """
    items = [item for item in collection.items if item.clean is not None]
    if not config.gradient_weight or not items:
        return
    some = items[:: max(1, len(items) // _LOOKED_AT)][:_LOOKED_AT]
    depths = (read_item(collection, item)[1] for item in some)
    shares = [losses.neighbour_share(torch.from_numpy(depth > 0)[None]) for depth in depths if depth is not None]
    if (share := sum(shares) / len(shares)) < DENSE:
        what = f"task.gradient_weight needs dense depth: here {100 * share:.0f} % of the known pixels have a neighbour."
        raise UsageError(what, "Sparse LiDAR has no neighbours to take slopes of: set task.gradient_weight: 0.")


DEPTH = TorchTask(
    build=build,
    loss=loss,
    distil=distil,
    graph_output=graph_output,
    takes=("depth",),
    state=state,
    check=check,
    uncut="its decoder reads what lies behind several blocks, and all of that would have to be sent",
)
