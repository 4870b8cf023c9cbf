"""Boxes: a small convolutional head on the maps or patch tokens of any backbone that gives features.

B batch, H W size of the model's input, h w cells of the answer, K classes. No anchors and no lists in the graph: all
shapes are fixed, so that it exports to every format and quantises as a convolution does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit.errors import UsageError
from pocketvit.models.layers.blocks import ConvBlock
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import Recipe
from pocketvit.spec.tasks import task_of
from pocketvit.spec.tasks.detect import grid
from pocketvit.tasks import detect_losses as losses
from pocketvit.tasks.base import TorchTask

PRIOR = 0.05
"""How sure of a centre a new model is everywhere (Lin et al. 2017, focal loss, section 4.1, which takes 0.01)."""
REACH = 2.0
"""Cells to which a side of 1 before scaling corresponds: as new, sides reach some two cells far."""


class Answer(NamedTuple):
    """What the whole network gives."""

    heat: Tensor
    """(B, K, h, w) logits."""
    sides: Tensor
    """(B, 4, h, w) above 0: from the cell's centre to left, top, right, bottom, in shares of the photo."""


class Detector(nn.Module):
    """Backbone and head: normalised (B, 3, H, W) -> :class:`Answer`.

    Features of a stride of at least one cell are brought to one width and added from the coarsest on (Lin et al. 2017,
    FPN); a finer grid than the finest of them has is made by a transposed convolution, since a patch's token says where
    in it things are. Then residual pairs of 3x3 convolutions, and one 1x1 convolution for each output.
    """

    reads_patches = True
    reach: Tensor
    """(1, 4, 1, 1): what a side of 1 before scaling is, in shares of the photo."""

    def __init__(self, backbone: nn.Module, classes: int, size: tuple[int, int], config: Any) -> None:
        super().__init__()
        self.backbone = backbone
        inside: Any = backbone
        strides, channels = inside.strides, inside.channels
        self.used = [i for i, stride in enumerate(strides) if stride >= config.cell]
        self.tokens = inside.feature_kind == "tokens"
        self.grids = [grid(size, int(strides[i])) for i in self.used]
        factor = int(strides[self.used[0]]) // config.cell
        width = config.head_width
        self.enter = nn.ModuleList(nn.Conv2d(int(channels[i]), width, 1) for i in self.used)
        self.finer = nn.ConvTranspose2d(width, width, factor, factor) if factor > 1 else nn.Identity()
        self.tower = nn.Sequential(*(ConvBlock(width) for _ in range(config.head_blocks)))
        self.heat, self.sides = nn.Conv2d(width, classes, 1), nn.Conv2d(width, 4, 1)
        nn.init.normal_(self.heat.weight, std=0.01)
        nn.init.constant_(self.heat.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]
        nn.init.normal_(self.sides.weight, std=0.01)
        reach = torch.tensor([REACH * config.cell / size[1], REACH * config.cell / size[0]])
        self.register_buffer("reach", reach.repeat(2).view(1, 4, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Answer:
        """Answer in each cell."""
        found = self.backbone.features(image)  # type: ignore[operator]
        maps = [self._map(found[i], size) for i, size in zip(self.used, self.grids, strict=True)]
        levels = [layer(x) for layer, x in zip(self.enter, maps, strict=True)]
        x = levels[-1]
        for finer in levels[-2::-1]:
            x = finer + F.interpolate(x, size=finer.shape[2:], mode="bilinear", align_corners=False)
        x = F.relu(self.tower(self.finer(x)))
        return Answer(self.heat(x).float(), F.softplus(self.sides(x).float()) * self.reach)

    def _map(self, feature: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, C, h, w) of a feature of either kind."""
        return feature.transpose(1, 2).unflatten(2, size) if self.tokens else feature


def build(backbone: nn.Module, config: Any, levels: Sequence[LevelSpec], preprocess: Preprocess) -> Detector:
    """The backbone with the head.

    Raises UsageError: ``config.cell`` does not go with the strides of the backbone or the size of the input.
    """
    strides: Sequence[int] = backbone.strides  # type: ignore[assignment]
    used = [int(stride) for stride in strides if stride >= config.cell]
    if not used or any(stride % config.cell for stride in used) or used[0] // config.cell > 4:
        fit = sorted({int(stride) // part for stride in strides for part in (1, 2, 4) if not stride % part})
        what = f"task.cell {config.cell} does not go with a network whose features have strides {tuple(strides)}."
        raise UsageError(what, f"Take one of {', '.join(map(str, fit))}.")
    if any(side % config.cell for side in preprocess.size):
        what = f"task.cell {config.cell} does not divide preprocess.size {preprocess.size}."
        raise UsageError(what, "Take a size that the cells, and the patches, divide.")
    return Detector(backbone, len(levels[-1].labels), preprocess.size, config)


def loss(output: Answer, target: Tensor, config: Any, state: None = None) -> Tensor:
    """Scalar, the mean over boxes; ``target`` is (B, M, 5) as the device record's ``stack`` makes it."""
    classes, *size = output.heat.shape[1:]
    wanted = losses.targets(target, classes, (size[0], size[1]), config.spread)
    centres = losses.focal(output.heat, wanted.heat)
    apart = losses.one_minus_giou(losses.corners(output.sides), wanted.boxes)
    return (centres + config.box_weight * (wanted.weight * apart).sum()) / max(1, wanted.total)


def distil(output: Answer, teacher: Answer, temperature: float) -> Tensor:
    """Cross-entropy of the heat with the teacher's, and 1 - GIoU of the boxes where the teacher is sure; both as shares
    of the teacher's heat, at the student's grid. Temperature softens both heats."""
    size = output.heat.shape[2:]
    heat, sides = (F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in teacher)
    wanted = torch.sigmoid(heat / temperature).detach()
    apart = losses.one_minus_giou(losses.corners(output.sides), losses.corners(sides).detach())
    sure = torch.sigmoid(heat).amax(1).detach()
    alike = F.binary_cross_entropy_with_logits(output.heat / temperature, wanted, reduction="sum") * temperature**2
    least = F.binary_cross_entropy_with_logits(heat / temperature, wanted, reduction="sum").detach() * temperature**2
    return (alike - least + (sure * apart).sum()) / torch.sigmoid(heat).sum().detach().clamp(min=1.0)


def graph_output(answer: Answer, preprocess: Preprocess) -> tuple[Tensor, ...]:
    """Heat as 0 to 1, and the sides as they are."""
    return torch.sigmoid(answer.heat.float()), answer.sides.float()


def check(recipe: Recipe) -> None:
    """Raise ``UsageError`` for a recipe that cannot be trained."""
    record = task_of(recipe.task.name)
    record.check_preprocess(recipe.preprocess)
    record.conditions(recipe.data.protocol, recipe.data.layout_of("val"))
    if recipe.train.augment == "randaugment":
        what = "train.augment randaugment moves pixels of the photo alone, and its boxes would not go with it."
        raise UsageError(what, "Take crop, flip or none.")
    if recipe.data.class_names:
        what = "data.class_names does not go with boxes: their layouts name the classes themselves."
        raise UsageError(what, "Leave it out.")


DETECT = TorchTask(
    build=build,
    loss=loss,
    distil=distil,
    graph_output=graph_output,
    check=check,
    uncut="its head reads the tokens of all patches, and halves are made of classifiers alone",
)
