"""What a student learns from a teacher: its answers, or what its blocks give on the way, each a row of one table.

Blocks are matched by their place in the network, so kinds that look inside need a teacher of the same architecture:
the network that a student was cut from, which is what compression steps have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit.errors import UsageError
from pocketvit.models.layers.attention import ChannelAttention, WindowAttention
from pocketvit.models.layers.blocks import Block, ConvBlock
from pocketvit.models.layers.merge import MergeBlock
from pocketvit.models.trained import Trained
from pocketvit.spec.recipe import TrainConfig
from pocketvit.tasks import TORCH_TASKS

Inner = Callable[[Tensor, Tensor, int], Tensor]
"""(the student's tokens or maps behind a block, the teacher's, axis of their channels) to a scalar."""


def features(own: Tensor, other: Tensor, axis: int) -> Tensor:
    """Squared distance as a share of the teacher's square (hints, Romero et al. 2015, FitNets, eq. 3, no regressor).

    Raises UsageError: the student's tokens have another width.
    """
    if own.shape != other.shape:
        what = f"train.distill features: the student gives {tuple(own.shape[1:])}, the teacher {tuple(other.shape[1:])}"
        raise UsageError(f"{what} behind a block.", "Take attention, which needs no common width, or logits.")
    return (own - other).square().sum() / other.square().sum().clamp(min=1e-12)


def attention(own: Tensor, other: Tensor, axis: int) -> Tensor:
    """Squared distance of normalised maps of where activations are large, mean over the batch.

    Activation-based attention transfer: Zagoruyko and Komodakis 2017, eq. 2, with the sum of squares over channels.
    """
    a, b = (F.normalize(x.square().sum(axis).flatten(1), dim=1) for x in (own, other))
    return (a - b).square().sum(1).mean()


INNER: dict[str, Inner] = {"features": features, "attention": attention}
"""Kinds of ``train.distill`` beside ``logits`` and ``hard``, which are the task's own (``distil``, ``distil_hard``)."""
BLOCKS = (Block, ConvBlock, WindowAttention, ChannelAttention)
Taught = Callable[[Any, Any], Tensor]
"""(the student's output, the teacher's output to the same images) to a scalar."""


def common_blocks(student: nn.Module, teacher: nn.Module) -> list[str]:
    """Paths of the blocks that both networks have, outermost only, up to where one of them merges tokens: those behind
    are not the same in both."""
    theirs = dict(teacher.named_modules())
    found: list[str] = []
    for path, module in student.named_modules():
        if MergeBlock in (type(module), type(theirs.get(path))):
            break
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if isinstance(module, BLOCKS) and isinstance(theirs.get(path), type(module)) and not inside:
            found.append(path)
    return found


@contextmanager
def taught_by(teacher: Trained, student: Trained, settings: TrainConfig) -> Iterator[Taught]:
    """The loss of ``train.distill``: the sum of its kinds. What blocks give is read by hooks, removed at the end.

    Raises UsageError: a kind that looks inside, and the two networks have no block in common; ``hard``, and the task
    has no decisions.
    """
    task, inner = TORCH_TASKS[student.task.name], [INNER[kind] for kind in settings.distill if kind in INNER]
    paths = common_blocks(student.model, teacher.model) if inner else []
    if inner and not paths:
        what = f"train.distill {', '.join(settings.distill)}: student and teacher have no block in common."
        raise UsageError(what, "Take a teacher of the same architecture, or logits.")
    if "hard" in settings.distill and task.distil_hard is None:
        what = f"train.distill hard: {student.task.name} has no classes that a teacher decides for."
        raise UsageError(what, "Take logits.")
    own, other, handles = _Seen(), _Seen(), []
    for seen, network in ((own, student.model), (other, teacher.model)):
        handles += [network.get_submodule(path).register_forward_hook(seen.keeper(path)) for path in paths]

    def taught(output: Any, answer: Any) -> Tensor:
        total = torch.zeros(())
        if "logits" in settings.distill:
            total = task.distil(output, answer, settings.distill_temperature)
        if "hard" in settings.distill and task.distil_hard is not None:
            total = total + task.distil_hard(output, answer)
        for kind in inner:
            total = total.to(own.device) + mean_over_blocks(kind, own.tensors, other.tensors, paths)
        own.tensors.clear()
        other.tensors.clear()
        return total

    try:
        yield taught
    finally:
        for handle in handles:
            handle.remove()


def mean_over_blocks(
    kind: Inner, own: Mapping[str, Tensor], other: Mapping[str, Tensor], paths: Sequence[str]
) -> Tensor:
    """Mean of a kind over blocks; channels are the last axis of tokens (B, N, D), the second of maps (B, D, H, W)."""
    losses = [kind(own[path].float(), other[path].float(), 1 if own[path].dim() == 4 else -1) for path in paths]
    return torch.stack(losses).mean()


class _Seen:
    """What blocks gave in the last forward pass."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors.values())).device

    def keeper(self, path: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.tensors[path] = output

        return keep
