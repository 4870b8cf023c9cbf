"""Classify, flat or in a hierarchy: one linear head per level on shared features, cross-entropy at each level.

The decision that is consistent from level to level is made on the probabilities (:mod:`pocketvit.spec.hierarchy`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit.data.collections import Collection
from pocketvit.errors import UsageError
from pocketvit.models.layers.blocks import init_linear
from pocketvit.models.layers.exits import EarlyExits
from pocketvit.models.vit import ViT
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.preprocess import Preprocess
from pocketvit.tasks.base import TorchTask


class Classifier(nn.Module):
    """Backbone and a head per level: (B, 3, H, W) -> a tuple of logits (B, classes), coarsest level first.

    ``backbone`` maps (B, 3, H, W) to pooled features (B, embed_dim) and has ``embed_dim``; ``classes`` has the number
    of classes of each level. Where a step put :class:`EarlyExits` in the place of ``exits``, the first exit that is
    sure answers for an image; in training mode the logits of the exits follow those of the heads, so that all learn.
    """

    def __init__(self, backbone: nn.Module, classes: Sequence[int]) -> None:
        super().__init__()
        self.backbone = backbone
        width = int(backbone.embed_dim)  # type: ignore[arg-type]
        self.heads = nn.ModuleList(nn.Linear(width, count).apply(init_linear) for count in classes)
        self.exits: nn.Module = nn.Identity()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Logits of every level."""
        if isinstance(self.exits, EarlyExits):
            pooled, last = self.on_the_way(image, self.exits)
            early = self.exits.answers(pooled)
            return sum(early, last) if self.training else self.exits.choose(early, last)
        features = self.backbone(image)
        return tuple(head(features) for head in self.heads)

    def on_the_way(self, image: Tensor, exits: EarlyExits) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """What each exit looks at (B, width), and the logits of the heads."""
        vit: Any = self.backbone
        tokens, features = vit.on_the_way(image, exits.after)
        return [exits.pool(x, vit.num_prefix) for x in tokens], tuple(head(features) for head in self.heads)

    def margin(self, image: Tensor) -> Tensor:
        """(B,): how far the nearest exit that looks at an image is from deciding otherwise; 1 without exits."""
        if not isinstance(self.exits, EarlyExits):
            return torch.ones(len(image))
        return self.exits.margin(self.exits.answers(self.on_the_way(image, self.exits)[0]))


class ClassifierHead(nn.Module):
    """The first blocks of a ViT, which holds no others: (B, 3, H, W) -> tokens (B, N, D).

    Of a network that is complete but for the final norm and reads its class token (``class_only``) that token alone.
    """

    def __init__(self, vit: ViT, class_only: bool) -> None:
        super().__init__()
        self.backbone, self.class_only = vit, class_only

    def forward(self, image: Tensor) -> Tensor:
        """The tokens. Raises UsageError: some were merged, and how many each stands for would have to go along."""
        vit: Any = self.backbone
        *_, (x, sizes) = vit.through(vit.embed(image))
        if sizes is not None:
            what = "split_at: tokens are merged in front of this cut, and their sizes would have to go along."
            raise UsageError(what, "Cut in front of the first block that merges, or export a network that does not.")
        return x[:, :1] if self.class_only else x


class ClassifierTail(nn.Module):
    """The other blocks, norm and heads: tokens (B, N, D) -> logits of every level."""

    def __init__(self, vit: ViT, heads: nn.ModuleList) -> None:
        super().__init__()
        self.backbone, self.heads = vit, heads

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits of every level."""
        vit: Any = self.backbone
        sizes: Tensor | None = None
        for state in vit.through(x):
            x, sizes = state
        features = vit.pooled(vit.norm(x), sizes)
        return tuple(head(features) for head in self.heads)


def halves(model: nn.Module, after: int) -> tuple[ClassifierHead, ClassifierTail]:
    """Copies of what stands in front of and behind the cut, neither with weights that it does not need.

    Raises UsageError: no classifier on one of our own ViTs, one with early exits, or one with fewer blocks.
    """
    todo = "Export it whole, without --split_at."
    if not isinstance(model, Classifier) or not isinstance(model.backbone, ViT):
        raise UsageError("only classifiers on one of our own ViTs can be cut in two behind a block.", todo)
    if isinstance(model.exits, EarlyExits):
        raise UsageError("a network with early exits is not cut in two: either half would have answers.", todo)
    count = model.backbone.block_count
    if not 1 <= after <= count:
        raise UsageError(f"split_at {after}: the network has {count} blocks.", f"Take a number from 1 to {count}.")
    front, back = copy.deepcopy(model.backbone), copy.deepcopy(model.backbone)
    front.cut((), (after - 1,))
    del back.blocks[:after], back.patch_embed, back.pos_embed
    if back.num_prefix:
        del back.cls_token
    class_only = after == count and bool(back.num_prefix) and back.attn_pool is None
    return ClassifierHead(front, class_only), ClassifierTail(back, copy.deepcopy(model.heads))


def build(backbone: nn.Module, config: Any, levels: Sequence[LevelSpec], preprocess: Preprocess) -> Classifier:
    """A linear head for each level. Raises UsageError: ``config.level_weights`` has not one entry for each level."""
    if config.level_weights and len(config.level_weights) != len(levels):
        what = f"task.level_weights has {len(config.level_weights)} entries for {len(levels)} levels."
        raise UsageError(what, f"Give one weight each for {', '.join(level.name for level in levels)}.")
    return Classifier(backbone, [len(level.labels) for level in levels])


def balanced_weights(labels: Sequence[Sequence[int]], classes: Sequence[int]) -> list[Tensor]:
    """Per level, weights (classes,) inverse to the counts, averaging 1 over the samples; 0 where there are none."""
    weights = []
    for level, count in enumerate(classes):
        counts = torch.bincount(torch.tensor([sample[level] for sample in labels]), minlength=count).float()
        even = counts.sum() / ((counts > 0).sum() * counts.clamp(min=1))
        weights.append(torch.where(counts > 0, even, torch.zeros_like(counts)))
    return weights


def state(config: Any, collection: Collection) -> list[Tensor] | None:
    """Class weights of each level, where ``config.class_weights`` asks for them."""
    if config.class_weights == "none":
        return None
    return balanced_weights([item.labels for item in collection.items], [len(x.labels) for x in collection.levels])


def loss(output: tuple[Tensor, ...], target: Tensor, config: Any, state: Sequence[Tensor] | None = None) -> Tensor:
    """Weighted mean over levels of the cross-entropy; ``target`` (B, levels) int64, ``state`` the class weights.

    Of a network with exits in training the mean over heads and exits (BranchyNet, eq. 2, all weights alike).
    """
    levels = target.shape[1]
    shares = config.level_weights or (1.0,) * levels
    if len(output) > levels:
        return torch.stack([loss(each, target, config, state) for each in _groups(output, levels)]).mean()
    total = output[0].new_zeros((), dtype=torch.float32)
    for level, (logits, share) in enumerate(zip(output, shares, strict=True)):
        weight = state[level].to(logits.device) if state else None
        each = F.cross_entropy(logits.float(), target[:, level], weight=weight, label_smoothing=config.label_smoothing)
        total = total + share * each
    return total / sum(shares)


def _groups(output: tuple[Tensor, ...], levels: int) -> list[tuple[Tensor, ...]]:
    """The logits of the heads, then those of each exit."""
    return [output[i : i + levels] for i in range(0, len(output), levels)]


def distil(output: tuple[Tensor, ...], teacher: tuple[Tensor, ...], temperature: float) -> Tensor:
    """KL divergence to the teacher's softened probabilities, times T^2 (Hinton et al. 2015), mean over levels.

    Exits of the student learn from the same answer.
    """
    if len(output) > len(teacher):
        return torch.stack([distil(x, teacher, temperature) for x in _groups(output, len(teacher))]).mean()
    losses = []
    for own, other in zip(output, teacher, strict=True):
        p, q = (F.log_softmax(logits.float() / temperature, dim=1) for logits in (own, other))
        losses.append(F.kl_div(p, q, reduction="batchmean", log_target=True) * temperature**2)
    return torch.stack(losses).mean()


def distil_hard(output: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Tensor:
    """Cross-entropy with the teacher's decisions, which are not smoothed (Touvron et al. 2021, DeiT, eq. 3); mean over
    levels. With a weight of 0.5 beside the labels' loss it is the published one."""
    losses = [F.cross_entropy(own.float(), other.argmax(1)) for own, other in zip(output, teacher, strict=True)]
    return torch.stack(losses).mean()


def graph_output(answer: tuple[Tensor, ...], preprocess: Preprocess) -> tuple[Tensor, ...]:
    """Logits (B, classes) of every level -> probabilities."""
    return tuple(torch.softmax(logits.float(), dim=-1) for logits in answer)


CLASSIFY = TorchTask(
    build=build,
    loss=loss,
    distil=distil,
    distil_hard=distil_hard,
    graph_output=graph_output,
    state=state,
    halves=halves,
)
