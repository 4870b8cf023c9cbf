"""The attention tables. B batch, N tokens, D width, h heads, d head width; q_bhnd etc. name axes in order.

Token attention takes (B, N, D); map attention takes (B, D, H, W). A new operator is one class and one row of its table.
The head width is fixed when a layer is built, the number of heads is read from its weights: heads can be cut off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit.errors import UsageError


def head_width(embed_dim: int, num_heads: int) -> int:
    """Width of one head. Raises UsageError: the heads do not divide the width."""
    if num_heads < 1 or embed_dim % num_heads:
        raise UsageError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}.", "Change one of them.")
    return embed_dim // num_heads


def gone(layer: nn.Module) -> bool:
    """Whether a step cut off all of a layer's weights (:mod:`pocketvit.models.shapes` makes them ``None``)."""
    return getattr(layer, "weight", layer) is None


def split_heads(x_bnc: Tensor, parts: int, head_dim: int) -> Tensor:
    """(B, N, parts * h * d) -> (parts, B, h, N, d), with as many heads as there are."""
    b, n, c = x_bnc.shape
    return x_bnc.reshape(b, n, parts, c // (parts * head_dim), head_dim).permute(2, 0, 3, 1, 4)


def log_sizes(sizes_bn1: Tensor) -> Tensor:
    """(B, N, 1) -> (B, 1, 1, N), to add to scores: softmax then counts each key as often as its size says."""
    return sizes_bn1.log().transpose(1, 2)[:, None]


class SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V, softmax over keys (Dosovitskiy et al. 2020, eq. 5-8). Parameter names as in timm.

    With its last head cut off it gives the bias of ``proj`` (D,) to every token.
    """

    scale: float | None = None
    """What scores are multiplied with; ``None`` stands for 1 / sqrt(d)."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.head_dim, self.dropout = head_width(embed_dim, num_heads), dropout
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, x_bnd: Tensor, queries: int | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D), or of the first ``queries`` tokens alone."""
        return self.proj.bias if gone(self.qkv) else self.attend(self.qkv(x_bnd), queries)

    def attend(self, qkv_bnc: Tensor, queries: int | None = None, sizes_bn1: Tensor | None = None) -> Tensor:
        """What :meth:`forward` makes of the packed (B, N, 3 * h * d).

        With sizes each token counts as often (proportional attention, Bolya et al. 2023, ToMe, eq. 1).
        """
        q_bhnd, k_bhnd, v_bhnd = split_heads(qkv_bnc, 3, self.head_dim).unbind(0)
        q_bhnd = q_bhnd if queries is None else q_bhnd[:, :, :queries]
        if sizes_bn1 is None:
            out_bhnd = self.mix(q_bhnd, k_bhnd, v_bhnd)
        else:
            more, dropout = log_sizes(sizes_bn1).to(q_bhnd.dtype), self.dropout if self.training else 0.0
            known: dict[str, Any] = {"dropout_p": dropout, "scale": self.scale}
            out_bhnd = F.scaled_dot_product_attention(q_bhnd, k_bhnd, v_bhnd, attn_mask=more, **known)
        b, h, n, d = out_bhnd.shape
        return self.proj(out_bhnd.transpose(1, 2).reshape(b, n, h * d))

    def mix(self, q_bhnd: Tensor, k_bhnd: Tensor, v_bhnd: Tensor) -> Tensor:
        """Values weighted by the keys' answers to the queries: three times (B, h, N, d) -> (B, h, N, d)."""
        dropout = self.dropout if self.training else 0.0
        if self.training and _spelling_pays(k_bhnd):
            scale = q_bhnd.shape[-1] ** -0.5 if self.scale is None else self.scale
            return _spelled_out(q_bhnd * scale, k_bhnd, v_bhnd, dropout)
        return F.scaled_dot_product_attention(q_bhnd, k_bhnd, v_bhnd, dropout_p=dropout, scale=self.scale)


SHORT = 512
"""Up to so many keys the scores are written out in training: they take little memory."""


def _spelling_pays(k_bhnd: Tensor) -> bool:
    """Whether these keys are few and in bfloat16 on a processor, whose fused attention is slow backwards."""
    return k_bhnd.device.type == "cpu" and k_bhnd.dtype == torch.bfloat16 and k_bhnd.shape[2] <= SHORT


def _spelled_out(q_bhnd: Tensor, k_bhnd: Tensor, v_bhnd: Tensor, dropout: float) -> Tensor:
    """As ``F.scaled_dot_product_attention`` with a ``scale`` of 1."""
    return F.dropout((q_bhnd @ k_bhnd.transpose(-2, -1)).softmax(-1).to(v_bhnd.dtype), dropout) @ v_bhnd


class LinearAttention(SelfAttention):
    """phi(Q) (phi(K)^T V), phi = elu + 1, linear in N (Katharopoulos et al. 2020, eq. 6-7)."""

    def mix(self, q_bhnd: Tensor, k_bhnd: Tensor, v_bhnd: Tensor) -> Tensor:
        """(B, h, N, d) three times -> (B, h, N, d)."""
        q_bhnd, k_bhnd = F.elu(q_bhnd) + 1, F.elu(k_bhnd) + 1
        state_bhdd = k_bhnd.transpose(-2, -1) @ v_bhnd
        norm = (q_bhnd * k_bhnd.sum(dim=2, keepdim=True)).sum(-1, keepdim=True)
        return (q_bhnd @ state_bhdd) / (norm + 1e-6)


class WindowAttention(nn.Module):
    """Full attention and MLP inside windows of ``window`` x ``window`` positions of a map (as in SwinIR, not shifted).

    Maps that are no multiple of the window are padded by zeros at the right and bottom.
    The convolutions around the block carry information between windows.
    """

    def __init__(self, embed_dim: int, num_heads: int, window: int = 8, mlp_ratio: float = 2.0) -> None:
        super().__init__()
        self.window, hidden = window, int(embed_dim * mlp_ratio)
        self.norm1, self.attn = nn.LayerNorm(embed_dim), SelfAttention(embed_dim, num_heads)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.fc1, self.fc2 = nn.Linear(embed_dim, hidden), nn.Linear(hidden, embed_dim)

    def forward(self, x_bdhw: Tensor) -> Tensor:
        """(B, D, H, W) -> (B, D, H, W), residual."""
        (b, d, h, w), k = x_bdhw.shape, self.window
        rows, columns = (h + k - 1) // k, (w + k - 1) // k
        # In a graph for any size the numbers are symbols (no int), on which nothing can branch: it always pads.
        whole = isinstance(h, int) and isinstance(w, int) and (rows * k, columns * k) == (h, w)
        x = x_bdhw if whole else F.pad(x_bdhw, (0, columns * k - w, 0, rows * k - h))
        tokens = x.reshape(b, d, rows, k, columns, k).permute(0, 2, 4, 3, 5, 1).reshape(b * rows * columns, k * k, d)
        tokens = tokens + self.attn(self.norm1(tokens))
        tokens = tokens + self.fc2(F.relu(self.fc1(self.norm2(tokens))))
        x = tokens.reshape(b, rows, columns, k, k, d).permute(0, 5, 1, 3, 2, 4).reshape(b, d, rows * k, columns * k)
        return x if whole else x[:, :, :h, :w]


class ChannelAttention(nn.Module):
    """Attention over channels, linear in pixels (Restormer, Zamir et al. 2022, eq. 1), no depthwise convolutions."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.head_dim = head_width(embed_dim, num_heads)
        self.qkv = nn.Conv2d(embed_dim, 3 * embed_dim, 1)
        self.proj = nn.Conv2d(embed_dim, embed_dim, 1)
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))

    def forward(self, x_bdhw: Tensor) -> Tensor:
        """(B, D, H, W) -> (B, D, H, W), residual."""
        (b, _, h, w), heads = x_bdhw.shape, self.temperature.shape[0]
        q, k, v = self.qkv(x_bdhw).reshape(b, 3, heads, self.head_dim, h * w).unbind(1)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.temperature
        return x_bdhw + self.proj((scores.softmax(-1) @ v).reshape(b, heads * self.head_dim, h, w))


TOKEN_ATTENTION: dict[str, Callable[[int, int, float], nn.Module]] = {"full": SelfAttention, "linear": LinearAttention}
"""Built with (embed_dim, num_heads, dropout); the option ``attention`` of a ViT."""
MAP_ATTENTION: dict[str, Callable[[int, int, int], nn.Module]] = {
    "c": lambda embed_dim, num_heads, window: ChannelAttention(embed_dim, num_heads),
    "w": WindowAttention,
}
"""Built with (embed_dim, num_heads, window); letters of the option ``bottleneck`` of a restorer."""
