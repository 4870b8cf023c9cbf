"""What blocks attend to: softmax(Q K^T / sqrt(d)) of named blocks, read by forward hooks; the network stays as it is.

B batch, N tokens, D width, h heads, d head width. The attention itself may run fused, which never forms these maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pocketvit.errors import UsageError, did_you_mean
from pocketvit.models.layers.attention import LinearAttention, gone, split_heads
from pocketvit.models.layers.merge import MergeBlock


def attention_blocks(model: nn.Module) -> list[str]:
    """Paths of the blocks whose maps can be read: those with an ``attn`` that makes q, k and v by one layer ``qkv``.

    Blocks that merge tokens, and those behind them, are left out: theirs are not the tokens of the grid.
    """
    found = []
    for path, module in model.named_modules():
        if isinstance(module, MergeBlock):
            break
        inner: Any = getattr(module, "attn", None)
        known = isinstance(inner, nn.Module) and hasattr(inner, "head_dim") and isinstance(_qkv(inner), nn.Linear)
        if known and not gone(_qkv(inner)):
            found.append(path)
    return found


def hooked_blocks(model: nn.Module) -> list[str]:
    """Paths of the blocks that a DPT inside ``model`` reads; none where there is no DPT."""
    return [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name in getattr(module, "hooked", ())
    ]


@torch.no_grad()
def attention_maps(model: nn.Module, image: Tensor, blocks: Sequence[str] | None = None) -> dict[str, Tensor]:
    """(B, 3, H, W) normalised -> by block, (B, h, N, N): how much each token (row) takes from each (column).

    Rows add up to 1; the class token, where there is one, comes first. ``blocks`` are paths as ``named_modules`` has
    them; by default those that a DPT reads, else all. The model is asked in evaluation mode and left as it was.
    Raises UsageError: a block that has no such attention.
    """
    known = attention_blocks(model)
    chosen = list(blocks) if blocks is not None else hooked_blocks(model) or known
    attentions = {path: _attention(model, path, known) for path in chosen}
    seen: dict[str, Tensor] = {}
    handles, training = [], {module: module.training for module in model.modules()}
    try:
        for path, attention in attentions.items():
            handles.append(_qkv(attention).register_forward_hook(_keep(seen, path)))
        model.eval()(image)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return {path: _map(attentions[path], seen[path]) for path in chosen}


def _qkv(attention: nn.Module) -> Any:
    return getattr(attention, "qkv", None)


def _attention(model: nn.Module, path: str, known: Sequence[str]) -> nn.Module:
    """The attention of a block, if its weights are a softmax over keys."""
    if path not in known:
        what = f"block {path!r} has no attention that can be read."
        raise UsageError(what, did_you_mean(path, known, f"Known: {', '.join(known) or 'none'}."))
    attention = model.get_submodule(path).attn
    assert isinstance(attention, nn.Module)
    if isinstance(attention, LinearAttention):
        raise UsageError(f"block {path!r}: its attention is linear and has no softmax over keys.", "Name other blocks.")
    return attention


def _keep(seen: dict[str, Tensor], path: str) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen[path] = output

    return hook


def _map(attention: Any, qkv_bnc: Tensor) -> Tensor:
    """(B, N, 3 * h * d) -> (B, h, N, N)."""
    d = int(attention.head_dim)
    q_bhnd, k_bhnd, _ = split_heads(qkv_bnc, 3, d).unbind(0)
    if hasattr(attention, "q_norm"):  # timm's, an identity in most
        q_bhnd, k_bhnd = attention.q_norm(q_bhnd), attention.k_norm(k_bhnd)
    known = getattr(attention, "scale", None)  # timm says it; of ours it may be in the weights
    scale = d**-0.5 if known is None else float(known)
    return (q_bhnd @ k_bhnd.transpose(-2, -1) * scale).softmax(dim=-1)
