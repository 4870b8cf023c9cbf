"""What flows into what in a network: the graph that torch.export sees, its operators tied to the layers' parameters.

Whether two layers stand next to each other with nothing in between is a question of the graph and not of the modules'
names, so architectures of every library are asked in one way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from pocketvit.errors import UsageError

ATEN: Any = torch.ops.aten
_STILL = (ATEN.dropout.default, ATEN.clone.default, ATEN.contiguous.default, ATEN.detach.default)
_SHAPED = (ATEN.reshape.default, ATEN.view.default, ATEN._unsafe_view.default)
_CHOSEN = (ATEN.select.int, ATEN.slice.Tensor)


@dataclass(frozen=True)
class Flow:
    """The graph of a network in evaluation mode."""

    nodes: tuple[Node, ...]
    """Operators in order."""
    names: dict[str, str]
    """Name of a graph input to the path of the parameter or buffer that it is."""

    def of(self, *operators: Any) -> Iterator[Node]:
        """Nodes of some operators."""
        return (node for node in self.nodes if node.target in operators)

    def own(self, value: Any) -> str | None:
        """Path of a parameter or buffer that one operator alone reads; ``None``: something else, or others do too."""
        single = isinstance(value, Node) and value.op == "placeholder" and len(value.users) == 1
        return self.names.get(value.name) if single else None


def flow_of(model: nn.Module, size: tuple[int, int]) -> Flow:
    """The graph for one image (1, 3, H, W); the network is set to evaluation.

    Raises UsageError: it has no static graph.
    """
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            program = torch.export.export(model.eval(), (torch.zeros(1, 3, *size, device=device),))
    except Exception as error:  # torch.export raises what the model's own code does, and many errors of its own
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UsageError(f"the network has no static graph ({reason}).", "Leave the step out.") from error
    found = program.graph_signature.inputs_to_parameters | program.graph_signature.inputs_to_buffers
    times = Counter(id(x) for _, x in model.named_parameters(remove_duplicate=False))
    shared = {name for name, x in model.named_parameters(remove_duplicate=False) if times[id(x)] > 1}
    names = {node: path for node, path in found.items() if path not in shared}
    return Flow(tuple(node for node in program.graph.nodes if node.op == "call_function"), names)


def layers_behind(node: Node, operator: Any) -> list[Node] | None:
    """Nodes of an operator that alone read what a node gives, moved or averaged over tokens at most.

    ``None``: something else reads it too. Channels are the last axis, and stay whole and in place.
    """
    found: list[Node] = []
    for user in node.users:
        if user.target is operator and user.args[0] is node and node not in user.args[1:]:
            found.append(user)
        elif (further := layers_behind(user, operator) if _keeps_channels(user) else None) is not None:
            found += further
        else:
            return None
    return found or None


def layer_before(value: Any, operator: Any) -> Node | None:
    """The node of an operator whose output goes nowhere but into this argument; ``None``: there is no such."""
    while isinstance(value, Node) and len(value.users) == 1:
        if value.target is operator:
            return value
        if value.target not in _STILL:
            return None
        value = value.args[0]
    return None


def _keeps_channels(node: Node) -> bool:
    """Whether an operator gives rows of what it is given, or their means, with the last axis as it was."""
    before, after = (_shape(x) for x in (node.args[0], node))
    if not before or not after or before[-1] != after[-1]:
        return False
    last = len(before) - 1
    if node.target in _STILL or node.target in _SHAPED:
        return True
    if node.target in _CHOSEN:
        return len(node.args) > 1 and int(node.args[1]) % len(before) != last  # type: ignore[arg-type]
    if node.target is ATEN.mean.dim:
        return all(int(axis) % len(before) != last for axis in node.args[1])  # type: ignore[arg-type, union-attr]
    if node.target is ATEN.permute.default:
        return int(node.args[1][-1]) % len(before) == last  # type: ignore[index, arg-type]
    return False


def _shape(value: Any) -> tuple[Any, ...]:
    found = value.meta.get("val") if isinstance(value, Node) else None
    return tuple(found.shape) if isinstance(found, torch.Tensor) else ()
