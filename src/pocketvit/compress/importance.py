"""How much each unit matters, on training images: first-order Taylor of the loss; and what kept units say of others.

A gate z = 1 on every unit changes the loss by dL/dz = sum of activation * gradient when it closes (to first order), for
channels (Molchanov et al. 2017, eq. 3) as for heads (Michel et al. 2019, eq. 2). The score is its square, image by
image (Molchanov et al. 2019, eq. 8): squares add up over units, absolute values do not, and many small neurons would
seem to matter more than one head that does as much. A unit that is always zero, or that nothing listens to, scores
exactly 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pocketvit.compress.step import Context
from pocketvit.data.loader import Loader, batches_per_epoch
from pocketvit.errors import UsageError
from pocketvit.models.narrow import Units
from pocketvit.models.pixels import normalise
from pocketvit.models.trained import Trained
from pocketvit.tasks import TORCH_TASKS

BATCH = 8


@dataclass
class Observed:
    """What was seen of one reader's inputs; ``columns`` are its inputs, ``count`` the units they belong to."""

    importance: Tensor
    """(count,) float64: mean over images of the loss's first-order change, squared."""
    mean: Tensor
    """(columns,) float64."""
    second: Tensor
    """(columns, columns) float64: mean of products."""
    positions: int = 0
    """Tokens or pixels of one image that the reader reads."""
    written: int = 0
    """Those that the writer writes: more, where a class token alone goes on."""
    tokens: int = 0
    """Of those, how many are attended to by one; 0 for maps."""
    seen: int = 0
    """Rows behind ``mean`` and ``second``."""
    images: int = 0


class Batches:
    """Training images with their truths, the same ones each time it is iterated; nothing is augmented."""

    def __init__(self, trained: Trained, context: Context, images: int) -> None:
        if context.data is None or context.recipe is None:
            todo = "Carry it out in a fit or compress, which have data."
            raise UsageError("a step that ranks units by their effect on the loss was given no data.", todo)
        recipe = context.recipe
        self.train = replace(recipe.train, augment="none", batch_size=min(BATCH, images))
        self.data, self.collection = replace(recipe.data, workers=0), context.data.train
        size = trained.preprocess.size
        if trained.preprocess.resize == "tile":
            self.data = replace(self.data, patch=max(size))
        self.preprocess, self.count = trained.preprocess, -(-images // self.train.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(normalised (B, 3, H, W), raw truths)."""
        loader = Loader(self.collection, self.data, self.preprocess, self.train)
        most = min(self.count, batches_per_epoch(self.collection, self.data, self.train))
        for index, (pixels, truth) in enumerate(loader.epoch(0)):
            if index == most:
                return
            yield normalise(pixels, self.preprocess).contiguous(), truth


def losses(trained: Trained, batches: Batches) -> Iterator[tuple[Tensor, int]]:
    """The task's loss of each batch, summed over its images, and how many these are."""
    task = TORCH_TASKS[trained.task.name]
    state = task.state(trained.task, batches.collection)
    for x, truth in batches:
        yield task.loss(trained.model(x), task.targets(truth), trained.task, state) * len(x), len(x)


@torch.no_grad()
def second_moments(
    trained: Trained, layers: Mapping[str, nn.Linear], images: Iterable[tuple[Tensor, Any]]
) -> dict[str, Tensor]:
    """Mean of x x^T over the inputs x of each layer, by path: (in, in) float64. ``images`` are normalised batches.

    The network is asked in evaluation mode and left in its own.
    """
    totals = {path: torch.zeros(layer.in_features, layer.in_features).double() for path, layer in layers.items()}
    counts = dict.fromkeys(layers, 0)

    def keeper(path: str) -> Any:
        def keep(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            rows = arguments[0].reshape(-1, arguments[0].shape[-1]).double()
            totals[path] += rows.T @ rows
            counts[path] += len(rows)

        return keep

    handles = [layer.register_forward_pre_hook(keeper(path)) for path, layer in layers.items()]
    modes = {module: module.training for module in trained.model.modules()}
    try:
        trained.model.eval()
        for x, _ in images:
            trained.model(x)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return {path: total / max(counts[path], 1) for path, total in totals.items()}


def observe(trained: Trained, units: Sequence[Units], batches: Batches) -> list[Observed]:
    """Importance and moments of each unit, from one pass forward and backward over the batches."""
    model, found = trained.model.eval(), []
    inputs: dict[str, Tensor] = {}
    handles = [model.get_submodule(each.reader).register_forward_pre_hook(_keeper(inputs, each.path)) for each in units]
    sizes: dict[str, tuple[int, int]] = {}
    handles += [model.get_submodule(each.writer).register_forward_pre_hook(_sizer(sizes, each.path)) for each in units]
    for each in units:
        columns = each.count * each.size
        importance, mean, second = (
            torch.zeros(shape, dtype=torch.float64) for shape in ((each.count,), (columns,), (columns, columns))
        )
        found.append(Observed(importance, mean, second))
    frozen = [p for p in model.parameters() if not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        for loss, images in losses(trained, batches):
            gradients = torch.autograd.grad(loss, [inputs[each.path] for each in units])
            for each, observed, gradient in zip(units, found, gradients, strict=True):
                _take(each, observed, inputs[each.path].detach(), gradient, images)
                rows, observed.tokens = sizes[each.path]
                observed.written = rows // images
    finally:
        for handle in handles:
            handle.remove()
        for parameter in frozen:
            parameter.requires_grad_(False)
    for observed in found:
        observed.importance /= max(observed.images, 1)
        observed.mean /= max(observed.seen, 1)
        observed.second /= max(observed.seen, 1)
    return found


def _keeper(inputs: dict[str, Tensor], path: str) -> Any:
    def keep(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs[path] = arguments[0]

    return keep


def _sizer(sizes: dict[str, tuple[int, int]], path: str) -> Any:
    """Rows that a writer gets, and how many of them are one image's or window's tokens."""

    def keep(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        x = arguments[0]
        rows = x[:, 0].numel() if x.dim() == 4 else x[..., 0].numel()
        sizes[path] = rows, x.shape[1] if x.dim() == 3 else 0

    return keep


def _take(units: Units, observed: Observed, activation: Tensor, gradient: Tensor, images: int) -> None:
    """Add one batch; channels of maps (B, C, H, W) are brought behind their positions."""
    if activation.dim() == 4:
        activation, gradient = activation.movedim(1, -1), gradient.movedim(1, -1)
    # The first axis is of images, or of windows of images, which each have their gate.
    gates = (activation * gradient).reshape(len(activation), -1, units.count, units.size).sum((1, 3))
    observed.importance += gates.square().sum(0).double()
    rows = activation.reshape(-1, activation.shape[-1])
    observed.mean += rows.sum(0).double()
    observed.second += (rows.T @ rows).double()
    observed.images, observed.seen = observed.images + images, observed.seen + len(rows)
    observed.positions = len(rows) // images


def foretell(units: Units, observed: Observed, kept: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The inputs of a reader that go, told by those that stay: ``gone = matrix @ stay + constant``, by least squares.

    The reconstruction of He et al. 2017 (eq. 1, weights given the channels) on the layer's inputs. Convolutions, whose
    borders are padded by zeros, get no constant.

    Returns:
        (matrix (gone, stay), constant (gone,), columns that stay, columns that go), float64 and int64.
    """
    stay = units.columns(kept)
    gone = units.columns([unit for unit in range(units.count) if unit not in set(kept)])
    mean = observed.mean if units.kind != "channels" else torch.zeros_like(observed.mean)
    spread = observed.second - torch.outer(mean, mean)
    within, across = spread[stay][:, stay], spread[gone][:, stay]
    ridge = 1e-4 * within.diagonal().mean().clamp(min=1e-12) if len(stay) else 0.0
    matrix = torch.linalg.solve(within + ridge * torch.eye(len(stay), dtype=torch.float64), across.T).T
    return matrix, mean[gone] - matrix @ mean[stay], stay, gone


def hand_over(model: nn.Module, units: Units, observed: Observed, kept: Sequence[int]) -> None:
    """Give what the units that go have done to those that stay, in the reader's weights; before the cut, in place."""
    matrix, constant, stay, gone = foretell(units, observed, kept)
    reader = model.get_submodule(units.reader)
    weight, bias = reader.get_parameter("weight"), getattr(reader, "bias", None)
    with torch.no_grad():
        lost = weight[:, gone].double()  # (out, gone) or (out, gone, k, k)
        weight[:, stay] += torch.einsum("og...,gs->os...", lost, matrix).to(weight.dtype)
        if bias is not None:
            bias += torch.einsum("og...,g->o", lost, constant).to(bias.dtype)
