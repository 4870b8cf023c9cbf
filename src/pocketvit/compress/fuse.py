"""Fuse: constants of layers into the weights of their neighbours, where the answers stay the same by algebra.

- the weight and bias of a LayerNorm into the linear layers behind it: W (g * n + b) + c = (W g) n + (W b + c);
- LayerScale, a factor for each channel, into the linear layer in front of it;
- a batch norm into the convolution in front of it (torch.nn.utils.fusion; Jacob et al. 2018, section 3.2);
- the factor 1 / sqrt(d) of attention into the weights that make its queries.

Each only where the graph shows that nothing else reads what lies between. Queries, keys and values are one layer in
all architectures here already, and mean and deviation of the input are the exported graph's (export/wrap.py). Engines
fuse much of this by themselves, so the step may bring nothing, and int8 may lose by it: without their own weights the
norms cannot take over what evens out loud channels (compress/qdq.py), and the ranges of weights become wider.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pocketvit.compress.flow import ATEN, Flow, flow_of, layer_before, layers_behind
from pocketvit.compress.onnx_edit import counts
from pocketvit.compress.step import Context, StepReport
from pocketvit.errors import UsageError, VerificationError
from pocketvit.export.artifact import pixel_model_of
from pocketvit.export.onnx import capture
from pocketvit.models.layers.attention import SelfAttention, gone
from pocketvit.models.layers.folded import Activation, BareNorm, Nothing, UnscaledAttention, has_activation
from pocketvit.models.layers.low_rank import LowRank
from pocketvit.models.trained import Trained, copy_of

_SAME = 1e-4
"""Largest difference of an answer to random pixels, as a share of the largest: what rounding makes of deep networks."""


@dataclass(frozen=True)
class Fuse:
    """What is folded where it can be."""

    norms: bool = True
    """Weight and bias of LayerNorms, into the linear layers behind them."""
    layer_scales: bool = True
    batch_norms: bool = True
    attention: bool = True
    """The scale of the scores, into the weights that make queries."""


def fuse(step: Fuse, trained: Trained, context: Context) -> StepReport:
    """A copy with fewer operations and the same answers; ``trained`` stays as it is.

    Returns:
        Its notes hold how often each kind was folded, the nodes of the exported graph before and after, and the
        largest difference of an answer to random pixels, as a share of the largest answer (``error``).

    Raises:
        UsageError: there is nothing to fold, or the network has no static graph.
        VerificationError: the network answers differently.
    """
    result, found = folded(step, trained)
    error = difference(trained, result)
    if not error <= _SAME:
        what = f"fuse: the network answers differently, by {error:.2g} of its largest answer."
        raise VerificationError(what, "Leave out some of its kinds.")
    nodes = [nodes_of(each) for each in (trained, result)]
    notes: dict[str, Any] = {"folded": dict(found), "nodes": nodes, "error": error}
    what = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found.items())
    told = f"folded {what}; {nodes[0]} nodes of the exported graph became {nodes[1]}"
    return StepReport("fuse", asdict(step), result, notes=notes, told=told)


def folded(step: Fuse, trained: Trained) -> tuple[Trained, Counter[str]]:
    """A copy with what the step asks for folded, and how often each kind was.

    Raises:
        UsageError: there is nothing to fold, or the network has no static graph.
    """
    result, found = copy_of(trained), Counter[str]()
    flow = flow_of(result.model, trained.preprocess.size)
    kinds: dict[str, Callable[[nn.Module, Flow], int]] = {"norms": fold_norms, "layer_scales": fold_scales}
    kinds |= {"batch_norms": fold_batch_norms, "attention": fold_attention}
    with torch.no_grad():
        for name, fold in kinds.items():
            if getattr(step, name) and (count := fold(result.model, flow)):
                found[name] = count
    if not found:
        what = f"compress.steps.fuse: {trained.model_spec.name} has nothing that can be folded."
        raise UsageError(what, "Leave the step out.")
    return result, found


def fold_norms(model: nn.Module, flow: Flow) -> int:
    """Weight and bias of each LayerNorm that linear layers alone read, into these; how many there were, in place."""
    done = 0
    for node in flow.of(ATEN.layer_norm.default):
        names = [flow.own(x) for x in node.args[2:4]]
        readers = layers_behind(node, ATEN.linear.default) or []
        norm, linear = _owner(model, names[0]), [_layer(model, flow, x) for x in readers]
        if not isinstance(norm, nn.LayerNorm) or len(norm.normalized_shape) != 1 or not linear or None in linear:
            continue
        if any(name is None and x is not None for name, x in zip(names, node.args[2:4], strict=True)):
            continue  # others read them too
        for each in linear:
            assert isinstance(each, nn.Linear)
            if norm.bias is not None:
                shift = each.weight.double() @ norm.bias.double()
                _set_bias(each, shift if each.bias is None else each.bias.double() + shift)
            each.weight.copy_(each.weight.double() * norm.weight.double())
        _replace(model, names[0], BareNorm.in_place_of(norm))
        done += 1
    return done


def fold_scales(model: nn.Module, flow: Flow) -> int:
    """Each factor for the channels of a linear layer into its weight and bias; how many there were, in place."""
    done = 0
    for node in flow.of(ATEN.mul.Tensor, ATEN.mul_.Tensor):
        name, before = flow.own(node.args[1]), layer_before(node.args[0], ATEN.linear.default)
        scale, layer = _owner(model, name), _layer(model, flow, before)
        if layer is None or scale is None or [key for key, _ in scale.named_parameters()] != ["gamma"]:
            continue
        gamma = scale.get_parameter("gamma").double()
        if tuple(gamma.shape) != (layer.weight.shape[0],):
            continue
        layer.weight.copy_(layer.weight.double() * gamma[:, None])
        if layer.bias is not None:
            layer.bias.copy_(layer.bias.double() * gamma)
        _replace(model, name, Nothing.in_place_of(scale))
        done += 1
    return done


def fold_batch_norms(model: nn.Module, flow: Flow) -> int:
    """Each batch norm behind a convolution into it; how many there were, in place."""
    done = 0
    for node in flow.of(ATEN.batch_norm.default):
        name = flow.own(node.args[3])
        norm, conv = _owner(model, name), _layer(model, flow, layer_before(node.args[0], ATEN.conv2d.default))
        acts = norm is not None and has_activation(norm)
        if not isinstance(norm, nn.BatchNorm2d) or conv is None or not (acts or type(norm) is nn.BatchNorm2d):
            continue
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        own, scale, shift = (None if x is None else x.double() for x in (conv.bias, norm.weight, norm.bias))
        weight, bias = fuse_conv_bn_weights(
            conv.weight.double(), own, mean.double(), variance.double(), norm.eps, scale, shift
        )
        conv.weight.copy_(weight)
        _set_bias(conv, bias)
        _replace(model, name, Activation.in_place_of(norm) if acts else Nothing.in_place_of(norm))
        done += 1
    return done


def fold_attention(model: nn.Module, flow: Flow) -> int:
    """The scale of each attention's scores into the weights of its queries; how many there were, in place."""
    done = 0
    for path, module in list(model.named_modules()):
        writer = module.qkv if type(module) is SelfAttention else None
        writer = writer.up if isinstance(writer, LowRank) else writer
        if type(module) is not SelfAttention or not isinstance(writer, nn.Linear) or gone(writer):
            continue
        queries, scale = writer.weight.shape[0] // 3, module.head_dim**-0.5
        for values in (writer.weight, writer.bias):
            if values is not None:
                values[:queries] *= scale
        model.set_submodule(path, UnscaledAttention.in_place_of(module))
        done += 1
    return done


def difference(one: Trained, other: Trained) -> float:
    """Largest difference between the answers of two networks to a random image, as a share of the largest answer."""
    pixels = torch.randint(0, 256, (1, *one.preprocess.size, 3), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want, got = (pixel_model_of(each).float().cpu()(pixels.to(torch.uint8)) for each in (one, other))
    pairs = [(want, got)] if isinstance(want, Tensor) else list(zip(want, got, strict=True))
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in pairs)


def nodes_of(trained: Trained) -> int:
    """Nodes of the ONNX graph of a network, constants left out."""
    return counts(capture(pixel_model_of(copy_of(trained)), trained.preprocess.size)).total()


def _owner(model: nn.Module, name: str | None) -> nn.Module | None:
    """The module that a parameter or buffer belongs to."""
    return None if name is None else model.get_submodule(name.rpartition(".")[0])


def _replace(model: nn.Module, name: str | None, layer: nn.Module) -> None:
    assert name is not None
    model.set_submodule(name.rpartition(".")[0], layer.train(model.training))


def _layer(model: nn.Module, flow: Flow, node: Any) -> Any:
    """The linear layer or convolution of a node, if its weight and bias are its own; else ``None``."""
    if node is None:
        return None
    weight, bias = flow.own(node.args[1]), node.args[2] if len(node.args) > 2 else None
    layer = _owner(model, weight)
    plain = isinstance(layer, (nn.Linear, nn.Conv2d)) and (bias is None or flow.own(bias) is not None)
    return layer if plain else None


def _set_bias(layer: Any, bias: Tensor) -> None:
    """Give a layer a bias of its weight's type."""
    if layer.bias is None:
        layer.bias = nn.Parameter(bias.detach().to(layer.weight.dtype), layer.weight.requires_grad)
    else:
        layer.bias.copy_(bias)
