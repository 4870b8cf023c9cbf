from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pocketvit.compress.onnx_edit import CONTRIB, Editor, attributes, counts


def small() -> onnx.ModelProto:
    """y = relu(x * two) + x, with a dead node and a Constant node."""
    two = numpy_helper.from_array(np.float32([2, 2, 2]), "two")
    nodes = [
        helper.make_node("Constant", [], ["one"], name="one", value=numpy_helper.from_array(np.float32(1), "v")),
        helper.make_node("Mul", ["x", "two"], ["double"], name="mul"),
        helper.make_node("Relu", ["double"], ["positive"], name="relu"),
        helper.make_node("Add", ["positive", "x"], ["y"], name="add"),
        helper.make_node("Neg", ["double"], ["dead"], name="dead"),
    ]
    port = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy"}
    graph = helper.make_graph(nodes, "small", [port["x"]], [port["y"]], [two])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_who_makes_and_takes_a_tensor() -> None:
    graph = Editor(small())
    assert graph.shapes["double"] == (1, 3)
    assert graph.value("one") == 1
    assert [node.name for node in graph.takers("double")] == ["relu", "dead"]
    assert graph.only_taker("double") is None
    assert graph.only_taker("positive", "Add") is graph.maker("y")
    assert graph.only_taker("positive", "Mul") is None
    assert graph.only_taker("y") is None  # an answer of the graph
    assert graph.maker("x") is None
    assert graph.maker("double", "Relu") is None


def test_sorting_drops_what_nobody_takes_and_orders_the_rest() -> None:
    source = small()
    graph = Editor(source)
    relu = graph.maker("positive")
    assert relu is not None
    inputs = [graph.constant("two", np.float32([3])), "double"]  # a name that is taken gets a number
    graph.swap([relu], [graph.node("Gelu", ["double"], "inner", (1, 3)), graph.node("Max", inputs, "positive", (1, 3))])
    graph.nodes.reverse()
    model = graph.finish()
    assert [node.op_type for node in model.graph.node] == ["Mul", "Max", "Add"]
    assert sorted(x.name for x in model.graph.initializer) == ["two", "two_2"]
    assert counts(source)["Neg"] == 1  # the source stays as it is
    onnx.checker.check_model(model, full_check=True)


def test_contrib_operators_are_imported_where_they_are_used() -> None:
    graph = Editor(small())
    relu = graph.maker("positive")
    assert relu is not None
    graph.swap([relu], [graph.node("QuickGelu", ["double"], "positive", domain=CONTRIB, alpha=1.5)])
    model = graph.finish()
    assert {x.domain for x in model.opset_import} == {"", CONTRIB}
    assert attributes(model.graph.node[1]) == {"alpha": 1.5}
    assert CONTRIB not in {x.domain for x in Editor(small()).finish().opset_import}


def test_a_circle_is_noticed() -> None:
    graph = Editor(small())
    graph.rename("x", "positive")
    with pytest.raises(ValueError, match="circle"):
        graph.sort()
