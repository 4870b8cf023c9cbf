"""Attention and dead rows in a transformer's ONNX graph: two rewrites that need to understand more than a pattern.

Exporters write attention in many ways (splits, transposes, scales before or behind the product), so no way is looked
for: what lies between one tensor (1, N, 3D) and one (1, N, D) around a softmax is cut out and run on random numbers,
and where it answers like softmax(Q K^T / sqrt(d)) V, or without the root (the step ``fuse`` has it in the weights), it
becomes one ``MultiHeadAttention``. A number for each key may be added to the scores (the log of how many patches a
merged token stands for).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pocketvit.compress.layers import session
from pocketvit.compress.onnx_edit import CONTRIB, Editor, Shape, attributes
from pocketvit.compress.onnx_fuse import PRODUCTS, scale_product

_MOVES = ("Reshape", "Transpose", "Split", "Squeeze", "Unsqueeze", "Gather", "Slice", "Mul", "Div", "Identity")
"""What may lie between the linear layers and the two products of attention."""
_SAME = 1e-4
"""Largest difference of what is cut out from attention on normal random numbers."""
_FIRST, _FIRST_TWO, _ALL = (0,), (0, 1), (0, 1, 2)
_ROWWISE: dict[str, tuple[int, ...]] = {
    "MatMul": _FIRST,
    "MatMulIntegerToFloat": _FIRST,
    "QuantizeLinear": _FIRST,
    "DequantizeLinear": _FIRST,
    "Add": _FIRST_TWO,
    "Mul": _FIRST_TWO,
    "Gelu": _FIRST,
    "BiasGelu": _FIRST,
    "FastGelu": _FIRST,
    "QuickGelu": _FIRST,
    "LayerNormalization": _FIRST,
    "SkipLayerNormalization": _FIRST_TWO,
    "MultiHeadAttention": _FIRST,
}
"""Kinds of nodes of which a row of the answer needs the same row alone of these inputs."""


def attention(graph: Editor) -> int:
    """Everything between the linear layers of an attention to one node, and its packed Q, K, V to three products.

    Three products need no split, share their quantised input, and leave their biases to the attention.
    """
    found = 0
    for softmax in graph.of("Softmax"):
        cut = _cut_out(graph, softmax)
        if cut is None:
            continue
        nodes, source, target, added = cut
        heads = graph.shapes[softmax.output[0]][1]
        scale = _scale_of(graph, nodes, source, target, heads, added)
        if scale is None:
            continue
        parts, bias, old, new = _three(graph, source, nodes)
        shape, more = graph.shapes[target], {"domain": CONTRIB, "num_heads": heads, **scale}
        if added:
            square: Shape = (1, 1, shape[1], shape[1])
            wide, sizes = graph.fresh(f"{target}.added"), graph.constant(f"{target}.square", np.array(square, np.int64))
            new.append(graph.node("Expand", [added, sizes], wide, square))
            bias = [*(bias or [""]), "", wide]
        new.append(graph.node("MultiHeadAttention", [*parts, *bias], target, shape, **more))
        graph.swap([*nodes, *old], new)
        found += 1
    return found


def _cut_out(graph: Editor, softmax: onnx.NodeProto) -> tuple[list[onnx.NodeProto], str, str, str] | None:
    """(nodes, the tensor that goes in, the one that comes out, what is added to the scores of each key or "") of an
    attention around a softmax; None: another form."""
    mix = graph.only_taker(softmax.output[0], "MatMul")
    scores = graph.shapes.get(softmax.output[0], ())
    if mix is None or mix.input[0] != softmax.output[0] or len(scores) != 4:
        return None
    nodes, tensor = [mix], mix.output[0]
    while (node := graph.only_taker(tensor, "Transpose", "Reshape")) is not None:
        nodes.append(node)
        tensor = node.output[0]
        if len(graph.shapes.get(tensor, ())) == 3:
            break
    sources, seen, stack, added = [], set(), [mix.input[0], mix.input[1]], ""
    while stack:
        name = stack.pop()
        maker = graph.maker(name)
        if name in seen or graph.value(name) is not None:
            continue
        seen.add(name)
        of_keys = [x for x in maker.input if graph.shapes.get(x) == (1, 1, 1, scores[3])] if maker is not None else []
        if maker is not None and maker.op_type == "Add" and name == softmax.input[0] and len(of_keys) == 1:
            (added,) = of_keys
            nodes.append(maker)
            stack += [x for x in maker.input if x != added]
        elif maker is None or not _moves(graph, maker):
            sources.append(name)
        elif not any(maker is node for node in nodes):
            nodes.append(maker)
            stack += [x for x in maker.input if x]
    inside = {id(node) for node in nodes}
    made = [name for node in nodes for name in node.output if name and name != tensor]
    leaks = any(name in graph.outputs or any(id(x) not in inside for x in graph.takers(name)) for name in made)
    if leaks or len(sources) != 1:
        return None
    packed, out = graph.shapes.get(sources[0], ()), graph.shapes.get(tensor, ())
    fits = len(packed) == len(out) == 3 and packed == (*out[:2], 3 * out[2]) and out[0] == 1
    return (nodes, sources[0], tensor, added) if fits and out[2] % scores[1] == 0 else None


def _moves(graph: Editor, node: onnx.NodeProto) -> bool:
    """Whether a node may be part of an attention: it moves or scales, or multiplies what is computed."""
    if node.op_type in ("MatMul", "FusedMatMul"):
        return all(graph.value(name) is None for name in node.input)
    return node.op_type in (*_MOVES, "Softmax")


def _scale_of(
    graph: Editor, nodes: list[onnx.NodeProto], source: str, target: str, heads: int, added: str = ""
) -> dict[str, float] | None:
    """The scale with which attention answers random numbers as the nodes do, unless it is 1 / sqrt(d).

    ``None``: the nodes are no attention.
    """
    entries = [source, added] if added else [source]
    shapes = {name: graph.shapes[name] for name in (*entries, target)}
    ports = {k: helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in shapes.items()}
    inside = {id(node) for node in nodes}
    ordered = [node for node in graph.nodes if id(node) in inside]
    constants = []
    for name in sorted({name for node in nodes for name in node.input} - set(entries)):
        values = graph.value(name)
        if values is not None:
            constants.append(numpy_helper.from_array(values, name))
    body = helper.make_graph(ordered, "attention", [ports[x] for x in entries], [ports[target]], constants)
    model = helper.make_model(body, opset_imports=graph.model.opset_import, ir_version=graph.model.ir_version)
    rng = np.random.default_rng(0)
    given = {name: rng.standard_normal(shapes[name]).astype(np.float32) for name in entries}
    (got,) = session(model, 1).run(None, given)
    scales: tuple[dict[str, float], ...] = ({}, {"scale": 1.0})
    more = given[added] if added else 0.0
    alike = (each for each in scales if np.abs(got - attend(given[source], heads, more, **each)).max() <= _SAME)
    return next(alike, None)


def attend(
    qkv: NDArray[np.float32], heads: int, added: NDArray[np.float32] | float = 0.0, scale: float | None = None
) -> NDArray[np.float32]:
    """softmax(Q K^T * scale + added) V of packed (1, N, 3D), heads inside each third: (1, N, D).

    The scale is 1 / sqrt(d) by default.
    """
    _, n, width = qkv.shape
    q, k, v = qkv.reshape(n, 3, heads, width // (3 * heads)).transpose(1, 2, 0, 3)
    scores = q @ k.transpose(0, 2, 1) * np.float32(q.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores + np.reshape(added, (1, 1, -1))
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = shares / shares.sum(axis=-1, keepdims=True) @ v
    return np.ascontiguousarray(mixed.transpose(1, 0, 2).reshape(1, n, width // 3))


def _three(
    graph: Editor, source: str, nodes: list[onnx.NodeProto]
) -> tuple[list[str], list[str], list[onnx.NodeProto], list[onnx.NodeProto]]:
    """Names of Q, K and V, of their packed bias, what becomes of no use, and what makes them: of a linear layer that
    only the attention's ``nodes`` take its thirds, of anything else a split."""
    shape = graph.shapes[source]
    third: Shape = (*shape[:2], shape[2] // 3)
    names = [graph.fresh(f"{source}.{part}") for part in "qkv"]
    add, bias, product = graph.maker(source, "Add"), None, None
    if add is not None:
        ends = [name for name in add.input if graph.value(name) is not None]
        product = next((graph.maker(name, *PRODUCTS) for name in add.input if name not in ends), None)
        bias = ends[0] if ends else None
    weight = None if product is None else graph.value(product.input[1])
    inside = {id(node) for node in nodes}
    shared = any(id(taker) not in inside for taker in graph.takers(source))  # who merges tokens compares keys
    if (
        shared
        or product is None
        or bias is None
        or weight is None
        or add is None
        or graph.only_taker(product.output[0]) is None
    ):
        sizes = graph.constant(f"{source}.thirds", np.array([third[2]] * 3, np.int64))
        for name in names:
            graph.shapes[name] = third
        return names, [], [], [graph.node("Split", [source, sizes], names, third, axis=2)]
    new = []
    for name, values, scale in zip(names, np.split(weight, 3, axis=1), _scales(graph, product), strict=True):
        inputs = [product.input[0], graph.constant(f"{name}.weight", values), *product.input[2:]]
        if product.op_type == "MatMulIntegerToFloat":
            inputs[3] = graph.constant(f"{name}.scale", scale)
        new.append(graph.node(product.op_type, inputs, name, third, domain=product.domain))
    packed = graph.value(bias)
    assert packed is not None
    return names, [graph.constant(f"{source}.bias", packed.reshape(-1))], [add, product], new


def _scales(graph: Editor, product: onnx.NodeProto) -> list[NDArray[np.float32]]:
    """Scales of the three thirds of an int8 weight; of a float one nothing that counts."""
    values = graph.value(product.input[3]) if len(product.input) > 3 else np.ones(1, np.float32)
    assert values is not None
    return list(np.split(values.reshape(-1), 3)) if values.size > 1 else [values] * 3


def value_scales(graph: Editor) -> int:
    """A factor for each channel behind an attention (int8 evens out channels by one) into the product that gives V.

    Attention only mixes rows of V, so a channel's factor may stand in front of it as well.
    """
    found = 0
    for node in graph.of("Mul"):
        mixed, factor = graph.maker(node.input[0], "MultiHeadAttention"), graph.value(node.input[1])
        if mixed is None or factor is None or len(mixed.input) < 4 or graph.only_taker(node.input[0]) is None:
            continue
        product, bias = graph.maker(mixed.input[2], *PRODUCTS), graph.value(mixed.input[3])
        shape = graph.shapes.get(node.input[0], ())
        if product is None or bias is None or factor.shape != shape[-1:] or graph.only_taker(mixed.input[2]) is None:
            continue
        scale_product(graph, product, factor)
        scaled = np.concatenate([bias[: -len(factor)], bias[-len(factor) :] * factor]).astype(np.float32)
        mixed.input[3] = graph.constant(f"{mixed.input[3]}.scaled", scaled)
        graph.rename(node.output[0], node.input[0])
        graph.swap([node], [])
        found += 1
    return found


def dead_rows(graph: Editor) -> int:
    """Where one row of tokens alone is taken (the class token's), nothing is computed for the others any more.

    Counts the nodes that work on one row since: behind the last attention all, and its queries.
    """
    found = 0
    for node, row in _selections(graph):
        found += _keep_row(graph, node, row)
    return found


def _selections(graph: Editor) -> Iterator[tuple[onnx.NodeProto, int]]:
    """Nodes that take one row of (1, N, D), N > 1, which nobody else takes, and which row it is."""
    for node in graph.of("Gather", "Slice"):
        shape, ends = graph.shapes.get(node.input[0], ()), [graph.value(name) for name in node.input[1:]]
        if len(shape) != 3 or shape[0] != 1 or shape[1] == 1 or any(end is None or end.size != 1 for end in ends):
            continue
        numbers = [int(end.reshape(-1)[0]) for end in ends if end is not None]
        gathers = node.op_type == "Gather" and attributes(node).get("axis", 0) == 1
        slices = node.op_type == "Slice" and len(numbers) > 2 and numbers[2] in (1, -2)
        if gathers or (slices and numbers[1] == numbers[0] + 1):
            yield node, numbers[0] % shape[1]


def _keep_row(graph: Editor, selection: onnx.NodeProto, row: int) -> int:
    graph.sort()
    rows = graph.shapes[selection.input[0]][1]
    chosen = {id(selection): selection}
    for node in reversed(graph.nodes):
        wide = [name for name in node.output if name]
        takers = [(taker, name) for name in wide for taker in graph.takers(name)]
        if not takers or graph.outputs & set(wide) or not _fits(graph, node, rows):
            continue
        if all(id(taker) in chosen and _takes_row(taker, name, selection) for taker, name in takers):
            chosen[id(node)] = node
    cut: dict[str, str] = {}
    for node in chosen.values():
        places = _FIRST if node is selection else _ROWWISE[node.op_type]
        for place in places:
            name = node.input[place]
            maker, shape = graph.maker(name), graph.shapes.get(name, ())
            if (maker is None or id(maker) not in chosen) and len(shape) >= 2 and shape[-2] == rows:
                cut.setdefault(name, _one_row(graph, name, row))
                node.input[place] = cut[name]
        for name in node.output:
            if node is not selection and name in graph.shapes:
                shape = graph.shapes[name]
                graph.shapes[name] = (*shape[:-2], 1, shape[-1])
    _take_first(graph, selection)
    graph.swap([], [])
    return len(chosen) - 1


def _takes_row(taker: onnx.NodeProto, name: str, selection: onnx.NodeProto) -> bool:
    """Whether a node takes a tensor only where it needs a row of it."""
    places = _FIRST if taker is selection else _ROWWISE[taker.op_type]
    return all(place in places for place, x in enumerate(taker.input) if x == name)


def _fits(graph: Editor, node: onnx.NodeProto, rows: int) -> bool:
    """Whether a node gives (1, N, D) row by row."""
    if node.op_type not in _ROWWISE:
        return False
    shape = graph.shapes.get(node.output[0], ())
    if len(shape) != 3 or shape[1] != rows or attributes(node).get("axis", -1) not in (-1, 1, 2):
        return False
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return graph.shapes.get(node.input[1]) in ((), (1,))
    if node.op_type == "MultiHeadAttention" and len(node.input) > 5:
        return False  # what is added to the scores has a row for each query
    if node.op_type in PRODUCTS:
        weight = graph.value(node.input[1])
        return weight is not None and weight.ndim == 2
    return node.op_type != "LayerNormalization" or attributes(node).get("axis", -1) != 1


def _one_row(graph: Editor, name: str, row: int) -> str:
    """A tensor's row, as a tensor of one row."""
    values = graph.value(name)
    if values is not None:
        return graph.constant(f"{name}.row", values[..., row : row + 1, :])
    short, shape = graph.fresh(f"{name}.row"), graph.shapes[name]
    ends = {"start": row, "end": row + 1, "axis": len(shape) - 2}
    numbers = [graph.constant(f"{short}.{key}", np.array([x], np.int64)) for key, x in ends.items()]
    graph.swap([], [graph.node("Slice", [name, *numbers], short, (*shape[:-2], 1, shape[-1]))])
    return short


def _take_first(graph: Editor, selection: onnx.NodeProto) -> None:
    """Of one row the first is taken."""
    if selection.op_type == "Gather":
        index = graph.value(selection.input[1])
        assert index is not None
        selection.input[1] = graph.constant(f"{selection.output[0]}.first", np.zeros_like(index))
        return
    for place, number in ((1, 0), (2, 1)):
        name = f"{selection.output[0]}.{'start' if place == 1 else 'end'}"
        selection.input[place] = graph.constant(name, np.array([number], np.int64))
