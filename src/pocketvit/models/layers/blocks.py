"""Transformer and convolution blocks, and the ways to pool tokens into one feature."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit.models.layers.attention import TOKEN_ATTENTION, gone, head_width, log_sizes, split_heads


def init_linear(module: nn.Module) -> None:
    """For ``Module.apply``: weights of linear layers truncated normal of deviation 0.02, biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


class Mlp(nn.Module):
    """Linear, GELU, linear. Parameter names as in timm. With its last neuron cut off it gives the bias of ``fc2``."""

    def __init__(self, embed_dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1, self.fc2, self.drop = nn.Linear(embed_dim, hidden), nn.Linear(hidden, embed_dim), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        if gone(self.fc1):
            return self.fc2.bias
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))


class LayerScale(nn.Module):
    """A learned factor for each channel (Touvron et al. 2021, CaiT, eq. 3). Parameter name as in timm."""

    def __init__(self, embed_dim: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((embed_dim,), start))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block: x + MSA(LN(x)), then x + MLP(LN(x)) (Dosovitskiy et al. 2020, eq. 2-3).

    With ``layer_scale``, where its factors start, each branch is scaled per channel before it is added (DINOv2).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        attention: str = "full",
        *,
        layer_scale: float | None = None,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.attn = TOKEN_ATTENTION[attention](embed_dim, num_heads, dropout)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(embed_dim, layer_scale)
        self.norm2 = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.mlp = Mlp(embed_dim, int(embed_dim * mlp_ratio), dropout)
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(embed_dim, layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class ClassBlock(Block):
    """A block that gives the first token alone: (B, N, D) -> (B, 1, D), at the price of its keys and values.

    As the last block of a ViT whose class token is all that is read, it changes no answer.
    """

    settings: ClassVar[dict[str, Any]] = {}

    @classmethod
    def in_place_of(cls, layer: nn.Module) -> ClassBlock:
        """With the weights of a block. Raises RuntimeError: it is none."""
        if not isinstance(layer, Block):
            raise RuntimeError(f"{type(layer).__name__} is no block")
        block: Any = copy.deepcopy(layer)
        block.__class__ = cls
        return block  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, 1, D)."""
        x = x[:, :1] + self.ls1(self.attn(self.norm1(x), 1))
        return x + self.ls2(self.mlp(self.norm2(x)))


class AttentionPool(nn.Module):
    """Multi-head attention pooling: one learned query over all tokens, then an MLP (MAP, Zhai et al. 2022)."""

    def __init__(self, embed_dim: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.head_dim = head_width(embed_dim, num_heads)
        self.query = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.q, self.kv = nn.Linear(embed_dim, embed_dim), nn.Linear(embed_dim, 2 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.norm, self.mlp = nn.LayerNorm(embed_dim, eps=1e-6), Mlp(embed_dim, int(embed_dim * mlp_ratio))
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, D); with sizes (B, N, 1) each token counts as often."""
        q_bhnd = split_heads(self.q(self.query), 1, self.head_dim)[0].expand(x.shape[0], -1, -1, -1)
        k_bhnd, v_bhnd = split_heads(self.kv(x), 2, self.head_dim).unbind(0)
        more = None if sizes is None else log_sizes(sizes).to(q_bhnd.dtype)
        pooled = self.proj(F.scaled_dot_product_attention(q_bhnd, k_bhnd, v_bhnd, attn_mask=more).flatten(1))
        return pooled + self.mlp(self.norm(pooled))


class ConvBlock(nn.Module):
    """Residual pair of dense 3x3 convolutions with ReLU between: what CPUs and NPUs run near their peak."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) -> (B, D, H, W)."""
        return x + self.conv2(F.relu(self.conv1(x)))
