"""Fewer tokens on the way: a block that merges tokens that are alike, or drops those that the class token ignores.

B batch, N tokens, D width, h heads, d head width, r tokens that go; prefix: 1 where a class token leads, else 0.
Merging is ToMe (Bolya et al. 2023, "Token Merging: Your ViT But Faster", section 3), dropping is EViT (Liang et al.
2022, section 3.1) without its fused token. Nothing is scattered: what goes is found by a sort, moved by a gather, and
added where it belongs by a product with a one-hot matrix, so graphs stay static and every engine has the operators.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from pocketvit.errors import UsageError
from pocketvit.models.layers.attention import SelfAttention, gone
from pocketvit.models.layers.blocks import Block

Mode = Literal["merge", "prune"]
MODES: tuple[str, ...] = get_args(Mode)


class Matching(NamedTuple):
    """Which tokens of the first half stay, which go, and into which of the second half."""

    kept: Tensor
    """(B, a - r) int64, ascending."""
    gone: Tensor
    """(B, r) int64, most alike first."""
    onto: Tensor
    """(B, b, r) float32, 1 where a token that goes is added to one that stays."""


def most_removable(tokens: int, prefix: int, mode: str) -> int:
    """The largest r: a half (the first half goes into the second), or all but one."""
    others = tokens - prefix
    return (others if prefix else others + 1) // 2 if mode == "merge" and others > 1 else max(others - 1, 0)


def halves(x_bnd: Tensor, prefix: int) -> tuple[Tensor, Tensor]:
    """Tokens at even places, without the class token, and at odd ones: every second token, as in a chequered row."""
    return x_bnd[:, 2 * prefix :: 2], x_bnd[:, 1::2]


def rows(x_bnd: Tensor, index_bm: Tensor) -> Tensor:
    """(B, N, D), (B, M) int64 -> (B, M, D): of each image its own rows."""
    if len(x_bnd) == 1:  # as exported: a gather of whole rows
        return x_bnd.index_select(1, index_bm[0])
    return x_bnd.gather(1, index_bm[..., None].expand(-1, -1, x_bnd.shape[-1]))


def match(metric_bnd: Tensor, r: int, prefix: int) -> Matching:
    """Bipartite soft matching: of all tokens' nearest ones in the other half by cosine, the r nearest pairs.

    Raises UsageError: r is above :func:`most_removable`.
    """
    check_count(r, metric_bnd.shape[1], prefix, "merge")
    unit = metric_bnd / metric_bnd.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    first, second = halves(unit, prefix)
    alike_bab = first @ second.transpose(1, 2)
    order = alike_bab.amax(dim=-1).topk(first.shape[1], dim=-1).indices
    nearest = alike_bab.argmax(dim=-1)
    gone, kept = order[:, :r], order[:, r:]
    places = torch.arange(second.shape[1], device=metric_bnd.device)
    onto = rows(nearest[..., None], gone).transpose(1, 2) == places[:, None]
    return Matching(kept.sort(dim=-1).values if kept.shape[1] else kept, gone, onto.to(metric_bnd.dtype))


def merged(x_bnd: Tensor, sizes_bn1: Tensor, matching: Matching, prefix: int) -> tuple[Tensor, Tensor]:
    """Tokens (B, N - r, D), averages weighed by sizes, and how many patches each stands for (B, N - r, 1).

    The class token comes first, then what is kept of the first half, then the second half.
    """
    (x_first, x_second), (s_first, s_second) = halves(x_bnd, prefix), halves(sizes_bn1, prefix)
    going, weights = rows(x_first, matching.gone), rows(s_first, matching.gone)
    sizes = s_second + matching.onto @ weights
    x = (x_second * s_second + matching.onto @ (going * weights)) / sizes
    lead = [(x_bnd[:, :prefix], sizes_bn1[:, :prefix])] if prefix else []
    lead += [(rows(x_first, matching.kept), rows(s_first, matching.kept))] if matching.kept.shape[1] else []
    return torch.cat([*(a for a, _ in lead), x], 1), torch.cat([*(b for _, b in lead), sizes], 1)


def noticed(qkv_bnc: Tensor, head_dim: int, r: int, scale: float | None = None) -> Tensor:
    """(B, N - r) int64: the class token, and in their order the tokens that it attends to most, mean over heads.

    Raises UsageError: fewer than one would be left.
    """
    (b, n, c), heads = qkv_bnc.shape, qkv_bnc.shape[-1] // (3 * head_dim)
    check_count(r, n, 1, "prune")
    q_bh1d = qkv_bnc[:, :1, : c // 3].reshape(b, 1, heads, head_dim).transpose(1, 2)
    k_bhdn = qkv_bnc[:, :, c // 3 : 2 * (c // 3)].reshape(b, n, heads, head_dim).permute(0, 2, 3, 1)
    scale = head_dim**-0.5 if scale is None else scale
    attended = (q_bh1d @ k_bhdn * scale).softmax(dim=-1).mean(dim=1)[:, 0, 1:]
    kept = attended.topk(n - 1 - r, dim=-1).indices.sort(dim=-1).values + 1
    return torch.cat([torch.zeros_like(kept[:, :1]), kept], dim=1)


def check_count(r: int, tokens: int, prefix: int, mode: str) -> None:
    """Raise UsageError: r of so many tokens cannot go."""
    if r > (most := most_removable(tokens, prefix, mode)):
        what = f"{r} of {tokens} tokens cannot go in one block (mode {mode}): at most {most} can."
        raise UsageError(what, "Lower r, raise keep, or let tokens go in more blocks.")


def has_softmax(block: Block) -> bool:
    """Whether its attention is a softmax over keys, with whatever scale."""
    return isinstance(block.attn, SelfAttention) and type(block.attn).mix is SelfAttention.mix


class MergeBlock(Block):
    """A block that ends with ``r`` tokens fewer, taken away between attention and MLP: (B, N, D) -> (B, N - r, D).

    ``mode`` merge: pairs that are alike in their keys (mean over heads) become their average, weighed by how many
    patches each stands for; attention then counts a token as often as that (``proportional``: log of the size added to
    the scores). prune: tokens go that the class token attends to least. A block whose last head was cut off has no keys
    to compare by and takes nothing away. With ``class_only`` it gives the class token alone, as
    :class:`pocketvit.models.layers.blocks.ClassBlock`.
    """

    r: int
    mode: str
    prefix: int
    proportional: bool
    class_only: bool

    @property
    def settings(self) -> dict[str, Any]:
        """What :meth:`in_place_of` takes beside the block."""
        names = ("r", "mode", "prefix", "proportional", "class_only")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def in_place_of(
        cls,
        layer: nn.Module,
        r: int,
        mode: str = "merge",
        prefix: int = 1,
        proportional: bool = True,
        class_only: bool = False,
    ) -> MergeBlock:
        """With the weights of a block. Raises RuntimeError: it is none with softmax attention, or a bad setting."""
        if not isinstance(layer, Block) or not has_softmax(layer):
            raise RuntimeError(f"{type(layer).__name__} is no block with softmax attention")
        whole = type(r) is int and r >= 0 and type(prefix) is int and prefix in (0, 1)
        flags = isinstance(proportional, bool) and isinstance(class_only, bool)
        if not whole or not flags or mode not in MODES or (not prefix and (mode == "prune" or class_only)):
            raise RuntimeError(f"r {r!r}, mode {mode!r}, prefix {prefix!r}, {proportional!r}, {class_only!r}")
        if class_only and r:
            raise RuntimeError("of the class token alone no token can go")
        block: Any = copy.deepcopy(layer)
        block.__class__ = cls
        block.r, block.mode, block.prefix = r, mode, prefix
        block.proportional, block.class_only = proportional, class_only
        return block  # type: ignore[no-any-return]

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        """(B, N, D), sizes (B, N, 1) or None where every token is one patch -> (B, N - r, D) and their sizes.

        Raises UsageError: r is too large for N.
        """
        attn, queries = self.attn, 1 if self.class_only else None
        assert isinstance(attn, SelfAttention)
        if gone(attn.qkv):
            x = x[:, :queries] + self.ls1(attn.proj.bias)
        else:
            qkv = attn.qkv(self.norm1(x))
            x = x[:, :queries] + self.ls1(attn.attend(qkv, queries, sizes if self.proportional else None))
            if self.r:
                x, sizes = self.reduced(x, qkv, sizes)
        return x + self.ls2(self.mlp(self.norm2(x))), None if self.class_only else sizes

    def reduced(self, x: Tensor, qkv_bnc: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The tokens that go on, and their sizes; choices are made in float32, whatever precision is trained in."""
        assert isinstance(self.attn, SelfAttention)
        head_dim, (b, n, c) = self.attn.head_dim, qkv_bnc.shape
        with _exact(x):
            x, qkv_bnc = x.float(), qkv_bnc.float()
            if self.mode == "prune":
                return rows(x, noticed(qkv_bnc, head_dim, self.r, self.attn.scale)), sizes
            # Keys are cut out of what the layer gives, not taken from inside the attention, which engines fuse.
            keys_bnd = qkv_bnc[..., c // 3 : 2 * (c // 3)].reshape(b, n, -1, head_dim).mean(dim=2)
            sizes = torch.ones_like(x[..., :1]) if sizes is None else sizes
            return merged(x, sizes, match(keys_bnd, self.r, self.prefix), self.prefix)


def _exact(x: Tensor) -> AbstractContextManager[Any]:
    """No automatic casts; nothing at all where there are none, so that nothing of it is in a graph."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
