"""Low rank: linear layers become two narrow ones by a singular value decomposition, weighed by what they are given.

With ``whiten`` the decomposition is of W S, where S S^T is the second moment of the layer's inputs on training images,
so that what is cut off is least in the layer's *outputs* (Chen et al. 2021, DRONE; Wang et al. 2024, SVD-LLM, section
3.1); without it the weights alone are approximated. A layer is replaced only where two are smaller than one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pocketvit.compress.importance import Batches, second_moments
from pocketvit.compress.retrain import Retraining, retrained
from pocketvit.compress.step import Context, StepReport
from pocketvit.errors import UsageError
from pocketvit.models.backbone import backbone_of
from pocketvit.models.layers.attention import gone
from pocketvit.models.layers.low_rank import LowRank
from pocketvit.models.trained import Trained, copy_of
from pocketvit.spec.typed import Range, check_ranges


@dataclass(frozen=True)
class Factorise(Retraining):
    """Replace linear layers by products of two, then retrain with distillation from the network before."""

    energy: float | None = None
    """Each layer keeps so much of its outputs' square (0.95); 0.95 where ``keep`` is not given either."""
    keep: float | None = None
    """All layers keep the same energy: the most at which so large a share of their weights is left."""
    whiten: bool = True
    """Weigh by the layers' inputs on training images."""
    layers: tuple[str, ...] = ("qkv", "proj", "fc1", "fc2")
    """Last names of the linear layers of the backbone that may be replaced."""
    multiple: int = 8
    """Ranks are multiples of this."""
    images: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        share = Range(0, 1, above=True, below=True)
        ranges = {"energy": share, "keep": share, "multiple": Range(1, 1024), "images": Range(1, 1e6)}
        check_ranges("compress.steps.low_rank", self, ranges)
        if self.energy is not None and self.keep is not None:
            raise UsageError("compress.steps.low_rank: energy and keep are both given.", "Give one of them.")


@dataclass(frozen=True)
class Factors:
    """The decomposition of one layer: ``weight = left @ right`` with all ranks kept."""

    left: Tensor
    """(out, rank) float64."""
    right: Tensor
    """(rank, in) float64."""
    energy: Tensor
    """(rank,) float64: share of the outputs' square up to each rank, ending at 1."""

    def rank_of(self, share: float, multiple: int) -> int:
        """Least multiple of ``multiple`` that keeps ``share``; all ranks at most."""
        rank = int((self.energy < share - 1e-9).sum()) + 1
        return min(-(-rank // multiple) * multiple, len(self.energy))

    def weights(self, rank: int) -> int:
        """Weights of the two layers, or of the one where that is fewer."""
        outputs, inputs = self.left.shape[0], self.right.shape[1]
        return min(rank * (outputs + inputs), outputs * inputs)

    def pays(self, rank: int) -> bool:
        """Whether two layers of this rank have fewer weights than one."""
        return rank * (self.left.shape[0] + self.right.shape[1]) < self.left.shape[0] * self.right.shape[1]


def low_rank(step: Factorise, trained: Trained, context: Context) -> StepReport:
    """Factorise the layers of a copy of ``trained`` and retrain it.

    Raises:
        UsageError: no such layer, none that gets smaller, or no data to weigh with or to retrain on.
    """
    found = candidates(trained, step.layers)
    if not found:
        what = f"{trained.model_spec.name} has no linear layer called {' or '.join(step.layers)}."
        raise UsageError(f"compress.steps.low_rank: {what}", "Name others in layers.")
    moments = second_moments(trained, found, Batches(trained, context, step.images)) if step.whiten else {}
    factors = {path: decompose(layer.weight.detach(), moments.get(path)) for path, layer in found.items()}
    share = step.energy or 0.95
    if step.keep is not None:
        share = energy_of(factors, step.keep, step.multiple)
    ranks = {path: each.rank_of(share, step.multiple) for path, each in factors.items()}
    ranks = {path: rank for path, rank in ranks.items() if factors[path].pays(rank)}
    if not ranks:
        what = f"compress.steps.low_rank: no layer gets smaller with {share:.4g} of its energy kept."
        raise UsageError(what, "Lower energy or keep.")
    network = retrained(factorised(trained, factors, ranks), trained, context, step)
    network = replace(network, model=network.model.eval())
    whole = sum(layer.weight.numel() for layer in found.values())
    left = sum(f.weights(ranks[path]) if path in ranks else f.weights(len(f.energy)) for path, f in factors.items())
    notes: dict[str, Any] = {"energy": share, "weights": [whole, left], "ranks": ranks}
    told = f"{len(ranks)} of {len(found)} linear layers became two, with {left / whole:.0%} of their weights"
    return StepReport("low_rank", asdict(step), network, notes=notes, told=told)


def candidates(trained: Trained, names: tuple[str, ...]) -> dict[str, nn.Linear]:
    """Linear layers of the backbone with these last names that have weights."""
    backbone = backbone_of(trained.model)
    prefix = "" if backbone is trained.model else "backbone."
    layers = {prefix + path: layer for path, layer in backbone.named_modules() if type(layer) is nn.Linear}
    return {path: x for path, x in layers.items() if path.rpartition(".")[2] in names and not gone(x)}


def decompose(weight: Tensor, moment: Tensor | None = None) -> Factors:
    """(out, in) to factors, largest share of the outputs' square first; of the weights' own where no moment is given.

    With S the square root of the moment, W S = U E V^T gives ``left = U E`` and ``right = V^T S^-1``. The root is taken
    by eigenvalues: inputs that hardly vary in a direction have no Cholesky factor in floating point.
    """
    exact = weight.double()
    if moment is None:
        u, e, vt = torch.linalg.svd(exact, full_matrices=False)
        right = vt
    else:
        values, vectors = torch.linalg.eigh(moment)
        root = values.clamp(min=1e-6 * float(values.max().clamp(min=1e-12))).sqrt()
        u, e, vt = torch.linalg.svd((exact @ vectors) * root, full_matrices=False)
        right = (vt / root) @ vectors.T
    square = e.square()
    return Factors(u * e, right, square.cumsum(0) / square.sum().clamp(min=1e-30))


def energy_of(factors: Mapping[str, Factors], keep: float, multiple: int) -> float:
    """The largest share of energy at which all layers together have at most ``keep`` of their weights.

    Raises UsageError: the least rank is too much already.
    """
    whole = sum(each.weights(len(each.energy)) for each in factors.values())

    def weights(share: float) -> int:
        return sum(each.weights(each.rank_of(share, multiple)) for each in factors.values())

    if weights(0.0) > keep * whole:
        what = f"compress.steps.low_rank.keep {keep:.3g} is below what rank {multiple} takes."
        raise UsageError(what, "Raise keep, or lower multiple.")
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if weights(middle) <= keep * whole else (low, middle)
    return low


def factorised(trained: Trained, factors: Mapping[str, Factors], ranks: Mapping[str, int]) -> Trained:
    """A copy with layers replaced; each of the two takes half of every singular value, so that they learn alike."""
    result = copy_of(trained)
    for path, rank in ranks.items():
        layer = result.model.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        pair, left, right = LowRank.in_place_of(layer, rank), factors[path].left[:, :rank], factors[path].right[:rank]
        scale = (right.norm(dim=1) / left.norm(dim=0).clamp(min=1e-12)).sqrt().clamp(min=1e-12)
        with torch.no_grad():
            pair.up.weight.copy_(left * scale)
            pair.down.weight.copy_(right / scale[:, None])
            if layer.bias is not None:
                pair.up.bias.copy_(layer.bias)
        result.model.set_submodule(path, pair.train(layer.training))
    return result
