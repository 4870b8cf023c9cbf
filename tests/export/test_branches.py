"""Choices in a graph as branches: the same answers, only the taken branch runs, and back again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pocketvit.compress.layers import session
from pocketvit.export.branches import CHOICE, flat, folded, has_branches, has_choices, nest, unfolded
from pocketvit.export.built import Built

ROWS = 4


def chooser(first: float, second: float) -> onnx.ModelProto:
    """Of ``pixels`` (1, 1, 1, 3): its sum where that is at least ``first``, twice the sum where ``second``, else a row
    of a table whose number the red value names, of which there are four: more is an error of the engine."""
    constants = {"first": np.float32(first), "second": np.float32(second), "two": np.float32(2)}
    constants |= {"table": np.arange(ROWS, dtype=np.float32), "zero": np.int64(0), "flat": np.array([-1, 1, 3])}
    constants |= {"axes": np.array([1, 2]), "one": np.array([1, 1])}
    steps = [
        ("Cast", ["pixels"], "x", {"to": TensorProto.FLOAT}),
        ("Reshape", ["x", "flat"], "row", {}),
        ("ReduceSum", ["row", "axes"], "total3", {"keepdims": 0}),
        ("Reshape", ["total3", "one"], "total", {}),
        ("Mul", ["total", "two"], "double", {}),
        ("Cast", ["row"], "whole", {"to": TensorProto.INT64}),
        ("Gather", ["whole", "zero"], "red2", {"axis": 2}),
        ("Gather", ["table", "red2"], "picked", {"axis": 0}),
        ("GreaterOrEqual", ["total", "first"], "sure1", {}),
        ("GreaterOrEqual", ["total", "second"], "sure2", {}),
        ("Where", ["sure2", "double", "picked"], "inner", {"name": f"{CHOICE}_2"}),
        ("Where", ["sure1", "total", "inner"], "answer", {"name": CHOICE}),
        ("Neg", ["answer"], "out", {}),
    ]
    nodes = [helper.make_node(kind, take, [give], **{"name": give, **more}) for kind, take, give, more in steps]
    ports = [helper.make_tensor_value_info("pixels", TensorProto.UINT8, [1, 1, 1, 3])]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 1])]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", ports, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def pixels(*values: int) -> dict[str, np.ndarray]:
    return {"pixels": np.array(values, np.uint8).reshape(1, 1, 1, 3)}


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from nodes_of(attribute.g)


def test_branches_answer_as_the_choices_do_and_only_the_taken_one_runs() -> None:
    model = chooser(300, 100)
    nested = nest(model)
    onnx.checker.check_model(nested, full_check=True)
    assert has_choices(model)
    assert not has_choices(nested)
    assert has_branches(nested)
    assert [node.op_type for node in nodes_of(nested.graph)].count("If") == 2
    plain, branched = session(model, 1), session(nested, 1)
    for values, wanted in (((3, 200, 200), 403), ((3, 100, 50), 306), ((3, 10, 10), 3), ((0, 10, 10), 0)):
        for runner in (plain, branched):
            assert float(runner.run(None, pixels(*values))[0].item()) == -wanted
    # Row 200 of the table does not exist: who computes all answers fails.
    with pytest.raises(Exception, match="indices"):
        plain.run(None, pixels(200, 200, 200))
    assert float(branched.run(None, pixels(200, 200, 200))[0].item()) == -600
    assert float(branched.run(None, pixels(200, 0, 0))[0].item()) == -400
    with pytest.raises(Exception, match="indices"):
        branched.run(None, pixels(50, 0, 0))


def test_weights_stay_in_the_outer_graph_and_the_way_back_and_forth_changes_nothing() -> None:
    nested = nest(chooser(300, 100))
    inner = [a.g for node in nodes_of(nested.graph) for a in node.attribute if a.HasField("g")]
    assert len(inner) == 4
    assert not any(len(graph.initializer) for graph in inner)
    back = flat(nested)
    onnx.checker.check_model(back, full_check=True)
    assert not has_branches(back)
    assert has_choices(back)
    again = nest(back)
    assert [n.name for n in nodes_of(again.graph)] == [n.name for n in nodes_of(nested.graph)]
    runner = session(back, 1)
    assert float(runner.run(None, pixels(3, 100, 50))[0].item()) == -306


def test_a_graph_without_choices_keeps_what_its_answer_needs() -> None:
    model = chooser(300, 100)
    for node in model.graph.node:
        node.name = node.name.replace(CHOICE, "other")
    assert not has_choices(model)
    assert [n.op_type for n in nest(model).graph.node] == [n.op_type for n in model.graph.node]


def test_files_are_unfolded_beside_and_folded_in_place(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(nest(chooser(300, 100)), path)
    before = path.read_bytes()
    built = Built("onnxruntime", "fp32", path, varies=True)
    opened = unfolded(built, tmp_path)
    assert path.read_bytes() == before
    assert (opened.path.name, opened.varies) == ("model-flat.onnx", False)
    assert not has_branches(onnx.load(opened.path))
    closed = folded(opened)
    assert closed.varies
    assert has_branches(onnx.load(closed.path))
