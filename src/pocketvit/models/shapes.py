"""Networks that a step has narrowed: a freshly built one is cut to the recorded shape of every parameter.

Heads, hidden units, channels, the embedding width and whole blocks may be missing. What they are wired to is not said:
``forward`` of a layer has to follow its weights (attention reads the number of heads from them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

Shapes = Mapping[str, Sequence[int]]


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Shape of every tensor of a state dict."""
    return {name: list(value.shape) for name, value in state.items()}


def fit_shapes(model: nn.Module, shapes: Shapes) -> nn.Module:
    """Cut ``model`` in place to ``shapes``: those of a narrowed network of the same architecture (:func:`shapes_of`).

    Parameters and buffers of another shape are replaced by empty ones, absent parameters (a bias) by ``None``; a bias
    that a layer was built without is added. Absent members of a list of blocks are removed at its end and replaced by
    ``nn.Identity`` inside it. Nothing is copied: a state of these shapes is to be loaded. A network that has these
    shapes already is left as it is.
    """
    _drop_blocks(model, shapes)
    for path, module in model.named_modules():
        prefix, changed = f"{path}." if path else "", False
        for name, old in (module._parameters | module._buffers).items():
            wanted, learned = shapes.get(prefix + name), name in module._parameters
            if not learned and (old is None or wanted is None):
                continue
            if (None if wanted is None else list(wanted)) == (None if old is None else list(old.shape)):
                continue
            like = old if old is not None else next(module.parameters(recurse=False), nn.Parameter(torch.empty(0)))
            new = None if wanted is None else like.detach().new_empty(tuple(wanted))
            setattr(module, name, nn.Parameter(new, like.requires_grad) if learned and new is not None else new)
            changed = True
        if changed:
            declare(module)
    return model


def cut_like(model: nn.Module, state: Mapping[str, Tensor], original: nn.Module) -> nn.Module:
    """Cut ``model``, freshly built, in place as ``state`` is narrowed, where the two may be of different input sizes.

    The positions of ``state`` are already resampled for ``model``. ``original`` is freshly built too, at the input size
    that ``state`` comes from: where it has the shape of ``state``, a tensor of ``model`` that has another depends on
    the size, and keeps it.
    """
    own, before, found = map(shapes_of, (model.state_dict(), original.state_dict(), state))
    return fit_shapes(model, {key: own.get(key, x) if before.get(key) == x else x for key, x in found.items()})


def _drop_blocks(model: nn.Module, shapes: Shapes) -> None:
    """Members of lists and sequences that have a state here and none in the record."""
    for path, parent in list(model.named_modules()):
        if not isinstance(parent, (nn.ModuleList, nn.Sequential)):
            continue
        prefix, names = f"{path}." if path else "", list(parent._modules)  # a sequence may name its members
        there = [
            any(key.startswith(f"{prefix}{name}.") for key in shapes) or not parent.get_submodule(name).state_dict()
            for name in names
        ]
        for index in reversed(range(len(there))):
            if not there[index] and any(there[index:]):
                parent[index] = nn.Identity()
            elif not there[index]:
                del parent._modules[names[index]]


def declare(module: nn.Module) -> None:
    """Bring what a layer says of itself, and computes with, in line with its weights."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, _ConvNd):
        first, second = weight.shape[:2]
        depthwise = module.groups == module.in_channels > 1
        if depthwise:  # one group for each channel that is left, as many outputs of each as before
            module.groups = first if module.transposed else first * module.groups // module.out_channels
        inputs, outputs = (first, second) if module.transposed else (second, first)
        module.in_channels = inputs if module.transposed else inputs * module.groups
        module.out_channels = outputs * module.groups if module.transposed else outputs
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, _BatchNorm):
        module.num_features = weight.shape[0]
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = weight.shape[0]
