"""What a task is on the torch side, as one record: head, targets, loss, distillation, and what is baked into the graph.

The other half, of the same name, is in :mod:`pocketvit.spec.tasks`. B samples, H and W the model's input size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pocketvit.data.collections import Collection
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import Recipe
from pocketvit.spec.tasks import task_of


def check_recipe(recipe: Recipe) -> None:
    """Raise ``UsageError`` where the preprocessing does not suit the task."""
    task_of(recipe.task.name).check_preprocess(recipe.preprocess)


@dataclass(frozen=True)
class TorchTask:
    """One task on the torch side."""

    build: Callable[[nn.Module, Any, Sequence[LevelSpec], Preprocess], nn.Module]
    """(backbone, the recipe's ``task``, label hierarchy, preprocessing) to the whole network, from normalised float32
    (B, 3, H, W) to what ``loss``, ``distil`` and ``graph_output`` take; ``UsageError`` where they do not fit."""
    loss: Callable[[Any, Tensor, Any, Any], Tensor]
    """(the network's output, ``targets``, the recipe's ``task``, ``state``) to a scalar."""
    distil: Callable[[Any, Any, float], Tensor]
    """(the network's output, the teacher's, temperature) to a scalar that is least where they agree."""
    graph_output: Callable[[Any, Preprocess], Tensor | tuple[Tensor, ...]]
    """The network's output to the outputs that the device record names, in that order: float32, batch first."""
    distil_hard: Callable[[Any, Any], Tensor] | None = None
    """(the network's output, the teacher's) to a scalar that is least where the network is sure of what the teacher
    decides for; ``None`` where answers are no decisions."""
    takes: tuple[str, ...] = ("features",)
    """What an architecture may give to serve it (``Architecture.gives``)."""
    targets: Callable[[Tensor], Tensor] = lambda raw: raw
    """A batch of the device record's ``truth`` to what ``loss`` compares with."""
    state: Callable[[Any, Collection], Any] = lambda config, collection: None
    """(the recipe's ``task``, training data) to what the loss needs to know of the data, e.g. class weights;
    ``UsageError`` where it cannot use them."""
    halves: Callable[[nn.Module, int], tuple[nn.Module, nn.Module]] | None = None
    """(the whole network, blocks in its head) to a head, from normalised (B, 3, H, W) to features (B, N, D) float32,
    and the tail from there to what ``graph_output`` takes; ``UsageError`` where this network cannot be cut there."""
    uncut: str = ""
    """Why networks of this task are not cut in two, where ``halves`` is ``None``."""
    check: Callable[[Recipe], None] = check_recipe
    """Raise ``UsageError`` for a recipe that cannot be trained; called before anything is built or written."""
