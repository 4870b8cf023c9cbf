"""AdaBins (Bhat et al. 2020, arXiv 2011.14141): a small transformer divides the range of depths anew for every image.

Any backbone of the table gives the maps; a convolutional decoder joins them up to its finest stride (2 in the paper).
The mini-ViT reads the decoded map in patches: its first token makes the widths of the bins, the next ones are kernels
that turn the map into range-attention maps. The depth of a place is the mean of the bins' centres, weighted by a
softmax over the bins. B batch, E width of the decoded map, Q queries, N bins.

Left out of the authors' code: the border of zeros that their 1x1 bottleneck pads, which shifts the map. Epsilon is the
paper's 1e-3 (their code has 0.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit.errors import UsageError
from pocketvit.models.backbone import FeatureKind, Size, State
from pocketvit.models.layers.attention import SelfAttention
from pocketvit.models.layers.positions import fit_table

INNER = "encoder."
EPSILON = 1e-3


def bin_widths(raw_bn: Tensor) -> Tensor:
    """b_i = (b'_i + eps) / sum_j (b'_j + eps) (eq. 1): (B, N), not negative -> (B, N), positive with the sum 1."""
    raw_bn = raw_bn + EPSILON
    return raw_bn / raw_bn.sum(dim=1, keepdim=True)


def bin_centres(widths_bn: Tensor, low: float, high: float) -> Tensor:
    """c(b_i) = low + (high - low) (b_i / 2 + sum_{j<i} b_j) (eq. 2): (B, N) -> (B, N), metres, rising."""
    return low + (high - low) * (widths_bn.cumsum(dim=1) - widths_bn / 2)


def range_attention(map_behw: Tensor, queries_bqe: Tensor) -> Tensor:
    """Dot product of every place with every query, a 1x1 convolution with them: -> (B, Q, h, w)."""
    b, e, h, w = map_behw.shape
    return (queries_bqe @ map_behw.reshape(b, e, h * w)).reshape(b, -1, h, w)


def expected_depth(scores_bnhw: Tensor, centres_bn: Tensor) -> Tensor:
    """d = sum_k c(b_k) p_k, p the softmax of the scores over the bins (eq. 3): -> (B, 1, h, w), metres."""
    return (scores_bnhw.softmax(dim=1) * centres_bn[:, :, None, None]).sum(dim=1, keepdim=True)


class PostNormBlock(nn.Module):
    """LN(x + MSA(x)), then LN(x + MLP(x)) with ReLU (Vaswani et al. 2017): (B, T, D) -> the same."""

    def __init__(self, dim: int, num_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attn, self.norm1, self.norm2 = SelfAttention(dim, num_heads, dropout), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.fc1, self.fc2, self.drop = nn.Linear(dim, hidden), nn.Linear(hidden, dim), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """One layer."""
        x = self.norm1(x + self.drop(self.attn(x)))
        return self.norm2(x + self.drop(self.fc2(self.drop(F.relu(self.fc1(x))))))


class MiniViT(nn.Module):
    """The decoded map to the widths of the bins (B, N) and the range-attention maps (B, Q, h, w) (section 3.3)."""

    def __init__(
        self, width: int, grid: Size, *, dim: int, layers: int, num_heads: int, hidden: int, patch: int, bins: int,
        queries: int, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.queries, self.grid = queries, grid
        if grid[0] * grid[1] <= queries:
            what = f"AdaBins reads one token for the bins and {queries} queries from {grid[0]}x{grid[1]} tokens."
            raise UsageError(what, "Take a larger preprocess.size, or a smaller patch_size or queries.")
        self.embed = nn.Conv2d(width, dim, patch, patch)
        self.pos_embed = nn.Parameter(torch.rand(1, grid[0] * grid[1], dim))
        self.layers = nn.ModuleList(PostNormBlock(dim, num_heads, hidden, dropout) for _ in range(layers))
        self.local = nn.Conv2d(width, dim, 3, 1, 1)
        sizes = (dim, 256, 256, bins)
        steps = (layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.LeakyReLU()))
        self.regress = nn.Sequential(*list(steps)[:-1])

    def forward(self, map_behw: Tensor) -> tuple[Tensor, Tensor]:
        """Divide, and attend."""
        x = self.embed(map_behw).flatten(2).transpose(1, 2) + self.pos_embed
        for layer in self.layers:
            x = layer(x)
        widths = bin_widths(F.relu(self.regress(x[:, 0])))
        return widths, range_attention(self.local(map_behw), x[:, 1 : self.queries + 1])


class UpBlock(nn.Module):
    """Enlarge (bilinear, corners aligned), join with the finer map, twice 3x3 convolution, norm and leaky ReLU."""

    def __init__(self, inner: int, out: int) -> None:
        super().__init__()
        norms = ((nn.Conv2d(c, out, 3, 1, 1), nn.BatchNorm2d(out), nn.LeakyReLU()) for c in (inner, out))
        self.body = nn.Sequential(*(layer for group in norms for layer in group))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, C, h, w) and (B, S, H, W) -> (B, out, H, W)."""
        x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=True)
        return self.body(torch.cat([x, skip], dim=1))


class AdaBins(nn.Module):
    """(B, 3, H, W) float32, normalised -> depth (B, 1, h, w) and the bins' centres (B, N), both in metres.

    h and w are those of the backbone's finest map. Features: the backbone's maps.

    Args:
        backbone: makes the backbone for a size (height, width); a recipe gives its name.
        image_size: height and width.
        min_depth, max_depth: the range that is divided, in metres.
        decoder_width: of the decoder's coarsest level; each finer one has half of it.
        width: E, of the decoded map.
        token_dim, layers, num_heads, mlp_ratio, patch_size, dropout: of the mini-ViT.
        num_bins, queries: N and Q.

    Raises UsageError: a range that does not rise, tokens in place of maps, fewer tokens than queries.
    """

    bins, any_size = True, False
    feature_kind: FeatureKind = "maps"
    encoder: Any

    def __init__(
        self,
        *,
        backbone: Callable[[Size], nn.Module],
        image_size: Size,
        min_depth: float = 1e-3,
        max_depth: float = 10.0,
        decoder_width: int = 2048,
        width: int = 128,
        token_dim: int = 128,
        layers: int = 4,
        num_heads: int = 4,
        mlp_ratio: float = 8.0,
        patch_size: int = 16,
        dropout: float = 0.1,
        num_bins: int = 256,
        queries: int = 128,
    ) -> None:
        super().__init__()
        if not 0 <= min_depth < max_depth:
            raise UsageError(f"min_depth {min_depth} must be below max_depth {max_depth}.", "Correct model.options.")
        self.min_depth, self.max_depth = min_depth, max_depth
        encoder: Any = backbone(image_size)
        if encoder.feature_kind != "maps" or len(encoder.strides) < 2:
            what = "AdaBins decodes maps of several strides; this backbone gives one map or tokens."
            raise UsageError(what, "Take a convolutional pyramid, e.g. timm:tf_efficientnet_b5.")
        self.encoder, net = encoder, getattr(encoder, "net", None)
        self.headed = hasattr(net, "conv_head") and hasattr(net, "bn2")  # an EfficientNet's last layers: decoded too
        deepest = int(net.conv_head.weight.shape[0]) if net is not None and self.headed else encoder.channels[-1]
        channels = (*encoder.channels[:-1], deepest)
        outs = [decoder_width >> level for level in range(len(channels))]
        self.bottleneck = nn.Conv2d(channels[-1], outs[0], 1)
        self.up = nn.ModuleList(UpBlock(a + s, b) for a, b, s in zip(outs, outs[1:], reversed(channels[:-1])))
        self.decoded = nn.Conv2d(outs[-1], width, 3, 1, 1)
        self.patch = encoder.strides[0] * patch_size
        self.mini = MiniViT(
            width, self._grid(image_size), dim=token_dim, layers=layers, num_heads=num_heads,
            hidden=int(token_dim * mlp_ratio), patch=patch_size, bins=num_bins, queries=queries, dropout=dropout,
        )  # fmt: skip
        self.scores = nn.Conv2d(queries, num_bins, 1)

    def _grid(self, size: Size) -> Size:
        finest = self.encoder.strides[0]
        return tuple(-(-side // finest) * finest // self.patch for side in size)  # type: ignore[return-value]

    @property
    def strides(self) -> tuple[int, ...]:
        """Those of the backbone."""
        return tuple(self.encoder.strides)

    @property
    def channels(self) -> tuple[int, ...]:
        """Those of the backbone."""
        return tuple(self.encoder.channels)

    @property
    def embed_dim(self) -> int:
        """Width of the backbone's coarsest map."""
        return self.channels[-1]

    def features(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> a map (B, C, h, w) of each stride, finest first."""
        return list(self.encoder.features(image))

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """The backbone's maps -> the decoded map (B, E, h, w)."""
        *skips, x = maps
        if self.headed:
            x = self.encoder.net.bn2(self.encoder.net.conv_head(x))
        x = self.bottleneck(x)
        for up, skip in zip(self.up, reversed(skips), strict=True):
            x = up(x, skip)
        return self.decoded(x)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Depth and centres."""
        widths, attended = self.mini(self.decode(self.features(image)))
        centres = bin_centres(widths, self.min_depth, self.max_depth)
        return expected_depth(self.scores(attended), centres), centres

    def resize_state(self, state: State, size: Size | None = None) -> State:
        """Positions of the mini-ViT and of the backbone for ``size``.

        The state of the backbone alone (a classifier's) is understood: all else stays as it is.
        """
        rest = {key: value for key, value in self.state_dict().items() if not key.startswith(INNER)}
        if not any(key in state for key in rest):
            state = rest | {INNER + key: value for key, value in state.items()}
        inner = {key.removeprefix(INNER): value for key, value in state.items() if key.startswith(INNER)}
        state = {key: value for key, value in state.items() if not key.startswith(INNER)}
        state |= {INNER + key: value for key, value in self.encoder.resize_state(inner, size).items()}
        table, grid = "mini.pos_embed", self.mini.grid
        if table in state:
            state[table] = fit_table(state[table], grid, self._grid(size) if size else grid, 0)
        return state
