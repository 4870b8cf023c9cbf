"""Vision Transformer (Dosovitskiy et al. 2020) with its options: patch embedding, positions, attention, pooling.

Parameter names and numerics follow timm's ``vit_*``, so its weights load unchanged. The position grid is a constant of
the size the model was built with; other sizes are resampled when weights are loaded, never inside ``forward``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pocketvit.errors import UsageError
from pocketvit.models.backbone import OneFeature, Size, State
from pocketvit.models.layers.attention import TOKEN_ATTENTION
from pocketvit.models.layers.blocks import AttentionPool, Block, init_linear
from pocketvit.models.layers.merge import MergeBlock
from pocketvit.models.layers.patch_embed import PATCH_EMBEDDINGS, fold_patches, grid_of
from pocketvit.models.layers.positions import RESAMPLING, fit_table, sinusoidal
from pocketvit.models.taps import Tap, check_hooks


def _check(option: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise UsageError(f"{option} {value!r} is unknown.", f"Known: {', '.join(known)}.")


class ViT(OneFeature, nn.Module):
    """Patches to tokens to one feature: (B, 3, H, W) float32, normalised -> (B, embed_dim).

    Raises UsageError: a size that the patches do not divide, heads that do not divide the width, an unknown option.
    """

    feature_kind, any_size = "tokens", False

    def __init__(
        self,
        *,
        image_size: int | Size = 224,
        patch_size: int = 16,
        embed_dim: int = 192,
        depth: int = 12,
        num_heads: int = 3,
        mlp_ratio: float = 4.0,
        channels: int = 3,
        patch_embed: Literal["conv", "linear"] = "conv",
        positions: Literal["learned", "sinusoidal"] = "learned",
        attention: str = "full",
        pool: Literal["cls", "gap", "map"] = "cls",
        dropout: float = 0.0,
        final_norm: bool = True,
        layer_scale: float | None = None,
        norm_eps: float = 1e-6,
        resample: Literal["antialias", "bicubic", "bilinear"] = "antialias",
    ) -> None:
        super().__init__()
        _check("patch_embed", patch_embed, PATCH_EMBEDDINGS)
        _check("positions", positions, ("learned", "sinusoidal"))
        _check("attention", attention, TOKEN_ATTENTION)
        _check("pool", pool, ("cls", "gap", "map"))
        _check("resample", resample, RESAMPLING)
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size[:2]
        self.image_size, self.patch_size, self.in_channels = (height, width), patch_size, channels
        self.strides, self.grid, self.resample = (patch_size,), grid_of(self.image_size, patch_size), resample
        self.num_prefix = int(pool == "cls")
        tokens = self.num_prefix + self.grid[0] * self.grid[1]
        self.patch_embed = PATCH_EMBEDDINGS[patch_embed](channels, embed_dim, patch_size)
        if self.num_prefix:
            self.cls_token = nn.Parameter(nn.init.normal_(torch.empty(1, 1, embed_dim), std=1e-6))
        if positions == "learned":
            self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, tokens, embed_dim), std=0.02))
        else:
            self.register_buffer("pos_embed", sinusoidal(tokens, embed_dim), persistent=False)
        self.pos_drop = nn.Dropout(dropout)
        more: dict[str, Any] = {"layer_scale": layer_scale, "norm_eps": norm_eps}
        blocks = (Block(embed_dim, num_heads, mlp_ratio, dropout, attention, **more) for _ in range(depth))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(embed_dim, eps=norm_eps) if final_norm else nn.Identity()
        self.attn_pool = AttentionPool(embed_dim, num_heads, mlp_ratio) if pool == "map" else None
        self.apply(init_linear)

    @property
    def embed_dim(self) -> int:
        """Width of the tokens."""
        return int(self.patch_embed.get_parameter("proj.weight").shape[0])

    def embed(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, prefix + N, D): what the first block takes, class token first."""
        if tuple(image.shape[-2:]) != self.image_size:
            height, width = self.image_size
            what = f"this model takes {height}x{width} images, not {image.shape[-2]}x{image.shape[-1]}."
            raise UsageError(what, "Build it with another image_size.")
        x = self.patch_embed(image)
        if self.num_prefix:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        return self.pos_drop(x + self.pos_embed)

    def through(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
        """(B, prefix + N, D) -> behind each block the tokens, and of how many patches each was merged (B, ..., 1).

        Sizes are None where no block merges, or none has yet.
        """
        sizes: Tensor | None = None
        for block in self.blocks:
            if isinstance(block, MergeBlock):
                x, sizes = block(x, sizes)
            else:
                x = block(x)
            yield x, sizes

    def tokens(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, prefix + N, D), after the final norm; fewer where blocks merge tokens."""
        return self._last(image)[0]

    def _last(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        *_, (x, sizes) = self.through(self.embed(image))
        return self.norm(x), sizes

    @property
    def block_count(self) -> int:
        """Blocks behind which tokens can be read: all."""
        return len(self.blocks)

    def taps(self, stages: Sequence[int], hooks: Sequence[int]) -> tuple[Tap, ...]:
        """See :class:`pocketvit.models.taps.Tapped`; a ViT has no convolutional stages."""
        check_hooks(stages, 0, hooks, self.block_count)
        return tuple(Tap(self.embed_dim, self.patch_size, self.grid, self.num_prefix) for _ in hooks)

    def tapped(self, image: Tensor, stages: Sequence[int], hooks: Sequence[int], norm: bool = False) -> list[Tensor]:
        """(B, 3, H, W) -> (B, prefix + N, D) behind each block of ``hooks``; ``norm``: through the final norm."""
        found = []
        for number, (x, _) in enumerate(self.through(self.embed(image))):
            if number in hooks:
                found.append(self.norm(x) if norm else x)
        return found

    def cut(self, stages: Sequence[int], hooks: Sequence[int], norm: bool = False) -> None:
        """Remove what stands behind the last hook, and the final norm where the hooks do not use it."""
        del self.blocks[max(hooks) + 1 :]
        self.attn_pool, self.norm = None, self.norm if norm else nn.Identity()

    def features(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, N, D)], the patches' tokens after the final norm."""
        return [self.tokens(image)[:, self.num_prefix :]]

    def pooled(self, tokens: Tensor, sizes: Tensor | None = None) -> Tensor:
        """(B, prefix + N, D) after the final norm, and of how many patches each was merged -> (B, D)."""
        if self.attn_pool is not None:
            return self.attn_pool(tokens, sizes)
        if self.num_prefix:
            return tokens[:, 0]
        return tokens.mean(dim=1) if sizes is None else (tokens * sizes).sum(dim=1) / sizes.sum(dim=1)

    def on_the_way(self, image: Tensor, after: Collection[int]) -> tuple[list[Tensor], Tensor]:
        """(B, 3, H, W) -> tokens (B, prefix + N, D) behind each block of ``after`` (from 1 on), and (B, D) of all."""
        states = list(self.through(self.embed(image)))
        x, sizes = states[-1]
        return [states[number - 1][0] for number in after], self.pooled(self.norm(x), sizes)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D)."""
        return self.pooled(*self._last(image))

    def resize_state(self, state: State, size: Size | None = None) -> State:
        """Positions for ``size``, with the class token we need; a convolution's patch weights laid out as ours."""
        state = dict(state)
        if "pos_embed" in state:
            grid = grid_of(size or self.image_size, self.patch_size)
            state["pos_embed"] = fit_table(state["pos_embed"], self.grid, grid, self.num_prefix, self.resample)
        kernel = "patch_embed.proj.weight"
        if kernel in state and self.patch_embed.get_parameter(kernel.partition(".")[2]).dim() == 2:
            state[kernel] = state[kernel].flatten(1)
        return state


class ViTRestorer(OneFeature, nn.Module):
    """A ViT that gives an image: (B, 3, H, W) in [0, 1] -> the same.

    ``decoder="token"`` (``"patch"``, its older name) decodes every token to its own pixels on top of the input
    (LayerNorm, Linear D -> C*P^2, fold); ``"global"`` decodes the class token alone to all pixels (LayerNorm,
    Linear D -> C*H*W): kept to compare with.
    """

    feature_kind, any_size = "tokens", False

    def __init__(self, *, decoder: Literal["token", "patch", "global"] = "token", **vit: Any) -> None:
        super().__init__()
        _check("decoder", decoder, ("token", "patch", "global"))
        self.vit = ViT(**{"final_norm": False, **vit, "pool": "cls" if decoder == "global" else "gap"})
        self.decoder, self.strides = decoder, self.vit.strides
        c, d, (height, width) = self.vit.in_channels, self.vit.embed_dim, self.vit.image_size
        self.decoder_norm = nn.LayerNorm(d)
        self.decoder_proj = nn.Linear(d, c * height * width if decoder == "global" else c * self.vit.patch_size**2)
        if decoder != "global":
            nn.init.zeros_(self.decoder_proj.weight)
            nn.init.zeros_(self.decoder_proj.bias)

    @property
    def embed_dim(self) -> int:
        """Width of the tokens."""
        return self.vit.embed_dim

    def features(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, N, D)], the patches' tokens."""
        return self.vit.features(image)

    def forward(self, image: Tensor) -> Tensor:
        """Restore."""
        x = self.vit.tokens(image)
        if self.decoder == "global":
            pixels = self.decoder_proj(self.decoder_norm(x[:, 0]))
            return pixels.unflatten(1, (self.vit.in_channels, *self.vit.image_size))
        pixels = self.decoder_proj(self.decoder_norm(x))
        return image + fold_patches(pixels, self.vit.grid, self.vit.patch_size, self.vit.in_channels)

    def resize_state(self, state: State, size: Size | None = None) -> State:
        """The ViT's positions for ``size``; the global decoder's output is of one size and stays.

        The state of a ViT without pixels (a classifier's) is understood: our decoder goes on top of it.
        """
        if "patch_embed.proj.weight" in state:
            own = {key: value for key, value in self.state_dict().items() if not key.startswith("vit.")}
            state = own | {f"vit.{key}": value for key, value in state.items()}
        inner = {key.removeprefix("vit."): value for key, value in state.items() if key.startswith("vit.")}
        return state | {f"vit.{key}": value for key, value in self.vit.resize_state(inner, size).items()}
