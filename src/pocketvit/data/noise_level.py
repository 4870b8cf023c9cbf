"""How much noise a photo has, of what grain, and how it grows with brightness, from one photo alone.

Noise is measured where next to nothing else is: in blocks without texture. As in Liu, Tanaka and Okutomi, "Single-Image
Noise Level Estimation for Blind Denoising" (IEEE TIP 2013), weakly textured blocks are selected and then measured;
theirs are selected by the gradients of the block itself, which white noise leaves small and a camera's does not. Here a
block is selected by the noise of its neighbours, which is independent of its own: what is measured is not biased by the
selection, whatever the grain. The dependence on brightness is that of Foi et al., "Practical Poissonian-Gaussian Noise
Modeling and Fitting" (IEEE TIP 2008): variance = read + slope * brightness.

Removing the slope of each block also removes some of the noise, more of a coarse grain than of white noise. How much
is known for noise whose autocorrelation is Gaussian (white noise blurred), and is put back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pocketvit.spec.preprocess import Pixels

FINE, COARSE = 8, 16
"""Sides of blocks: small ones are flat more often, large ones hold a coarse grain."""
REGION, MOST_REGIONS = 96, 36
"""Side and number of the regions that are looked at in a large photo."""
FEW_BLOCKS = 60
"""Fewer blocks than this make an estimate unsure."""
_SHARE, _LEAST, _BINS, _BIN_LEAST, _SPAN = 0.02, 12, 8, 120, 40.0
_CLIPPED = (0.02, 0.1, 1.0)
# RGB to Y, Cb, Cr (JPEG's, full range).
_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
_WHITE, _DEMOSAICKED = 0.02, 0.3
"""Correlations of neighbours below which noise is white, and that of chroma that every demosaicking leaves."""
_LUMA_SHARE, _CHROMA_SHARE = float((_YCC[0] ** 2).sum()), float((_YCC[1:] ** 2).sum())
"""Variances of Y, and of Cb and Cr together, where R, G and B have independent noise of variance 1."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NoiseLevel:
    """The noise of one photo; standard deviations on 0 to 255."""

    level: float
    """Of each colour channel, at the photo's mean brightness."""
    luma: float
    chroma: float
    """Root mean square of Cb and Cr."""
    luma_lag1: float
    """Correlation of the luma noise of neighbouring pixels, 0 for white noise."""
    chroma_lag1: float
    luma_length: float
    """Pixels at which the correlation has fallen to 1/e; 0 for white noise."""
    chroma_length: float
    read: float
    """Variance at black, as far as the range of brightness tells."""
    slope: float
    """Growth of the variance for each of 255 steps of brightness; below 0 where dark parts are noisier."""
    slope_known: bool
    """The photo has flat places of different brightness."""
    blocks: int
    """Flat blocks of 8x8 pixels that were measured."""
    sure: bool
    """There were enough of them, and they agree as noise does; else it may be texture."""

    @property
    def shot_share(self) -> float:
        """Share of the variance that grows with brightness, at middle grey; 0 to 1."""
        shot, read = max(self.slope * 128, 0.0), max(self.read, 0.0)
        return shot / (shot + read) if shot + read else 0.0


@dataclass(frozen=True)
class _Blocks:
    """Statistics of blocks, each (N, ...), overlapping by half."""

    mean: Floats
    """Luma."""
    clipped: Floats
    rgb: Floats
    """Variance of R, G and B, without the block's slope."""
    ycc: Floats
    """Variance of Y, Cb and Cr."""
    lag: Floats
    """Their covariance with the pixel to the right and below, mean of both."""
    nearby: Floats
    """Mean ``rgb`` of the neighbours that share no pixel with the block."""


def noise_level(image: Pixels) -> NoiseLevel | None:
    """Estimate the noise of an (H, W, 3) uint8 photo; None where it is smaller than 32 pixels a side.

    Time and memory are bounded: of a large photo 36 regions of 96x96 pixels are looked at, evenly spread.
    """
    if min(image.shape[:2]) < 2 * COARSE:
        return None
    regions = _regions(image)
    small, large = (_blocks(regions, size) for size in (FINE, COARSE))
    fine = _measure(small, small.rgb.mean(axis=1), FINE)
    luma, chroma = fine.grains
    if independent := chroma.variance > 1 and chroma.lag1 < _DEMOSAICKED:
        # No demosaicking was there to make the channels alike, nor JPEG: what luma has beyond chroma is texture.
        fine = _measure(small, small.ycc[:, 1:].sum(axis=1) / _CHROMA_SHARE, FINE)
        most = fine.grains[1].variance * 2 * _LUMA_SHARE / _CHROMA_SHARE
        luma, chroma = fine.grains
        luma = luma if luma.variance <= most else replace(luma, variance=most, shown=most, lag1=chroma.lag1)
    else:
        chroma = _measure(large, large.rgb.mean(axis=1), COARSE, share=0.1).grains[1]
        if luma.saturated:  # small blocks show little of so coarse a grain
            luma = _measure(large, large.rgb.mean(axis=1), COARSE).grains[0]
    told, shown = (chroma, fine.grains[1].shown) if independent else (luma, fine.grains[0].shown)
    scale = told.variance / shown if shown > 0 else 1.0
    return NoiseLevel(
        level=math.sqrt(max(fine.at_mean * scale, luma.variance)),  # no mean of channels is noisier than they are
        luma=math.sqrt(luma.variance),
        chroma=math.sqrt(chroma.variance),
        luma_lag1=luma.lag1,
        chroma_lag1=chroma.lag1,
        luma_length=_length(luma.lag1),
        chroma_length=_length(chroma.lag1),
        read=fine.read * scale,
        slope=fine.slope * scale,
        slope_known=fine.slope_known,
        blocks=fine.count,
        sure=fine.sure,
    )


def _length(lag1: float) -> float:
    """Where a Gaussian autocorrelation, which is ``lag1`` at one pixel, falls to 1/e."""
    return 1 / math.sqrt(-math.log(lag1)) if lag1 > _WHITE else 0.0


def _regions(image: Pixels) -> list[Pixels]:
    height, width = image.shape[:2]
    if height * width <= MOST_REGIONS * REGION**2:
        return [image]
    rows = max(1, min(height // REGION, round(math.sqrt(MOST_REGIONS * height / width))))
    columns = max(1, min(width // REGION, MOST_REGIONS // rows))
    tops, lefts = np.linspace(0, height - REGION, rows), np.linspace(0, width - REGION, columns)
    return [image[y : y + REGION, x : x + REGION] for y in tops.astype(int) for x in lefts.astype(int)]


def _blocks(regions: Sequence[Pixels], size: int) -> _Blocks:
    parts = [_look_at(region, size) for region in regions]
    return _Blocks(*(np.concatenate([getattr(part, name) for part in parts]) for name in _Blocks.__annotations__))


def _look_at(region: Pixels, size: int) -> _Blocks:
    """Statistics of the blocks of one region, one row of blocks at a time."""
    tops = range(0, region.shape[0] - size + 1, size // 2)
    made = [_row(region[top : top + size], size) for top in tops]
    stacked = [np.stack(parts) for parts in zip(*made, strict=True)]
    total = stacked[2].sum(axis=2)
    # Blocks two steps away share no pixel with this one.
    around, (rows, columns) = np.pad(total, 2, constant_values=np.nan), total.shape
    others = [(y, x) for y in (0, 2, 4) for x in (0, 2, 4) if (y, x) != (2, 2)]
    near = np.stack([around[y : y + rows, x : x + columns] for y, x in others])
    known = (~np.isnan(near)).sum(axis=0)
    nearby = np.where(known >= 3, np.nansum(near, axis=0) / np.maximum(known, 1), np.nan)
    return _Blocks(*[x.reshape(rows * columns, *x.shape[2:]) for x in (*stacked, nearby)])


def _row(strip: Pixels, size: int) -> tuple[Floats, ...]:
    """Statistics of the blocks of a (size, W, 3) strip."""
    windows = np.lib.stride_tricks.sliding_window_view(strip, size, axis=1)[:, :: size // 2]
    pixels = windows.transpose(1, 0, 3, 2).reshape(-1, size * size, 3)
    clipped = ((pixels == 0) | (pixels == 255)).mean(axis=1).max(axis=1)
    values = pixels.astype(np.float32)
    mean = values.mean(axis=1) @ _YCC[0]
    basis = _planes(size).astype(np.float32)
    values -= np.einsum("pk,nkc->npc", basis, np.einsum("pk,npc->nkc", basis, values, optimize=True), optimize=True)
    ycc = (values @ _YCC.T).reshape(-1, size, size, 3)
    lag = ((ycc[:, :, 1:] * ycc[:, :, :-1]).mean(axis=(1, 2)) + (ycc[:, 1:] * ycc[:, :-1]).mean(axis=(1, 2))) / 2
    return mean, clipped, (values**2).mean(axis=1), (ycc**2).mean(axis=(1, 2)), lag


@dataclass(frozen=True)
class _Grain:
    lag1: float
    shown: float
    """Variance that the blocks show."""
    variance: float
    saturated: bool
    pixels: float
    """Independent ones in a block."""


@dataclass(frozen=True)
class _Measured:
    at_mean: float
    """Variance of a colour channel at the mean brightness, as blocks show it."""
    read: float
    slope: float
    slope_known: bool
    count: int
    sure: bool
    grains: tuple[_Grain, _Grain]
    """Luma and chroma."""


def _measure(blocks: _Blocks, variance: Floats, size: int, share: float = _SHARE) -> _Measured:
    """``variance`` (N,) is what the line is fitted to."""
    chosen, clean = _choose(blocks, share)
    means = np.array([blocks.mean[part].mean() for part in chosen])
    medians = np.array([np.median(variance[part]) for part in chosen])
    read, slope, kept = _line(means, medians)
    flat = np.concatenate([part for part, keep in zip(chosen, kept, strict=True) if keep])
    at_mean = max(read + slope * float(blocks.mean.mean()), float(medians.min()) / 2)
    # Of the blocks taken, those that are not much above the others: texture that their neighbours do not have.
    calm = flat[variance[flat] <= 2 * np.median(variance[flat])]
    squares, lags = blocks.ycc[calm].mean(axis=0), blocks.lag[calm].mean(axis=0)
    grains = _grain(squares[0], lags[0], size), _grain(squares[1:].mean(), lags[1:].mean(), size)
    expected = np.maximum(read + slope * blocks.mean[flat], at_mean / 4)
    low, middle, high = np.quantile(variance[flat] / np.maximum(expected, 1e-9), (0.25, 0.5, 0.75))
    spread, usual = (high - low) / 1.35 / max(middle, 1e-9), math.sqrt(2 / grains[0].pixels)
    sure = at_mean < 1 or (clean and len(flat) >= FEW_BLOCKS and spread < 1.4 * usual)
    return _Measured(at_mean, read, slope, bool(slope), len(flat), bool(sure), grains)


def _choose(blocks: _Blocks, share: float) -> tuple[list[NDArray[np.int64]], bool]:
    """By brightness, the blocks with the least noisy neighbours, and that they are not clipped: some are taken only
    where there are no others."""
    for most in _CLIPPED:
        fit = np.flatnonzero((blocks.clipped <= most) & np.isfinite(blocks.nearby))
        if len(fit) >= _BIN_LEAST:
            break
    fit = fit if len(fit) else np.arange(len(blocks.mean))
    order = fit[np.argsort(blocks.mean[fit], kind="stable")]
    found = []
    for part in np.array_split(order, max(1, min(_BINS, len(fit) // _BIN_LEAST))):
        count = min(len(part), max(_LEAST, round(share * len(part))))
        found.append(part[np.argsort(blocks.nearby[part], kind="stable")[:count]])
    return found, most == _CLIPPED[0]


def _line(means: Floats, variances: Floats) -> tuple[float, float, NDArray[np.bool_]]:
    """Variance at black, its slope, and which bins agree: those far above the line hold texture and are left out."""
    kept = np.ones(len(means), bool)
    read, slope = float(np.average(variances, weights=1 / (variances + 0.1) ** 2)), 0.0
    for _ in range(4):
        x, y, weights = means[kept], variances[kept], 1 / (variances[kept] + 0.1)  # errors grow with the variance
        if kept.sum() >= 3 and np.ptp(x) >= _SPAN:
            slope, read = map(float, np.polyfit(x, y, 1, w=weights))
        else:
            read, slope = float(np.average(y, weights=weights**2)), 0.0
        agree = kept & (variances <= 1.3 * np.maximum(read + slope * means, 0) + 0.1)
        if agree.sum() < 3 or agree.sum() == kept.sum():
            break
        kept = agree
    return read, slope, kept


@lru_cache(maxsize=2)
def _planes(size: int) -> Floats:
    """Orthonormal basis (size * size, 3) of the planes over a block."""
    line, ones = np.linspace(-1, 1, size), np.ones(size)
    modes = [np.outer(a, b).ravel() for a, b in ((ones, ones), (ones, line), (line, ones))]
    made: Floats = np.linalg.qr(np.stack(modes, axis=1))[0]
    return made


@lru_cache(maxsize=2)
def _grains(size: int) -> Floats:
    """For grains of growing size, in rows: the true correlation of neighbours, what blocks show of it without their
    planes, the share of the variance that they show, and how many independent pixels a block has."""
    basis, place = _planes(size), np.arange(size)
    rows = []
    for blur in np.concatenate([[0.0], np.linspace(0.3, 3, 40)]):
        line = np.exp(-((place[:, None] - place) ** 2) / (4 * blur**2)) if blur else np.eye(size)
        full = np.kron(line, line)
        side = full @ basis
        left = full - basis @ side.T - side @ basis.T + basis @ (basis.T @ side) @ basis.T
        variance = np.trace(left) / len(left)
        lag = np.trace(left.reshape((size,) * 4)[place[:-1], :, place[1:]], axis1=1, axis2=2).sum() / size / (size - 1)
        rows.append((line[0, 1], lag / variance, variance, np.trace(left) ** 2 / (left**2).sum()))
    table = np.array(rows)
    return table[: int(np.argmax(table[:, 1])) + 1]  # of a coarser grain a block shows slopes alone


def _grain(variance: float, covariance: float, size: int) -> _Grain:
    """Undo what the planes took of the noise that blocks show."""
    table = _grains(size)
    shown = covariance / variance if variance > 0 else 0.0
    lag, share, pixels = (float(np.interp(shown, table[:, 1], table[:, k])) for k in (0, 2, 3))
    return _Grain(lag, float(variance), float(variance) / share, bool(shown > 0.85 * table[-1, 1]), pixels)
