"""Cutting a network down for real: heads, hidden neurons and channels, whole blocks, the width of a ViT.

A unit is what one layer writes and one other layer alone reads: cut off at both, nothing else notices. What is left is
saved, loaded and exported by the rules of :mod:`pocketvit.models.shapes`. All functions change the network in place.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pocketvit.errors import UsageError
from pocketvit.models.layers.attention import SelfAttention, WindowAttention, gone
from pocketvit.models.layers.blocks import Block, ConvBlock, Mlp
from pocketvit.models.shapes import declare
from pocketvit.models.vit import ViT

KINDS = ("heads", "neurons", "channels")


@dataclass(frozen=True)
class Units:
    """The units between two layers of a network."""

    kind: str
    """One of ``KINDS``: heads of an attention, neurons of an MLP, channels between two convolutions."""
    path: str
    """Of the module that holds both layers."""
    writer: str
    reader: str
    count: int
    size: int = 1
    """Inputs of the reader for each unit: the width of a head."""
    parts: int = 1
    """Outputs of the writer for each input of the reader: query, key and value."""
    removable: bool = False
    """All of them may go: the module then gives the reader's bias."""

    def columns(self, units: Sequence[int]) -> Tensor:
        """Inputs of the reader that belong to units: (len * size,) int64."""
        starts = torch.as_tensor(list(units), dtype=torch.int64)[:, None] * self.size
        return (starts + torch.arange(self.size)).flatten()

    def rows(self, units: Sequence[int]) -> Tensor:
        """Outputs of the writer that belong to units: (parts * len * size,) int64."""
        columns, all_columns = self.columns(units), self.count * self.size
        return torch.cat([columns + part * all_columns for part in range(self.parts)])


def find_units(model: nn.Module, kinds: Collection[str] = KINDS) -> list[Units]:
    """All units of the kinds, in the network's order; layers that another step has replaced are left out."""
    found = [units for path, module in model.named_modules() if (units := _units_of(path, module)) is not None]
    return [units for units in found if units.kind in kinds and units.count > 0]


def _units_of(path: str, module: Any) -> Units | None:
    prefix = f"{path}." if path else ""
    if isinstance(module, SelfAttention) and _plain(module.qkv, module.proj):
        heads, names = module.proj.in_features // module.head_dim, (f"{prefix}qkv", f"{prefix}proj")
        return Units("heads", path, *names, heads, module.head_dim, 3, module.proj.bias is not None)
    if isinstance(module, (Mlp, WindowAttention)) and _plain(module.fc1, module.fc2):
        bare = isinstance(module, Mlp) and module.fc2.bias is not None
        return Units("neurons", path, f"{prefix}fc1", f"{prefix}fc2", module.fc1.out_features, removable=bare)
    if isinstance(module, ConvBlock) and _plain(module.conv1, module.conv2):
        return Units("channels", path, f"{prefix}conv1", f"{prefix}conv2", module.conv1.out_channels)
    return None


def _plain(*layers: nn.Module) -> bool:
    return all(type(layer) in (nn.Linear, nn.Conv2d) and not gone(layer) for layer in layers)


def keep_units(model: nn.Module, units: Units, kept: Sequence[int]) -> None:
    """Cut off all units but ``kept`` (ascending); with none left only the reader's bias stays."""
    writer, reader = model.get_submodule(units.writer), model.get_submodule(units.reader)
    if kept:
        keep(writer, rows=units.rows(kept))
        keep(reader, columns=units.columns(kept))
        return
    if not units.removable:
        raise UsageError(f"{units.path}: its last {units.kind} cannot be cut off.", "Keep some.")
    writer.register_parameter("weight", None)
    writer.register_parameter("bias", None)
    reader.register_parameter("weight", None)


def keep(layer: nn.Module, *, rows: Tensor | None = None, columns: Tensor | None = None) -> None:
    """Keep some outputs (rows) or inputs (columns) of a linear layer, a convolution or a norm (rows alone)."""
    weight, bias = layer.get_parameter("weight"), getattr(layer, "bias", None)
    if rows is not None:
        weight = _learned(weight.index_select(0, rows.to(weight.device)), weight)
        bias = None if bias is None else _learned(bias.index_select(0, rows.to(bias.device)), bias)
    if columns is not None:
        weight = _learned(weight.index_select(1, columns.to(weight.device)), weight)
    layer.weight, layer.bias = weight, bias  # type: ignore[assignment]
    declare(layer)


def _learned(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone(), like.requires_grad)


def find_blocks(model: nn.Module) -> list[str]:
    """Paths of the blocks that can be taken out whole: residual blocks in a list."""
    parents = {path: module for path, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    members = [(f"{path}.{name}", block) for path, parent in parents.items() for name, block in parent.named_children()]
    return [path for path, block in members if isinstance(block, Block)]


def remove_block(model: nn.Module, path: str) -> None:
    """Take a block out; those behind it keep their names, so one in the middle becomes ``nn.Identity``."""
    parent_path, _, name = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    assert isinstance(parent, nn.ModuleList)
    parent[int(name)] = nn.Identity()
    while len(parent) and isinstance(parent[len(parent) - 1], nn.Identity):
        del parent[len(parent) - 1]


def find_vit(model: nn.Module) -> ViT | None:
    """The ViT whose width can be cut; ``None`` where the network is another, or its positions are not learned."""
    backbone: Any = getattr(model, "backbone", model)
    if not isinstance(backbone, ViT) or "pos_embed" not in dict(backbone.named_parameters()):
        return None
    return backbone if all(isinstance(x, (Block, nn.Identity)) for x in backbone.blocks) else None


def keep_width(model: nn.Module, kept: Sequence[int]) -> None:
    """Keep some channels of the tokens of a ViT, and of the heads on top of it.

    Raises UsageError: there is no ViT, or a layer of it was replaced.
    """
    vit, index = find_vit(model), torch.as_tensor(list(kept), dtype=torch.int64)
    writers, readers, norms = width_layers(model)
    if vit is None or not _plain(*(x for x in (*writers, *readers) if not gone(x))):
        raise UsageError("the width of this network cannot be cut.", "Leave out width; a plain ViT is needed.")
    whole = vit.embed_dim
    for name, parameter in list(vit.named_parameters()):
        if parameter.shape[-1] == whole and name.rpartition(".")[2] in ("cls_token", "pos_embed", "query", "gamma"):
            owner = vit.get_submodule(name.rpartition(".")[0])
            setattr(owner, name.rpartition(".")[2], _learned(parameter.index_select(-1, index), parameter))
    for layer in norms:
        if not gone(layer):  # one that a step has folded away follows what it is given
            keep(layer, rows=index)
    for layer in writers:
        if gone(layer):
            layer.bias = _learned(layer.bias[index], layer.bias)  # type: ignore[index, arg-type, assignment]
        else:
            keep(layer, rows=index)
    for layer in readers:
        if not gone(layer):
            keep(layer, columns=index)


def width_layers(model: nn.Module) -> tuple[list[nn.Module], list[nn.Module], list[nn.Module]]:
    """Layers that write the tokens of a ViT, that read them, and norms over them; all empty where there is no ViT."""
    vit = find_vit(model)
    if vit is None:
        return [], [], []
    projection = vit.patch_embed.get_submodule("proj")
    writers, readers, norms = [projection], [], [vit.norm]
    for block in vit.blocks:
        if isinstance(block, Block):
            norms += [block.norm1, block.norm2]
            writers += [block.attn.get_submodule("proj"), block.mlp.fc2]
            readers += [block.attn.get_submodule("qkv"), block.mlp.fc1]
    if vit.attn_pool is not None:
        pool = vit.attn_pool
        norms, writers = [*norms, pool.norm], [*writers, pool.proj, pool.mlp.fc2]
        readers += [pool.q, pool.kv, pool.mlp.fc1]
    readers += [*getattr(model, "heads", ()), *getattr(model, "enter", ())]
    return writers, readers, [norm for norm in norms if isinstance(norm, nn.LayerNorm)]
