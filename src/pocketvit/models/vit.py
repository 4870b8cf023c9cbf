"""Vision Transformer (Dosovitskiy et al. 2020) with its options: patch embedding, positions, attention operator, pooling.

Parameter names and numerics follow timm's ``vit_*``, so its weights load unchanged. The position grid is a constant of
the size the model was built with; other sizes are resampled when weights are loaded, never inside ``forward``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from pocketvit.errors import UsageError
from pocketvit.models.layers.blocks import AttentionPool, Block
from pocketvit.models.layers.patch_embed import PATCH_EMBEDDINGS, fold_patches, grid_of
from pocketvit.models.layers.positions import sinusoidal

Size = int | tuple[int, int]


def as_size(size: Size) -> tuple[int, int]:
    """``224`` or ``(height, width)`` as height and width."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


class ViT(nn.Module):
    """Patches to tokens to one feature: (B, 3, H, W) float, normalised -> (B, embed_dim)."""

    def __init__(
        self,
        *,
        image_size: Size = 224,
        patch_size: int = 16,
        embed_dim: int = 192,
        depth: int = 12,
        num_heads: int = 3,
        mlp_ratio: float = 4.0,
        channels: int = 3,
        patch_embed: Literal["conv", "linear"] = "conv",
        positions: Literal["learned", "sinusoidal"] = "learned",
        attention: str = "full",
        pool: Literal["cls", "gap", "map", "none"] = "cls",
        dropout: float = 0.0,
        final_norm: bool = True,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise UsageError(
                f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}.", "Change one of them."
            )
        self.image_size, self.patch_size, self.embed_dim, self.pool = as_size(image_size), patch_size, embed_dim, pool
        self.channels = channels
        self.grid = grid_of(self.image_size, patch_size)
        self.num_prefix = 1 if pool in ("cls", "none") else 0
        tokens = self.num_prefix + self.grid[0] * self.grid[1]
        self.patch_embed = PATCH_EMBEDDINGS[patch_embed](channels, embed_dim, patch_size)
        if self.num_prefix:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
            nn.init.normal_(self.cls_token, std=1e-6)
        if positions == "learned":
            self.pos_embed = nn.Parameter(torch.empty(1, tokens, embed_dim))
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        else:
            self.register_buffer("pos_embed", sinusoidal(tokens, embed_dim), persistent=False)
        self.pos_drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio, dropout, attention) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6) if final_norm else nn.Identity()
        self.attn_pool = AttentionPool(embed_dim, num_heads, mlp_ratio) if pool == "map" else None
        self.apply(_init_linear)

    def tokens(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, prefix + N, D), after the final norm."""
        if tuple(image.shape[-2:]) != self.image_size:
            raise UsageError(
                f"this model takes {self.image_size[0]}x{self.image_size[1]} images, not {image.shape[-2]}x{image.shape[-1]}.",
                "Build it with another image_size.",
            )
        x = self.patch_embed(image)
        if self.num_prefix:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.pos_drop(x + self.pos_embed)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D)."""
        x = self.tokens(image)
        if self.attn_pool is not None:
            return self.attn_pool(x)
        return x[:, 0] if self.num_prefix else x.mean(dim=1)


class ViTRestorer(nn.Module):
    """A ViT that gives an image: (B, 3, H, W) in [0, 1] -> the same.

    ``decoder="patch"`` decodes every token to its own pixels on top of the input (LayerNorm, Linear D -> C*P^2, fold);
    ``"global"`` decodes the class token alone to all pixels (LayerNorm, Linear D -> C*H*W), kept as a reference variant.
    """

    def __init__(self, *, decoder: Literal["patch", "global"] = "patch", **vit: object) -> None:
        super().__init__()
        options = {"final_norm": False, **vit, "pool": "cls" if decoder == "global" else "gap"}
        self.vit = ViT(**options)  # type: ignore[arg-type]
        self.decoder = decoder
        height, width = self.vit.image_size
        c, d = self.vit.channels, self.vit.embed_dim
        self.decoder_norm = nn.LayerNorm(d)
        self.decoder_proj = nn.Linear(d, c * height * width if decoder == "global" else c * self.vit.patch_size**2)
        if decoder == "patch":
            nn.init.zeros_(self.decoder_proj.weight)
            nn.init.zeros_(self.decoder_proj.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Restore."""
        x = self.vit.tokens(image)
        if self.decoder == "global":
            return self.decoder_proj(self.decoder_norm(x[:, 0])).unflatten(1, (self.vit.channels, *self.vit.image_size))
        pixels = self.decoder_proj(self.decoder_norm(x))
        return image + fold_patches(pixels, self.vit.grid, self.vit.patch_size, self.vit.channels)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
