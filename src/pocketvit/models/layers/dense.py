"""DPT's decoder (Ranftl et al. 2021, sec. 3 and appendix): reassemble, RefineNet fusion, heads.

B batch, N = h * w tokens, D width of the tokens, C channels. All sizes are known when a graph is captured: resizing is
to whole numbers. Two things are done in another order than published, with the same result and less work: the read of
the class token multiplies it once for all tokens, and a fusion's 1x1 convolution runs before its upsampling (bilinear
weights add up to 1, so that convolution and bias commute with it).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit.models.backbone import Size
from pocketvit.models.taps import Tap

READS = ("ignore", "add", "project")
"""What becomes of the class token: left out, added to every token, or concatenated to it and projected with GELU."""


def stretch(map_bchw: Tensor, size: Sequence[int], *, align_corners: bool = True) -> Tensor:
    """Bilinear, to ``size`` (rows, columns)."""
    if tuple(map_bchw.shape[-2:]) == tuple(size):
        return map_bchw
    return F.interpolate(map_bchw, size=tuple(size), mode="bilinear", align_corners=align_corners)


class Reassemble(nn.Module):
    """Tokens of one hook to a map: read the class token, put on the grid, project to C, resample by ``factor``.

    (B, prefix + N, D) -> (B, C, h * factor, w * factor); halves are rounded up.
    """

    def __init__(self, tap: Tap, channels: int, factor: Fraction, read: str) -> None:
        super().__init__()
        assert tap.grid is not None
        self.grid, self.prefix, self.read, width = tap.grid, tap.prefix, read, tap.channels
        if read == "project":
            self.read_tokens, self.read_class = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.project = nn.Conv2d(width, channels, 1)
        self.resize: nn.Module = nn.Identity()
        if factor > 1:
            self.resize = nn.ConvTranspose2d(channels, channels, int(factor), int(factor))
        elif factor < 1:
            stride = int(1 / factor)
            self.resize = nn.Conv2d(channels, channels, stride + 1, stride, stride // 2)

    def forward(self, tokens_bnd: Tensor) -> Tensor:
        """Reassemble."""
        class_b1d, x = tokens_bnd[:, :1], tokens_bnd[:, self.prefix :]
        if self.read == "add":
            x = x + class_b1d
        elif self.read == "project":
            x = F.gelu(self.read_tokens(x) + self.read_class(class_b1d))
        return self.resize(self.project(on_grid(x, self.grid)))


def on_grid(tokens_bnd: Tensor, grid: Size) -> Tensor:
    """(B, N, D) in row order -> (B, D, h, w)."""
    b, _, d = tokens_bnd.shape
    return tokens_bnd.transpose(1, 2).reshape(b, d, *grid)


class ResidualUnit(nn.Module):
    """x + conv(ReLU(conv(ReLU(x)))), 3x3, each with batch norm on request (RefineNet's, with activation first)."""

    def __init__(self, width: int, batch_norm: bool, bias: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, 1, 1, bias=bias) for _ in range(2))
        self.norm1, self.norm2 = (nn.BatchNorm2d(width) if batch_norm else nn.Identity() for _ in range(2))

    def forward(self, x_bchw: Tensor) -> Tensor:
        """(B, C, h, w) -> the same."""
        inner = self.norm1(self.conv1(F.relu(x_bchw)))
        return x_bchw + self.norm2(self.conv2(F.relu(inner)))


class Fusion(nn.Module):
    """A coarser result and this level's map to a finer result; the coarsest level (``first``) has its map alone."""

    def __init__(self, width: int, batch_norm: bool, bias: bool, first: bool) -> None:
        super().__init__()
        self.unit1 = None if first else ResidualUnit(width, batch_norm, bias)
        self.unit2 = ResidualUnit(width, batch_norm, bias)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, map_bchw: Tensor, coarser: Tensor | None, size: Size) -> Tensor:
        """(B, C, h, w) twice -> (B, C, *size)."""
        x = map_bchw
        if self.unit1 is not None and coarser is not None:
            x = coarser + self.unit1(stretch(x, coarser.shape[-2:], align_corners=False))
        return stretch(self.project(self.unit2(x)), size)


class Decoder(nn.Module):
    """Maps, finest first, brought to one ``width`` and fused from the coarsest on: (B, width, 2 h, 2 w) of the finest.

    Each result has the size of the next finer map; with ``doubling`` it is twice the one before (as transformers'
    DPT has it, the same wherever each map is half the next), and the next map is stretched to it.
    """

    def __init__(self, channels: Sequence[int], width: int, batch_norm: bool, bias: bool, doubling: bool) -> None:
        super().__init__()
        self.doubling = doubling
        self.enter = nn.ModuleList(nn.Conv2d(c, width, 3, 1, 1, bias=False) for c in channels)
        self.fusion = nn.ModuleList(Fusion(width, batch_norm, bias, first=i == 0) for i in range(len(channels)))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Fuse."""
        entered = [enter(x) for enter, x in zip(self.enter, maps, strict=True)]
        result: Tensor | None = None
        for level, fuse in zip(reversed(range(len(entered))), self.fusion, strict=True):
            here = entered[level] if result is None else result
            size = (2 * int(here.shape[-2]), 2 * int(here.shape[-1]))
            if level and not self.doubling:
                size = (int(entered[level - 1].shape[-2]), int(entered[level - 1].shape[-1]))
            result = fuse(entered[level], result, size)
        assert result is not None
        return result


class DepthHead(nn.Module):
    """(B, width, h, w) -> one score for each pixel (B, 1, *size), with no final activation."""

    def __init__(self, width: int, inner: int, project: bool) -> None:
        super().__init__()
        self.enter = nn.Conv2d(width, width, 3, 1, 1) if project else None
        self.conv1 = nn.Conv2d(width, width // 2, 3, 1, 1)
        self.conv2, self.conv3 = nn.Conv2d(width // 2, inner, 3, 1, 1), nn.Conv2d(inner, 1, 1)

    def forward(self, x_bchw: Tensor, size: Size) -> Tensor:
        """Score."""
        x = x_bchw if self.enter is None else F.relu(self.enter(x_bchw))
        return self.conv3(F.relu(self.conv2(stretch(self.conv1(x), size))))


class SegmentationHead(nn.Module):
    """(B, width, h, w) -> a logit for each class and pixel (B, classes, *size)."""

    def __init__(self, width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.drop, self.conv2 = nn.Dropout(dropout), nn.Conv2d(width, classes, 1)

    def forward(self, x_bchw: Tensor, size: Size) -> Tensor:
        """Classify."""
        return stretch(self.conv2(self.drop(F.relu(self.norm(self.conv1(x_bchw))))), size)
