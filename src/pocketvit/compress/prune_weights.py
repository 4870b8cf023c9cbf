"""Prune single weights: they become zero, and stay so while the rest is retrained.

Dense engines multiply by zero as by anything else: nothing gets faster, and nothing smaller before the step ``store``
keeps the zeros as bits. Gradual pruning (Zhu and Gupta 2017, eq. 1) goes in rounds, each with its share of retraining.
With the pattern 2:4 two of every four weights along a layer's inputs go (Mishra et al. 2021, section 2), which matrix
units for sparse weights compute twice as fast; the engines here have no such kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pocketvit.compress.latent import settled, weighty, with_latent
from pocketvit.compress.retrain import Retraining, own_folder, retrained
from pocketvit.compress.saliency import SCORES, Layers, input_moments, surgeon
from pocketvit.compress.step import Context, StepReport
from pocketvit.errors import UsageError
from pocketvit.models.trained import Trained, copy_of
from pocketvit.spec.typed import Range, check_ranges


@dataclass(frozen=True)
class PruneWeights(Retraining):
    """Set a share of the weights to zero, then retrain the others with distillation from the network before."""

    share: float = 0.5
    """Of the weights of the chosen layers, that become zero."""
    by: Literal["l1", "taylor", "obd", "obs", "apoz", "variance"] = "l1"
    """What goes first: the smallest (``l1``); the least effect on the loss, to first order (``taylor``) or by the
    diagonal of its Hessian (``obd``); of each output the least effect on it, which the others make up for (``obs``, for
    linear layers of up to 256 inputs, ``l1`` elsewhere); small weights of channels that are seldom positive
    (``apoz``) or hardly vary (``variance``)."""
    scope: Literal["layer", "global"] = "layer"
    """The share holds in each layer, or of all layers together."""
    pattern: Literal["none", "2:4"] = "none"
    """``2:4`` keeps the two best of every four weights along the inputs; layers whose inputs are no multiple of four
    are left alone. Its share is 0.5."""
    layers: tuple[str, ...] = ()
    """Only layers whose path holds one of these words (``mlp``); empty takes all linear layers and convolutions."""
    rounds: int = 1
    """Zeros come in so many rounds, most of them early, each with its share of the epochs or minutes."""
    images: int = 256
    """Training images on which weights are ranked; ``l1`` needs none."""
    least_values: int = 1024
    """Layers with fewer weights are left alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ranges = {"share": Range(0, 1, above=True, below=True), "rounds": Range(1, 100), "images": Range(1, 1e6)}
        check_ranges("compress.steps.prune_weights", self, ranges)
        if self.by == "obs" and self.scope == "global":
            what = "compress.steps.prune_weights: obs goes by outputs, not over all layers."
            raise UsageError(what, "Set scope to layer, or rank by obd.")
        if self.pattern != "none" and (self.share != 0.5 or self.scope != "layer" or self.by == "obs"):
            what = f"compress.steps.prune_weights: pattern {self.pattern} has a share of 0.5 in each layer, and no obs."
            raise UsageError(what, "Leave out share and scope, and rank by l1, taylor, obd, apoz or variance.")


def prune_weights(step: PruneWeights, trained: Trained, context: Context) -> StepReport:
    """A copy of which a share of the weights is zero, retrained; ``trained`` itself stays as it is.

    Raises:
        UsageError: there are no such layers, or no data to rank or to retrain with.
    """
    network, rounds = trained, []
    for number in range(1, step.rounds + 1):
        share = step.share * (1 - (1 - number / step.rounds) ** 3)
        network, masks, removed = zeroed(step, network, context, share)
        latent = with_latent(network, masks, masked)
        done = retrained(
            latent, trained, own_folder(context, asdict(step) | {"round": number}), step.settings(step.rounds)
        )
        network = settled(done, masks, masked)
        rounds.append({"share": share, "by": removed})
    layers = chosen_layers(step, network.model)
    zeros, weights = (sum(int(f(x.weight)) for x in layers.values()) for f in (_zeros, torch.numel))
    notes = {"zeros": zeros, "weights": weights, "rounds": rounds}
    told = (
        f"{100 * zeros / weights:.0f} % of the weights of {len(layers)} layers are zero; dense engines compute with "
        "zeros as with all else, so nothing gets faster; the step store keeps them as bits"
    )
    if step.pattern != "none":
        # Two places of four fit in two bits each, beside the two weights.
        notes |= {"dense_bytes": 4 * weights, "pattern_bytes": 4 * (weights - zeros) + (weights - zeros) // 4}
        told = f"pattern {step.pattern}: {told}"
    return StepReport("prune_weights", asdict(step), network, notes=notes, told=told)


def chosen_layers(step: PruneWeights, model: nn.Module) -> Layers:
    """Layers of a network whose weights are pruned, by path.

    Raises:
        UsageError: there are none.
    """
    found = weighty(model, step.least_values)
    found = {path: x for path, x in found.items() if not step.layers or any(word in path for word in step.layers)}
    found = {path: x for path, x in found.items() if step.pattern == "none" or x.weight.shape[1] % 4 == 0}
    if not found:
        what = "compress.steps.prune_weights: there is no layer to prune."
        raise UsageError(what, "Name other layers, or lower least_values.")
    return found


def zeroed(
    step: PruneWeights, network: Trained, context: Context, share: float
) -> tuple[Trained, dict[str, Tensor], dict[str, str]]:
    """A copy with zeros, where weights may be something else than zero (bool), and how each layer was ranked."""
    result = copy_of(network)
    layers = chosen_layers(step, result.model)
    how: dict[str, str] = dict.fromkeys(layers, step.by)
    scores = SCORES["l1" if step.by == "obs" else step.by](result, layers, context, step.images)
    if step.pattern == "none":
        masks = kept_masks(scores, share, together=step.scope == "global")
    else:
        masks = {path: kept_of_four(score, 4 - round(4 * share)) for path, score in scores.items()}
    with torch.no_grad():
        if step.by == "obs":
            moments = input_moments(result, layers, context, step.images)
            how = {path: "obs" if path in moments else "l1" for path in layers}
            for path, seen in moments.items():
                layers[path].weight.copy_(surgeon(layers[path].weight, seen, share))
                masks[path] = layers[path].weight != 0
        for path, mask in masks.items():
            layers[path].weight.copy_(masked(layers[path].weight, mask))
    return result, masks, how


def kept_masks(scores: Mapping[str, Tensor], share: float, *, together: bool = False) -> dict[str, Tensor]:
    """Which weights stay: all but the ``share`` with the least scores, of each layer or of all ``together``.

    Exactly so many go, also where scores are equal: those that come first. What is NaN goes first.
    """
    if not together:
        return {path: _largest(score.reshape(-1), share).reshape(score.shape) for path, score in scores.items()}
    joined = _largest(torch.cat([score.reshape(-1) for score in scores.values()]), share)
    parts = joined.split([score.numel() for score in scores.values()])
    return {path: part.reshape(scores[path].shape) for path, part in zip(scores, parts, strict=True)}


def kept_of_four(score: Tensor, count: int) -> Tensor:
    """Which weights stay: the ``count`` with the best scores of every four along axis 1; of equals the later ones.

    Raises ValueError: the axis is no multiple of four.
    """
    rows = score.movedim(1, -1)
    if rows.shape[-1] % 4:
        raise ValueError(f"{rows.shape[-1]} inputs are no multiple of four")
    fours = rows.reshape(-1, 4).nan_to_num(nan=-1.0)
    kept = torch.ones_like(fours, dtype=torch.bool)
    kept.scatter_(1, fours.argsort(dim=1, stable=True)[:, : 4 - count], False)
    return kept.reshape(rows.shape).movedim(-1, 1)


def _largest(scores: Tensor, share: float) -> Tensor:
    kept = torch.ones(len(scores), dtype=torch.bool)
    kept[scores.nan_to_num(nan=-1.0).argsort(stable=True)[: round(share * len(scores))]] = False
    return kept


def masked(weight: Tensor, mask: Tensor) -> Tensor:
    """The weight where the mask is set, and exactly 0 elsewhere (0 times a negative weight would be -0)."""
    return torch.where(mask, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))


def _zeros(weight: Tensor) -> int:
    return int((weight == 0).sum())
