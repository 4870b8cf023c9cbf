"""A small editor for ONNX graphs: who makes and who takes a tensor, constants, static shapes, and a tidy ending."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

CONTRIB = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""
Shape = tuple[int, ...]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes of a node by name; texts as bytes."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


class Editor:
    """A copy of a graph that can be changed; :meth:`finish` gives the new model."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.shape_inference.infer_shapes(model)
        body = self.model.graph
        self.outputs = {port.name for port in body.output}
        self.shapes = {
            x.name: tuple(d.dim_value for d in x.type.tensor_type.shape.dim)
            for x in (*body.value_info, *body.input, *body.output)
            if x.type.tensor_type.HasField("shape") and all(d.dim_value > 0 for d in x.type.tensor_type.shape.dim)
        }
        self._values: dict[str, NDArray[Any]] = {x.name: numpy_helper.to_array(x) for x in body.initializer}
        self.nodes: list[onnx.NodeProto] = []
        for node in body.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
                continue
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            self.nodes.append(copy)
        self.shapes |= {name: values.shape for name, values in self._values.items()}
        self._index()

    def _index(self) -> None:
        self._makers = {name: node for node in self.nodes for name in node.output if name}
        self._takers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                if name:
                    self._takers[name].append(node)

    def of(self, *kinds: str) -> Iterator[onnx.NodeProto]:
        """Nodes of these kinds in order; those that are taken out meanwhile are left out."""
        for node in list(self.nodes):
            if node.op_type in kinds and node.output[0] and self._makers.get(node.output[0]) is node:
                yield node

    def maker(self, name: str, *kinds: str) -> onnx.NodeProto | None:
        """The node that gives a tensor, if it is one of ``kinds`` (none: any)."""
        node = self._makers.get(name)
        return node if node is not None and (not kinds or node.op_type in kinds) else None

    def takers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that take a tensor."""
        return self._takers.get(name, [])

    def only_taker(self, name: str, *kinds: str) -> onnx.NodeProto | None:
        """The one node that takes a tensor that is no answer of the graph, if it is one of ``kinds`` (none: any)."""
        takers = self.takers(name)
        if len(takers) != 1 or name in self.outputs:
            return None
        return takers[0] if not kinds or takers[0].op_type in kinds else None

    def value(self, name: str) -> NDArray[Any] | None:
        """Values of a constant; None for what is computed."""
        return self._values.get(name)

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """A new constant under ``name``, or under one like it where that is taken by others."""
        fresh = self.fresh(name)
        self._values[fresh] = np.array(values, order="C")
        self.shapes[fresh] = values.shape
        return fresh

    def fresh(self, name: str) -> str:
        """A name that no tensor has."""
        taken, number, free = self._makers.keys() | self._values.keys(), 1, name
        while free in taken:
            number += 1
            free = f"{name}_{number}"
        return free

    def node(
        self, kind: str, inputs: Sequence[str], output: str | Sequence[str], shape: Shape | None = None, **more: Any
    ) -> onnx.NodeProto:
        """A node that is not in the graph yet, named after its first output, whose shape is noted."""
        outputs = [output] if isinstance(output, str) else list(output)
        if shape is not None:
            self.shapes[outputs[0]] = shape
        return helper.make_node(kind, inputs, outputs, name=f"{outputs[0]}/{kind}", **more)

    def swap(self, old: Sequence[onnx.NodeProto], new: Sequence[onnx.NodeProto]) -> None:
        """Take ``old`` nodes out and put ``new`` ones in; tensors keep their names, order is made at the end."""
        gone = {id(node) for node in old}
        places = [i for i, node in enumerate(self.nodes) if id(node) in gone]
        at = places[-1] + 1 if places else len(self.nodes)
        before, after = self.nodes[:at], self.nodes[at:]
        self.nodes = [*(n for n in before if id(n) not in gone), *new, *after]
        self._index()

    def rename(self, old: str, new: str) -> None:
        """Let all who take ``old`` take ``new``."""
        for node in self.takers(old):
            node.input[:] = [new if name == old else name for name in node.input]
        self._index()

    def sort(self) -> None:
        """Bring the nodes into an order in which everything is made before it is taken, and drop what nobody takes."""
        wanted, stack = set(), list(self.outputs)
        while stack:
            node = self._makers.get(stack.pop())
            if node is not None and id(node) not in wanted:
                wanted.add(id(node))
                stack += node.input
        waiting = [node for node in self.nodes if id(node) in wanted]
        made, ordered = {x.name for x in self.model.graph.input} | self._values.keys() | {""}, []
        while waiting:
            # The first that can: nodes stay as near to their old places as may be.
            at = next((i for i, node in enumerate(waiting) if made.issuperset(node.input)), None)
            if at is None:
                raise ValueError(f"the graph has a circle at {waiting[0].name}")
            node = waiting.pop(at)
            ordered.append(node)
            made |= set(node.output)
        self.nodes = ordered
        self._index()

    def finish(self) -> onnx.ModelProto:
        """The model with all changes, sorted, without what nobody takes."""
        self.sort()
        body, used = self.model.graph, {name for node in self.nodes for name in node.input}
        tensors = [numpy_helper.from_array(x, name) for name, x in self._values.items() if name in used | self.outputs]
        del body.node[:], body.initializer[:], body.value_info[:]
        body.node.extend(self.nodes)
        body.initializer.extend(tensors)
        if any(node.domain == CONTRIB for node in self.nodes) and CONTRIB not in {
            x.domain for x in self.model.opset_import
        }:
            self.model.opset_import.append(helper.make_opsetid(CONTRIB, 1))
        return self.model


def counts(model: onnx.ModelProto) -> Counter[str]:
    """How many nodes of each kind a graph has."""
    return Counter(node.op_type for node in model.graph.node)
