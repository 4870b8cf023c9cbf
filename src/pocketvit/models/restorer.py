"""A hybrid restorer, chosen by timing: dense convolutions where pixels are many, attention where they are few.

The image is pixel-unshuffled (work at 1/2 resolution and below), passes an encoder of convolutions, a bottleneck of
channel and window attention between convolution blocks, and a decoder with additive skips; the network predicts the
residual. Depthwise convolutions and attention at full token count are left out: they keep the matrix units idle.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit.errors import UsageError
from pocketvit.models.backbone import AnySize, OneFeature
from pocketvit.models.layers.attention import MAP_ATTENTION
from pocketvit.models.layers.blocks import ConvBlock

HEAD_DIM = 32


def _map_block(kind: str, width: int, window: int) -> nn.Module:
    table = {"r": lambda width, *_: ConvBlock(width)} | MAP_ATTENTION
    if kind not in table:
        raise UsageError(f"bottleneck: unknown block {kind!r}.", f"Known: {', '.join(table)}.")
    return table[kind](width, max(1, width // HEAD_DIM), window)


def _padded(image: Tensor, multiple: int) -> Tensor:
    """Continued at the right and bottom to multiples. Replication works for any size; reflection needs more pixels."""
    pad_h, pad_w = -image.shape[-2] % multiple, -image.shape[-1] % multiple
    return F.pad(image, (0, pad_w, 0, pad_h), mode="replicate") if pad_h or pad_w else image


def _cut(padded: Tensor, image: Tensor) -> Tensor:
    """Cut to the image's size."""
    return padded if padded.shape == image.shape else padded[..., : image.shape[-2], : image.shape[-1]]


class Restorer(AnySize, nn.Module):
    """(B, 3, H, W) in [0, 1] -> the same, any H and W (padded inside); features: the maps of encoder and bottleneck."""

    feature_kind = "maps"

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = (48, 64, 96),
        encoder: tuple[int, ...] = (1, 1),
        bottleneck: str = "rcwr",
        decoder: tuple[int, ...] = (1, 1),
        unshuffle: int = 2,
        window: int = 8,
        channels: int = 3,
    ) -> None:
        super().__init__()
        if len(encoder) != len(widths) - 1 or len(decoder) != len(widths) - 1:
            what = f"encoder {encoder} and decoder {decoder} need one entry for each of {widths} but the last."
            raise UsageError(what, "Correct model.options.")
        self.unshuffle, self.multiple = unshuffle, unshuffle * 2 ** (len(widths) - 1)
        self.strides = tuple(unshuffle * 2**level for level in range(len(widths)))
        inner = channels * unshuffle**2
        self.stem = nn.Conv2d(inner, widths[0], 3, 1, 1)
        self.encoder = nn.ModuleList(nn.Sequential(*(ConvBlock(w) for _ in range(n))) for w, n in zip(widths, encoder))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, 2) for a, b in pairwise(widths))
        self.bottleneck = nn.Sequential(*(_map_block(kind, widths[-1], window) for kind in bottleneck))
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList(nn.Sequential(*(ConvBlock(w) for _ in range(n))) for w, n in zip(widths, decoder))
        self.head = nn.Conv2d(widths[0], inner, 3, 1, 1)
        nn.init.zeros_(self.head.weight)  # training starts at the identity
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    @property
    def channels(self) -> tuple[int, ...]:
        """Width of each level."""
        return tuple(int(layer.get_parameter("weight").shape[0]) for layer in (self.stem, *self.down))

    @property
    def embed_dim(self) -> int:
        """Width of the bottleneck."""
        return self.channels[-1]

    def features(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> a map (B, C, h, w) of each level, finest first."""
        return self._maps(self._unshuffled(image))

    def _unshuffled(self, image: Tensor) -> Tensor:
        return F.pixel_unshuffle(_padded(image, self.multiple), self.unshuffle)

    def _maps(self, unshuffled: Tensor) -> list[Tensor]:
        z, maps = self.stem(unshuffled), []
        for encode, down in zip(self.encoder, self.down, strict=True):
            z = encode(z)
            maps.append(z)
            z = down(z)
        return [*maps, self.bottleneck(z)]

    def forward(self, image: Tensor) -> Tensor:
        """Restore."""
        unshuffled = self._unshuffled(image)
        *skips, z = self._maps(unshuffled)
        for up, decode, skip in zip(reversed(self.up), reversed(self.decoder), reversed(skips), strict=True):
            z = decode(F.pixel_shuffle(up(z), 2) + skip)
        # The residual is added before the shuffle: engines keep the small maps in their own layout.
        return _cut(F.pixel_shuffle(unshuffled + self.head(z), self.unshuffle), image)


class DenseDenoiser(AnySize, OneFeature, nn.Module):
    """A plain stack of 3x3 convolutions on the unshuffled image, to time against.

    FFDNet's layers (Zhang et al. 2018) without its noise map; its feature is the map before the last layer.
    """

    feature_kind = "maps"

    def __init__(self, *, unshuffle: int = 2, width: int = 96, layers: int = 10, channels: int = 3) -> None:
        super().__init__()
        self.unshuffle, self.multiple, self.strides = unshuffle, unshuffle, (unshuffle,)
        inner = channels * unshuffle**2
        body = (layer for a in (inner, *[width] * layers) for layer in (nn.Conv2d(a, width, 3, 1, 1), nn.ReLU()))
        self.body = nn.Sequential(*body, nn.Conv2d(width, inner, 3, 1, 1))

    @property
    def embed_dim(self) -> int:
        """Width of the stack."""
        return int(self.body[-1].get_parameter("weight").shape[1])

    def features(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, C, h, w)]."""
        return [self.body[:-1](F.pixel_unshuffle(_padded(image, self.unshuffle), self.unshuffle))]

    def forward(self, image: Tensor) -> Tensor:
        """Restore."""
        residual = F.pixel_shuffle(self.body[-1](self.features(image)[0]), self.unshuffle)
        return _cut(_padded(image, self.unshuffle) + residual, image)
