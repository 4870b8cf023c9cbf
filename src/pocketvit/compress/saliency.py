"""How much each single weight matters: by its size, by the loss, by what flows through its layer; and what OBS removes.

Scores are of the shape of the weight, larger where it matters more; within one ranking only their order counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pocketvit.compress.importance import Batches, second_moments
from pocketvit.compress.step import Context
from pocketvit.models.trained import Trained
from pocketvit.tasks import TORCH_TASKS

Layers = Mapping[str, nn.Linear | nn.Conv2d]
Scores = dict[str, Tensor]
OBS_INPUTS = 256
"""Inputs of a layer up to which OBS is carried out: it keeps a matrix of their square for each output."""
_OBS_NUMBERS = 1 << 23


def images_of(trained: Trained, context: Context, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(normalised (1, 3, H, W), raw truth (1, ...)) of at most so many training images, the same ones each time.

    Raises UsageError: the context has no data.
    """
    batches = Batches(trained, context, count)
    return islice(((x[i : i + 1], truth[i : i + 1]) for x, truth in batches for i in range(len(x))), count)


def by_size(trained: Trained, layers: Layers, context: Context, images: int) -> Scores:
    """|w| (l1)."""
    return {path: layer.weight.detach().abs() for path, layer in layers.items()}


def by_loss(trained: Trained, layers: Layers, context: Context, images: int) -> Scores:
    """|w dL/dw|: the change of the mean loss to first order (Molchanov et al. 2017, eq. 7)."""
    mean = _gradients(trained, layers, context, images, lambda gradient: gradient)
    return {path: (layer.weight.detach() * mean[path]).abs() for path, layer in layers.items()}


def by_curvature(trained: Trained, layers: Layers, context: Context, images: int) -> Scores:
    """h w^2 / 2 with the diagonal of the Hessian (LeCun et al. 1990, OBD, eq. 5).

    The diagonal is the mean of squared gradients of single images, as Hassibi and Stork 1993 have it (eq. 12).
    """
    mean = _gradients(trained, layers, context, images, torch.square)
    return {path: mean[path] * layer.weight.detach().square() / 2 for path, layer in layers.items()}


def _gradients(
    trained: Trained, layers: Layers, context: Context, images: int, taken: Callable[[Tensor], Tensor]
) -> Scores:
    """Mean over images of what is taken of the loss's gradient by each weight."""
    task, model = TORCH_TASKS[trained.task.name], trained.model.eval()
    weights = [layer.weight for layer in layers.values()]
    sums, seen = [torch.zeros_like(weight) for weight in weights], 0
    state: Any = task.state(trained.task, context.data.train) if context.data is not None else None
    with torch.enable_grad():
        for x, truth in images_of(trained, context, images):
            loss = task.loss(model(x), task.targets(truth), trained.task, state)
            for total, gradient in zip(sums, torch.autograd.grad(loss, weights), strict=True):
                total += taken(gradient)
            seen += 1
    return {path: total / seen for path, total in zip(layers, sums, strict=True)}


def by_zeros(trained: Trained, layers: Layers, context: Context, images: int) -> Scores:
    """|w| times the share of positive outputs of its channel: 1 - APoZ (Hu et al. 2016, eq. 1).

    Without ReLU, as in ViTs, what is not positive is what GELU brings near to zero.
    """
    return _by_outputs(
        trained, layers, context, images, lambda outputs: (outputs > 0).to(outputs.dtype), deviation=False
    )


def by_variance(trained: Trained, layers: Layers, context: Context, images: int) -> Scores:
    """|w| times the standard deviation of its channel's output: what hardly varies could be a constant."""
    return _by_outputs(trained, layers, context, images, lambda outputs: outputs, deviation=True)


def _by_outputs(
    trained: Trained,
    layers: Layers,
    context: Context,
    images: int,
    taken: Callable[[Tensor], Tensor],
    *,
    deviation: bool,
) -> Scores:
    """|w| times mean or deviation, over all positions of all images, of what is taken of its channel's output."""
    sums: dict[str, list[Any]] = {path: [0.0, 0.0, 0] for path in layers}

    def watch(path: str) -> Callable[..., None]:
        def keep(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            values = taken(output.movedim(1, -1) if isinstance(module, nn.Conv2d) else output)
            rows = values.reshape(-1, values.shape[-1]).double()
            have = sums[path]
            sums[path] = [have[0] + rows.sum(0), have[1] + rows.square().sum(0), have[2] + len(rows)]

        return keep

    handles = [layer.register_forward_hook(watch(path)) for path, layer in layers.items()]
    _look_at(trained, context, images, handles)
    found = {}
    for path, layer in layers.items():
        total, squares, count = sums[path]
        mean = total / max(count, 1)
        factor = (squares / max(count, 1) - mean**2).clamp(min=0).sqrt() if deviation else mean
        weight = layer.weight.detach().abs()
        found[path] = weight * factor.to(weight.dtype).reshape(-1, *[1] * (weight.dim() - 1))
    return found


def _look_at(trained: Trained, context: Context, images: int, handles: Sequence[RemovableHandle]) -> None:
    """Run the images for the sake of hooks, which are removed at the end."""
    try:
        with torch.no_grad():
            for x, _ in images_of(trained, context, images):
                trained.model.eval()(x)
    finally:
        for handle in handles:
            handle.remove()


SCORES: dict[str, Callable[[Trained, Layers, Context, int], Scores]] = {
    "l1": by_size,
    "taylor": by_loss,
    "obd": by_curvature,
    "apoz": by_zeros,
    "variance": by_variance,
}


def input_moments(trained: Trained, layers: Layers, context: Context, images: int) -> Scores:
    """(in, in) float64 mean of x x^T over the inputs of linear layers with at most ``OBS_INPUTS`` of them."""
    small = {path: x for path, x in layers.items() if isinstance(x, nn.Linear) and x.in_features <= OBS_INPUTS}
    return second_moments(trained, small, images_of(trained, context, images))


def surgeon(weight: Tensor, moments: Tensor, share: float, damping: float = 0.01) -> Tensor:
    """A weight with a share of each output's entries removed, and the others adjusted: OBS on the layer's outputs.

    Of each output the entry with the least w^2 / (2 [H^-1]_qq) goes, and the others move by -w_q H^-1 e_q / [H^-1]_qq,
    one after the other (Hassibi and Stork 1993, eq. 5; by layer: Dong et al. 2017). H are the inputs' moments.

    Args:
        weight: (out, in).
        moments: (in, in), of :func:`input_moments`.
        share: of the entries of each row; those that are zero already count.
        damping: share of the mean of the diagonal that is added to it.

    Returns:
        (out, in) with exact zeros, in the dtype of ``weight``.
    """
    inputs = weight.shape[1]
    hessian = moments + torch.eye(inputs, dtype=torch.float64) * (damping * moments.diagonal().mean() + 1e-12)
    inverse = torch.linalg.inv(hessian)
    rows = max(1, _OBS_NUMBERS // inputs**2)
    parts = [_removed(part.double(), inverse, round(share * inputs)) for part in weight.detach().split(rows)]
    return torch.cat(parts).to(weight.dtype)


def _removed(weight: Tensor, inverse: Tensor, count: int) -> Tensor:
    """The rows with ``count`` entries removed, each with its own inverse of what is left."""
    left, current = inverse.repeat(len(weight), 1, 1), weight.clone()
    gone, each = torch.zeros_like(weight, dtype=torch.bool), torch.arange(len(weight))
    for _ in range(count):
        diagonal = left.diagonal(dim1=1, dim2=2).clamp(min=1e-300)
        cost = torch.where(gone, torch.inf, current.square() / diagonal)
        chosen = cost.argmin(1)
        column = left[each, :, chosen]
        pivot = column[each, chosen].clamp(min=1e-300)
        current -= (current[each, chosen] / pivot)[:, None] * column
        left -= column[:, :, None] * column[:, None, :] / pivot[:, None, None]  # the row and column become zero
        gone[each, chosen] = True
        current = torch.where(gone, 0.0, current)
    return current
