"""The attention table. B batch, N tokens, D width, h heads, d = D/h head width; q_bhnd etc. name axes in order.

Token attention takes (B, N, D); map attention takes (B, D, H, W). A new operator is one class and one row of the table.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V with the softmax over keys (Dosovitskiy et al. 2020, eq. 5-8). Parameter names as in timm."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, x_bnd: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        b, n, d = x_bnd.shape
        qkv = self.qkv(x_bnd).reshape(b, n, 3, self.num_heads, d // self.num_heads).permute(2, 0, 3, 1, 4)
        q_bhnd, k_bhnd, v_bhnd = qkv.unbind(0)
        out = F.scaled_dot_product_attention(q_bhnd, k_bhnd, v_bhnd, dropout_p=self.dropout if self.training else 0.0)
        return self.proj(out.transpose(1, 2).reshape(b, n, d))


class LinearAttention(SelfAttention):
    """phi(Q) (phi(K)^T V) with phi = elu + 1, linear in N (Katharopoulos et al. 2020, eq. 6-7); same parameters as full attention."""

    def forward(self, x_bnd: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        b, n, d = x_bnd.shape
        qkv = self.qkv(x_bnd).reshape(b, n, 3, self.num_heads, d // self.num_heads).permute(2, 0, 3, 1, 4)
        q_bhnd, k_bhnd, v_bhnd = qkv.unbind(0)
        q_bhnd, k_bhnd = F.elu(q_bhnd) + 1, F.elu(k_bhnd) + 1
        state_bhdd = k_bhnd.transpose(-2, -1) @ v_bhnd
        norm = (q_bhnd * k_bhnd.sum(dim=2, keepdim=True)).sum(-1, keepdim=True)
        out = (q_bhnd @ state_bhdd) / (norm + 1e-6)
        return self.proj(out.transpose(1, 2).reshape(b, n, d))


class WindowAttention(nn.Module):
    """Full attention and MLP inside windows of ``window`` x ``window`` positions of a map (as in SwinIR, without shift).

    Maps that are no multiple of the window are padded by zeros at the right and bottom with sizes known at export.
    The convolutions around the block carry information between windows.
    """

    def __init__(self, embed_dim: int, num_heads: int, window: int = 8, mlp_ratio: float = 2.0) -> None:
        super().__init__()
        self.window = window
        hidden = int(embed_dim * mlp_ratio)
        self.norm1, self.attn = nn.LayerNorm(embed_dim), SelfAttention(embed_dim, num_heads)
        self.norm2, self.fc1, self.fc2 = (
            nn.LayerNorm(embed_dim),
            nn.Linear(embed_dim, hidden),
            nn.Linear(hidden, embed_dim),
        )

    def forward(self, x_bdhw: Tensor) -> Tensor:
        """(B, D, H, W) -> (B, D, H, W), residual."""
        b, d, h, w = x_bdhw.shape
        k = self.window
        pad_h, pad_w = -h % k, -w % k
        x = F.pad(x_bdhw, (0, pad_w, 0, pad_h)) if pad_h or pad_w else x_bdhw
        rows, columns = (h + pad_h) // k, (w + pad_w) // k
        tokens = x.reshape(b, d, rows, k, columns, k).permute(0, 2, 4, 3, 5, 1).reshape(b * rows * columns, k * k, d)
        tokens = tokens + self.attn(self.norm1(tokens))
        tokens = tokens + self.fc2(F.relu(self.fc1(self.norm2(tokens))))
        x = tokens.reshape(b, rows, columns, k, k, d).permute(0, 5, 1, 3, 2, 4).reshape(b, d, h + pad_h, w + pad_w)
        return x[:, :, :h, :w] if pad_h or pad_w else x


class ChannelAttention(nn.Module):
    """Transposed attention over channels, linear in pixels (Restormer, Zamir et al. 2022, eq. 1), without its depthwise convolutions."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Conv2d(embed_dim, 3 * embed_dim, 1)
        self.proj = nn.Conv2d(embed_dim, embed_dim, 1)
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))

    def forward(self, x_bdhw: Tensor) -> Tensor:
        """(B, D, H, W) -> (B, D, H, W), residual."""
        b, d, h, w = x_bdhw.shape
        q, k, v = self.qkv(x_bdhw).reshape(b, 3, self.num_heads, d // self.num_heads, h * w).unbind(1)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.temperature
        return x_bdhw + self.proj((scores.softmax(-1) @ v).reshape(b, d, h, w))


TOKEN_ATTENTION = {"full": SelfAttention, "linear": LinearAttention}
MAP_ATTENTION = {"window": WindowAttention, "channel": ChannelAttention}
