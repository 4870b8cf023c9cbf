"""Classify, flat or in a hierarchy: one linear head per level on shared features, cross-entropy at each level.

The decision that is consistent from level to level is made on the probabilities (:func:`pocketvit.spec.hierarchy.decide`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit.errors import UsageError
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.tasks.classify import ClassifyConfig


class Classifier(nn.Module):
    """Backbone and a head per level: (B, 3, H, W) -> a tuple of logits (B, classes), coarsest level first."""

    def __init__(self, backbone: nn.Module, classes: Sequence[int]) -> None:
        super().__init__()
        self.backbone = backbone
        width = int(backbone.embed_dim)  # type: ignore[arg-type]
        self.heads = nn.ModuleList(_head(width, count) for count in classes)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Logits of every level."""
        features = self.backbone(image)
        return tuple(head(features) for head in self.heads)


def _head(width: int, classes: int) -> nn.Linear:
    head = nn.Linear(width, classes)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head


def balanced_weights(labels: Sequence[Sequence[int]], classes: Sequence[int]) -> list[Tensor]:
    """Per level, weights (classes,) inversely proportional to class counts, averaging 1 over the samples; absent classes weigh 0."""
    weights = []
    for level, count in enumerate(classes):
        counts = torch.bincount(torch.tensor([sample[level] for sample in labels]), minlength=count).float()
        present = (counts > 0).sum()
        weights.append(
            torch.where(counts > 0, counts.sum() / (present * counts.clamp(min=1)), torch.zeros_like(counts))
        )
    return weights


class ClassifyTask:
    """Head, loss and targets of classification."""

    def build_head(self, backbone: nn.Module, levels: Sequence[LevelSpec]) -> nn.Module:
        """A linear head for each level."""
        return Classifier(backbone, [len(level.labels) for level in levels])

    def check(self, preprocess: Preprocess) -> None:
        """Raise ``UsageError`` where the preprocessing has no fixed size."""
        if preprocess.resize == "tile":
            raise UsageError(
                "classify needs preprocess.resize crop or stretch, not tile.", "Set preprocess.resize: crop."
            )

    def targets(self, labels: Tensor) -> Tensor:
        """(B, levels) int64, unchanged."""
        return labels

    def loss(
        self,
        output: tuple[Tensor, ...],
        target: Tensor,
        settings: ClassifyConfig,
        class_weights: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Weighted mean over levels of the cross-entropy."""
        shares = settings.level_weights or (1.0,) * len(output)
        total = output[0].new_zeros((), dtype=torch.float32)
        for level, (logits, share) in enumerate(zip(output, shares, strict=True)):
            weight = class_weights[level].to(logits.device) if class_weights else None
            total = total + share * F.cross_entropy(
                logits.float(), target[:, level], weight=weight, label_smoothing=settings.label_smoothing
            )
        return total / sum(shares)

    def graph_output(self, answer: tuple[Tensor, ...], preprocess: Preprocess) -> tuple[Tensor, ...]:
        """Logits to probabilities."""
        return tuple(torch.softmax(logits.float(), dim=-1) for logits in answer)

    def distil(self, output: tuple[Tensor, ...], teacher: tuple[Tensor, ...], temperature: float) -> Tensor:
        """KL divergence to the teacher's softened probabilities, times T^2 (Hinton et al. 2015), mean over levels."""
        t = temperature
        losses = [
            F.kl_div(
                F.log_softmax(own.float() / t, dim=1),
                F.log_softmax(other.float() / t, dim=1),
                reduction="batchmean",
                log_target=True,
            )
            * t
            * t
            for own, other in zip(output, teacher, strict=True)
        ]
        return torch.stack(losses).mean()
