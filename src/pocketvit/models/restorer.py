"""A hybrid restoration transformer that was chosen by timing: dense convolutions where pixels are many, attention where they are few.

The image is pixel-unshuffled (work at 1/2 resolution and below), passes an encoder of convolution blocks, a bottleneck of
channel and window attention between convolution blocks, and a decoder with additive skips; the network predicts the
residual. Depthwise convolutions and attention at full token count are left out: they keep the matrix units idle.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit.errors import UsageError
from pocketvit.models.layers.attention import ChannelAttention, WindowAttention
from pocketvit.models.layers.blocks import ConvBlock

HEAD_DIM = 32
BOTTLENECK: dict[str, Callable[[int, int], nn.Module]] = {
    "r": lambda width, window: ConvBlock(width),
    "c": lambda width, window: ChannelAttention(width, max(1, width // HEAD_DIM)),
    "w": lambda width, window: WindowAttention(width, max(1, width // HEAD_DIM), window),
}


class Restorer(nn.Module):
    """(B, 3, H, W) in [0, 1] -> the same, any H and W (padded inside to a multiple that the levels need)."""

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
            raise UsageError(
                f"encoder {encoder} and decoder {decoder} need one entry for each of {widths} but the last.",
                "Correct model.options.",
            )
        if unknown := set(bottleneck) - set(BOTTLENECK):
            raise UsageError(
                f"bottleneck {bottleneck!r}: unknown block {unknown.pop()!r}.", f"Known: {', '.join(BOTTLENECK)}."
            )
        self.unshuffle, self.multiple = unshuffle, unshuffle * 2 ** (len(widths) - 1)
        inner = channels * unshuffle**2
        self.stem = nn.Conv2d(inner, widths[0], 3, 1, 1)
        self.encoder = nn.ModuleList(
            nn.Sequential(*(ConvBlock(w) for _ in range(n))) for w, n in zip(widths[:-1], encoder, strict=True)
        )
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, 2) for a, b in pairwise(widths))
        self.bottleneck = nn.Sequential(*(BOTTLENECK[kind](widths[-1], window) for kind in bottleneck))
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList(
            nn.Sequential(*(ConvBlock(w) for _ in range(n))) for w, n in zip(widths[:-1], decoder, strict=True)
        )
        self.head = nn.Conv2d(widths[0], inner, 3, 1, 1)
        nn.init.zeros_(self.head.weight)  # training starts at the identity
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        """Restore."""
        h, w = image.shape[-2:]
        pad_h, pad_w = -h % self.multiple, -w % self.multiple
        # Replication works for images of any size; reflection needs more pixels than it pads.
        x = F.pad(image, (0, pad_w, 0, pad_h), mode="replicate") if pad_h or pad_w else image
        z = self.stem(F.pixel_unshuffle(x, self.unshuffle))
        skips = []
        for encode, down in zip(self.encoder, self.down, strict=True):
            z = encode(z)
            skips.append(z)
            z = down(z)
        z = self.bottleneck(z)
        for up, decode, skip in zip(reversed(self.up), reversed(self.decoder), reversed(skips), strict=True):
            z = decode(F.pixel_shuffle(up(z), 2) + skip)
        restored = x + F.pixel_shuffle(self.head(z), self.unshuffle)
        return restored[..., :h, :w] if pad_h or pad_w else restored


class DenseDenoiser(nn.Module):
    """A plain stack of 3x3 convolutions on the unshuffled image: FFDNet's layers (Zhang et al. 2018) without its noise map, to time against."""

    def __init__(self, *, unshuffle: int = 2, width: int = 96, layers: int = 10, channels: int = 3) -> None:
        super().__init__()
        self.unshuffle = unshuffle
        inner = channels * unshuffle**2
        body: list[nn.Module] = [nn.Conv2d(inner, width, 3, 1, 1), nn.ReLU()]
        for _ in range(layers):
            body += [nn.Conv2d(width, width, 3, 1, 1), nn.ReLU()]
        self.body = nn.Sequential(*body, nn.Conv2d(width, inner, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Restore."""
        h, w = image.shape[-2:]
        pad_h, pad_w = -h % self.unshuffle, -w % self.unshuffle
        x = F.pad(image, (0, pad_w, 0, pad_h), mode="replicate") if pad_h or pad_w else image
        restored = x + F.pixel_shuffle(self.body(F.pixel_unshuffle(x, self.unshuffle)), self.unshuffle)
        return restored[..., :h, :w] if pad_h or pad_w else restored
