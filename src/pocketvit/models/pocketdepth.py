"""Depth from one photo on a small processor: attention where tokens are few, dense convolutions where pixels are many.

The first blocks of a ViT (those of ViT-Ti load unchanged; blocks behind the last hook are not built) see patches of 16
pixels; a branch of dense 3x3 convolutions at strides 2, 4 and 8 sees edges; a decoder of dense 3x3 convolutions joins
both. Depthwise convolutions, norms and attention at full token count are left out: they keep the matrix units idle
(the timing table in docs/LOG.md). Upsampling is bilinear, of maps that are made narrow first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit.errors import UsageError
from pocketvit.models.backbone import Size, State
from pocketvit.models.layers.blocks import ConvBlock
from pocketvit.models.vit import ViT

VIT = "vit."


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ConvBlock(width) for _ in range(count)))


def enlarge(x: Tensor, like: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, H, W) of another map's size, bilinear (corners not aligned)."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class DenseDecoder(nn.Module):
    """Maps of several strides to one score: (B, C_i, h_i, w_i), finest first -> (B, 1, h_0, w_0).

    From the coarsest: ``blocks`` convolution blocks, 1x1 to the next width, enlarge, add the next map brought to its
    width (as it is where it has that width already).
    """

    def __init__(self, channels: Sequence[int], widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        if not len(channels) == len(widths) == len(blocks):
            what = f"widths {tuple(widths)} and decoder {tuple(blocks)} need {len(channels)} entries each."
            raise UsageError(what, "Correct model.options.")
        self.inputs = nn.ModuleList(nn.Identity() if c == w else nn.Conv2d(c, w, 1) for c, w in zip(channels, widths))
        self.blocks = nn.ModuleList(_blocks(w, n) for w, n in zip(widths, blocks))
        self.narrow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.score = nn.Conv2d(widths[0], 1, 1)  # engines work in blocks of channels: a 3x3 would cost as if it had 16

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Decode."""
        levels = [enter(x) for enter, x in zip(self.inputs, maps, strict=True)]
        x = self.blocks[-1](levels[-1])
        for narrow, skip, block in zip(self.narrow[::-1], levels[-2::-1], self.blocks[-2::-1], strict=True):
            x = block(skip + enlarge(narrow(x), skip))
        return self.score(F.relu(x))


class PocketDepth(nn.Module):
    """(B, 3, H, W) float32, normalised -> a score (B, 1, H / s, W / s) without activation, s the finest stride.

    Args:
        image_size: height and width, multiples of the patch.
        hooks: indices of the ViT's blocks whose tokens go into the decoder; the last is the last that is built.
        widths: of the levels at strides ``16 / 2^i``, finest first; four end at half, three at quarter resolution.
        branch: convolution blocks of each level of the branch (all levels but the ViT's).
        decoder: convolution blocks of each level of the decoder.
        vit: options of :class:`pocketvit.models.vit.ViT`.

    Raises UsageError: hooks that do not rise, lists of other lengths, a size that the patches do not divide.
    """

    feature_kind, any_size, answers = "maps", False, "depth"

    def __init__(
        self,
        *,
        image_size: int | Size = (240, 320),
        hooks: tuple[int, ...] = (3, 7),
        widths: tuple[int, ...] = (32, 64, 96, 128),
        branch: tuple[int, ...] = (0, 1, 1),
        decoder: tuple[int, ...] = (1, 1, 1, 1),
        **vit: Any,
    ) -> None:
        super().__init__()
        _check(hooks, widths, branch)
        self.vit = ViT(**{"final_norm": False, **vit, "image_size": image_size, "depth": hooks[-1] + 1, "pool": "cls"})
        dim, patch = self.vit.embed_dim, self.vit.patch_size
        finest = patch >> (len(widths) - 1)
        if finest < 1 or finest << (len(widths) - 1) != patch:
            what = f"patch_size {patch} cannot be halved for {len(widths)} widths."
            raise UsageError(what, "Take patches of 16 and four widths.")
        self.hooks, self.strides = tuple(hooks), tuple(finest << level for level in range(len(widths)))
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for _ in hooks)
        self.join = nn.Linear(len(hooks) * dim, widths[-1])
        self.stem = nn.Conv2d(3, widths[0], max(3, 2 * finest - 1), finest, max(1, finest - 1))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(widths[:-1]))
        self.branch = nn.ModuleList(_blocks(w, n) for w, n in zip(widths, branch))
        self.decoder = DenseDecoder(widths, widths, decoder)

    @property
    def channels(self) -> tuple[int, ...]:
        """Width of each level."""
        layers = (self.stem, *self.down, self.join)
        return tuple(int(layer.get_parameter("weight").shape[0]) for layer in layers)

    @property
    def embed_dim(self) -> int:
        """Width of the coarsest level."""
        return self.channels[-1]

    def features(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> a map (B, C, h, w) of each level, finest first: those of the branch, then the ViT's."""
        maps = [self.branch[0](F.relu(self.stem(image)))]
        for down, block in zip(self.down, self.branch[1:], strict=True):
            maps.append(block(F.relu(down(maps[-1]))))
        joined = self.join(torch.cat(self._tapped(image), dim=2))
        return [*maps, joined.transpose(1, 2).unflatten(2, self.vit.grid)]

    def _tapped(self, image: Tensor) -> list[Tensor]:
        """Patches' tokens (B, N, D) behind each hook, normalised. The last stands for blocks that a step removed."""
        taps = [self.vit.embed(image)]
        for block in self.vit.blocks:
            taps.append(block(taps[-1]))
        behind = (taps[min(hook + 1, len(taps) - 1)] for hook in self.hooks)
        return [norm(x[:, 1:]) for norm, x in zip(self.norms, behind, strict=True)]

    def give_classes(self, count: int) -> None:
        """Give logits (B, count, h, w) of ``count`` classes from now on: the last layer is a new one."""
        self.answers, self.renewed = "segmentation", ("decoder.score.",)
        self.decoder.score = nn.Conv2d(self.decoder.score.in_channels, count, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Score each place."""
        return self.decoder(self.features(image))

    def resize_state(self, state: State, size: Size | None = None) -> State:
        """The ViT's positions for ``size``.

        The state of a ViT alone (a classifier's) is understood: its first blocks are taken, all else stays as it is.
        """
        if "patch_embed.proj.weight" in state:
            own = {key: value for key, value in self.state_dict().items() if not key.startswith(VIT)}
            state = own | {VIT + key: value for key, value in state.items()}
        inner = {key.removeprefix(VIT): value for key, value in state.items() if key.startswith(VIT)}
        return state | {VIT + key: value for key, value in self.vit.resize_state(inner, size).items()}


def _check(hooks: Sequence[int], widths: Sequence[int], branch: Sequence[int]) -> None:
    rising = hooks and all(isinstance(x, int) and x >= 0 for x in hooks) and all(a < b for a, b in pairwise(hooks))
    if not rising or hooks[-1] > 63:
        raise UsageError(f"hooks {tuple(hooks)} must be block numbers from 0, rising.", "Take e.g. (3, 7).")
    if len(widths) < 2 or len(branch) != len(widths) - 1:
        what = f"branch {tuple(branch)} needs one entry for each of widths {tuple(widths)} but the last."
        raise UsageError(what, "Correct model.options.")
