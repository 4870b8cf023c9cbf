"""Branches of ONNX graphs: a choice between two answers becomes an ``If`` that computes only the one that is taken.

A network with early exits is captured as a graph that computes all answers and chooses among them by ``Where``. What
stands behind an exit is needed only where the exit did not answer: :func:`nest` moves it into the ``If``'s branch, one
inside the other. Weights stay in the outer graph, where everything that reads, damages or stores them finds them.
:func:`flat` is the way back: steps that rewrite files know nothing of branches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from pocketvit.export.built import Built
from pocketvit.files import replacing

CHOICE = "exits.choice/Where"
"""How the nodes that choose are called: after their module (:func:`pocketvit.export.onnx.tidy`)."""
_SCALAR = "exits.choice/Scalar"
_Dims = dict[str, list[int | None]]


def has_choices(model: ModelProto) -> bool:
    """Whether :func:`nest` has something to do."""
    return any(map(_is_choice, model.graph.node))


def has_branches(model: ModelProto) -> bool:
    """Whether parts of the graph run for some images only."""
    return any(node.op_type == "If" for node in model.graph.node)


def nest(model: ModelProto) -> ModelProto:
    """The graph with an ``If`` for each choice; ``model`` stays as it is. Its batch must be 1."""
    result = ModelProto()
    result.CopyFrom(model)
    dims: _Dims = {
        x.name: [d.dim_value or None for d in x.type.tensor_type.shape.dim]
        for x in (*model.graph.value_info, *model.graph.output)
    }
    _scalars(result)
    nodes = _nested(list(result.graph.node), [port.name for port in model.graph.output], dims)
    del result.graph.node[:], result.graph.value_info[:]
    result.graph.node.extend(nodes)
    return result


def flat(model: ModelProto) -> ModelProto:
    """The graph without branches: all of it is computed, and ``Where`` chooses; ``model`` stays as it is."""
    result = ModelProto()
    result.CopyFrom(model)
    nodes = list(_inlined(model.graph.node))
    del result.graph.node[:], result.graph.value_info[:]
    result.graph.node.extend(nodes)
    return result


def unfolded(built: Built, folder: Path) -> Built:
    """An ONNX file without branches, in ``folder``: for what reads and rewrites graphs."""
    path = folder / f"{built.path.stem}-flat.onnx"
    with replacing(path) as partial:
        onnx.save(flat(onnx.load(built.path)), partial)
    return replace(built, path=path, varies=False)


def folded(built: Built) -> Built:
    """The file with its branches put back, in place."""
    graph = nest(onnx.load(built.path))
    with replacing(built.path) as partial:
        onnx.save(graph, partial)
    return replace(built, varies=True)


def _is_choice(node: NodeProto) -> bool:
    return node.op_type == "Where" and node.name.startswith(CHOICE)


def _scalars(model: ModelProto) -> None:
    """Give each choice a condition without dimensions, in place: OpenVINO takes no other."""
    scalars = {node.output[0] for node in model.graph.node if node.name.startswith(_SCALAR)}
    nodes, made = list[NodeProto](), dict[str, str]()
    for node in model.graph.node:
        if _is_choice(node) and (condition := node.input[0]) not in scalars:
            if condition not in made:
                made[condition] = f"{condition}.scalar"
                inputs, name = [condition, f"{_SCALAR}.shape"], f"{_SCALAR}_{condition}"
                nodes.append(helper.make_node("Reshape", inputs, [made[condition]], name=name))
            node.input[0] = made[condition]
        nodes.append(node)
    if made and f"{_SCALAR}.shape" not in {x.name for x in model.graph.initializer}:
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.int64), f"{_SCALAR}.shape"))
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _inlined(nodes: Iterable[NodeProto]) -> Iterable[NodeProto]:
    for node in nodes:
        if node.op_type != "If":
            yield node
            continue
        branches = {each.name: each.g for each in node.attribute}
        both = [branches["then_branch"], branches["else_branch"]]
        for branch in both:
            yield from _inlined(branch.node)
        for number, name in enumerate(node.output):
            values = [branch.output[number].name for branch in both]
            yield helper.make_node("Where", [node.input[0], *values], [name], name=f"{CHOICE}_{name}")


def _nested(nodes: Sequence[NodeProto], wanted: Iterable[str], dims: _Dims) -> list[NodeProto]:
    """The nodes that ``wanted`` needs, in order, with the outermost choice as an ``If``, and so on inside of it."""
    makers = {name: node for node in nodes for name in node.output if name}
    choice = _outermost(nodes, makers)
    if not choice:
        needed = _behind(wanted, makers, ())
        return [node for node in nodes if id(node) in needed]
    always = _behind(wanted, makers, choice)
    inner = [_behind([node.input[side] for node in choice], makers, ()) - always for side in (1, 2)]
    always |= inner[0] & inner[1]
    sides = []
    for side, own in zip((1, 2), inner, strict=True):
        part = [node for node in nodes if id(node) in own - always]
        sides.append(_branch(part, [node.input[side] for node in choice], [x.output[0] for x in choice], side, dims))
    then, other = sides
    outputs = [node.output[0] for node in choice]
    name = f"{CHOICE.replace('Where', 'If')}_{outputs[0]}"
    branch = helper.make_node("If", [choice[0].input[0]], outputs, name=name, then_branch=then, else_branch=other)
    chosen = {id(node) for node in choice}
    return _sorted([*(node for node in nodes if id(node) in always - chosen), branch])


def _outermost(nodes: Sequence[NodeProto], makers: dict[str, NodeProto]) -> list[NodeProto]:
    """The choices of one condition of which no other choice takes anything."""
    groups: dict[str, list[NodeProto]] = defaultdict(list)
    for node in filter(_is_choice, nodes):
        groups[node.input[0]].append(node)
    for condition, group in groups.items():
        others = [node for other, members in groups.items() if other != condition for node in members]
        taken = _behind([name for node in others for name in node.input], makers, ())
        if not any(id(node) in taken for node in group):
            return group
    return []


def _behind(names: Iterable[str], makers: dict[str, NodeProto], choice: Sequence[NodeProto]) -> set[int]:
    """Ids of the nodes that tensors come from; of the nodes of ``choice`` only what decides is followed."""
    found, waiting, choosing = set[int](), list(names), {id(node) for node in choice}
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and id(node) not in found:
            found.add(id(node))
            waiting += node.input[:1] if id(node) in choosing else _read(node)
    return found


def _read(node: NodeProto) -> list[str]:
    """What a node takes, and what its branches take from outside."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        if attribute.HasField("g"):
            made = {name for inner in attribute.g.node for name in inner.output}
            taken = [*(name for inner in attribute.g.node for name in _read(inner))]
            names += [name for name in taken if name not in made]
    return names


def _branch(
    nodes: list[NodeProto], values: Sequence[str], outputs: Sequence[str], side: int, dims: _Dims
) -> GraphProto:
    """A graph that gives ``values``; those that are made outside pass through it."""
    made, names, passed = {name for node in nodes for name in node.output}, list[str](), list[NodeProto]()
    for value, output in zip(values, outputs, strict=True):
        name = value
        if value not in made or value in names:
            name = f"{output}.branch{side}"
            passed.append(helper.make_node("Identity", [value], [name], name=f"{name}/Identity"))
        names.append(name)
    inner = [*_nested(nodes, values, dims), *passed]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims.get(output, [1, None]))
        for name, output in zip(names, outputs, strict=True)
    ]
    return helper.make_graph(inner, f"{outputs[0]}.branch{side}", [], ports)


def _sorted(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """In an order in which everything is made before it is taken, as near to the given one as may be."""
    unmade = {name for node in nodes for name in node.output if name}
    waiting, ordered = list(nodes), list[NodeProto]()
    while waiting:
        at = next(i for i, node in enumerate(waiting) if unmade.isdisjoint(_read(node)))
        node = waiting.pop(at)
        ordered.append(node)
        unmade -= set(node.output)
    return ordered
