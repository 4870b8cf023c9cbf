"""Losses of depth maps, over the valid pixels of each sample and then over the samples.

    B batch   H W height and width   N bins
    pred, truth, target   (B, H, W) float
    mask                  (B, H, W) bool, the pixels whose ground truth is valid

Every loss is a scalar. A sample without a valid pixel counts nothing, a batch of such samples gives 0 with a gradient
of 0; what stands in invalid pixels (0, NaN) changes neither value nor gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST_POINTS = 4096
"""Valid pixels that :func:`chamfer` compares with the bins: with 256 bins 4 MB of distances for a sample."""
_LEAST = 1e-6
"""Metres; predictions below it are raised to it before their logarithm is taken."""


def l1(pred: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Mean of |pred - truth|."""
    return _over_samples(_mean(_error(pred, truth, mask).abs(), mask), mask)


def silog(pred: Tensor, truth: Tensor, mask: Tensor, lam: float = 0.85) -> Tensor:
    """10 sqrt(mean e^2 - lam (mean e)^2) with e = ln pred - ln truth (Eigen et al. 2014, in the form of AdaBins,
    Bhat et al. 2021, eq. 4). ``lam`` 1 does not see the scale at all, 0 is the root mean square of e."""
    e = _valid(pred, mask, 1.0).clamp(min=_LEAST).log() - _valid(truth, mask, 1.0).log()
    return _over_samples(10 * _root(_mean(e.square(), mask) - lam * _mean(e, mask).square()), mask)


def berhu(pred: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """|d| up to c, and (d^2 + c^2) / 2c beyond, d = pred - truth, c = 0.2 max |d| over all valid pixels of the batch
    (Laina et al. 2016, eq. 1 and 2). c is a constant to the gradient."""
    d = _error(pred, truth, mask).abs()
    return _over_samples(_mean(reversed_huber(d, 0.2 * d.detach().max()), mask), mask)


def reversed_huber(d: Tensor, c: Tensor) -> Tensor:
    """``d`` (not negative) up to ``c``, (d^2 + c^2) / 2c beyond it; value and slope are continuous."""
    return torch.where(d <= c, d, (d.square() + c.square()) / (2 * torch.where(c > 0, c, 1.0)))


def scale_shift_invariant(
    pred: Tensor, truth_inverse: Tensor, mask: Tensor, how: str = "median", trim: float = 0.0
) -> Tensor:
    """Loss of relative inverse depth (Ranftl et al. 2020, "MiDaS"): what is left after scale and shift are taken out.

    ``median``: both maps are moved by their median and divided by their mean distance from it (eq. 6), then half the
    mean absolute difference. ``least_squares``: ``pred`` is fitted to the ground truth (eq. 4), then half the mean
    squared difference (eq. 5). Both are the same for a * pred + b with positive a.

    Args:
        pred: inverse depth of any scale and shift.
        truth_inverse: 1 / metres; where ``mask`` is off anything.
        how: ``median`` or ``least_squares``.
        trim: share of the largest differences of each sample that do not count (MiDaS: 0.2); the divisor stays.
    """
    if how == "least_squares":
        left = (align_scale_shift(pred, truth_inverse, mask) - _valid(truth_inverse, mask)).square()
    elif how == "median":
        left = (_by_median(pred, mask) - _by_median(truth_inverse, mask)).abs()
    else:
        raise ValueError(f"how must be median or least_squares, not {how!r}")
    return _over_samples(0.5 * _mean(left, _smallest(left.detach(), mask, 1 - trim), mask), mask)


def gradient_matching(pred: Tensor, truth: Tensor, mask: Tensor, scales: int = 4) -> Tensor:
    """Mean of |dR/dx| + |dR/dy| of the difference R = pred - truth, summed up over ``scales`` scales, each with every
    second pixel of the one before (Li and Snavely 2018; Ranftl et al. 2020, eq. 11).

    Only pairs of neighbours that are both valid count, and the sum is divided by the number of valid pixels of the
    scale. Sparse ground truth has next to no neighbours: see :func:`neighbour_share`. For relative depth pass ``pred``
    aligned (:func:`align_scale_shift`).
    """
    error = _error(pred, truth, mask)
    total = pred.new_zeros(pred.shape[0])
    for scale in range(scales):
        step = 2**scale
        part, valid = error[:, ::step, ::step], mask[:, ::step, ::step]
        across = (part[:, :, 1:] - part[:, :, :-1]).abs() * (valid[:, :, 1:] & valid[:, :, :-1])
        down = (part[:, 1:] - part[:, :-1]).abs() * (valid[:, 1:] & valid[:, :-1])
        total = total + (across.sum((1, 2)) + down.sum((1, 2))) / _count(valid)
    return _over_samples(total, mask)


def neighbour_share(mask: Tensor) -> float:
    """Share of the valid pixels whose right neighbour is valid too, 0 to 1; 0 where none is valid.

    Near 1 for dense depth maps; projected laser points have next to none, and gradients have nothing to work on.
    """
    inner = mask[:, :, :-1]
    return float((inner & mask[:, :, 1:]).sum() / inner.sum().clamp(min=1))


def chamfer(centres: Tensor, truth: Tensor, mask: Tensor, most: int = MOST_POINTS) -> Tensor:
    """Bins near depths and depths near bins (Bhat et al. 2021, "AdaBins", eq. 5): the mean squared distance from each
    valid depth to the nearest bin centre, plus that from each bin centre to the nearest valid depth.

    Of more than ``most`` valid pixels, evenly spaced ones (in reading order) are compared, always the same; memory is
    N * ``most`` floats, whatever the size of the maps.

    Args:
        centres: (B, N) bin centres in metres.
        truth: (B, H, W) metres.
        mask: (B, H, W).
        most: at most so many pixels of each sample.
    """
    found = [_chamfer(row, depths[valid], most) for row, depths, valid in zip(centres, truth, mask, strict=True)]
    return _over_samples(torch.stack(found), mask)


def _chamfer(centres: Tensor, depths: Tensor, most: int) -> Tensor:
    """Scalar of (N,) centres and (M,) depths; 0 where M is 0."""
    count = len(depths)
    if count == 0:
        return 0.0 * centres.sum()
    if count > most:
        # Whole numbers: float32 cannot tell the pixels of a large map apart.
        depths = depths[torch.arange(most, device=depths.device) * count // most]
    distances_nm = (centres[:, None] - depths[None, :]).square()
    return distances_nm.amin(0).mean() + distances_nm.amin(1).mean()


def align_scale_shift(pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """(B, H, W): each sample of ``pred`` times a scale plus a shift, those with the least squared distance to
    ``target`` over the valid pixels (Ranftl et al. 2020, eq. 4). Invalid pixels are 0."""
    scale, shift = scale_and_shift(pred, target, mask)
    return _valid(scale[:, None, None] * _valid(pred, mask) + shift[:, None, None], mask)


def scale_and_shift(pred: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) scale and (B,) shift of :func:`align_scale_shift`, in closed form; 0 and the mean of ``target`` for a
    constant ``pred``. Means are taken out first, so that 32-bit floats do."""
    pred, target = _valid(pred, mask), _valid(target, mask)
    mean, goal = _mean(pred, mask), _mean(target, mask)
    centred = _valid(pred - mean[:, None, None], mask)
    spread = centred.square().sum((1, 2))
    product = (centred * (target - goal[:, None, None])).sum((1, 2))
    scale = torch.where(spread > 0, product / torch.where(spread > 0, spread, 1.0), 0.0)
    return scale, goal - scale * mean


def _by_median(values: Tensor, mask: Tensor) -> Tensor:
    """(B, H, W) minus the median of the valid pixels, over their mean distance from it; 0 where invalid."""
    ordered = _valid(values, mask, torch.inf).flatten(1).sort(1).values
    count = mask.flatten(1).sum(1, keepdim=True)
    middle = ordered.gather(1, (count - 1).clamp(min=0) // 2)  # the lower one of two, as torch.median
    centred = _valid(values, mask) - torch.where(count > 0, middle, 0.0)[:, :, None]
    spread = _mean(centred.abs(), mask)
    return _valid(centred / torch.where(spread > 0, spread, 1.0)[:, None, None], mask)


def _smallest(values: Tensor, mask: Tensor, share: float) -> Tensor:
    """``mask`` without all but the smallest ``share`` of the valid pixels of each sample, at least one of them."""
    if share >= 1:
        return mask
    ranks = _valid(values, mask, torch.inf).flatten(1).argsort(1).argsort(1)
    most = (mask.flatten(1).sum(1, keepdim=True) * share).floor().clamp(min=1)
    return mask & (ranks < most).view_as(mask)


def _valid(values: Tensor, mask: Tensor, otherwise: float = 0.0) -> Tensor:
    """``values`` where ``mask`` is on, and no gradient elsewhere."""
    return torch.where(mask, values, otherwise)


def _error(pred: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    return _valid(pred, mask) - _valid(truth, mask)


def _count(mask: Tensor) -> Tensor:
    """(B,) valid pixels, at least 1."""
    return mask.sum((1, 2)).clamp(min=1)


def _mean(values: Tensor, mask: Tensor, counted: Tensor | None = None) -> Tensor:
    """(B,) sum over ``mask``, by the number of pixels of ``counted`` (default: ``mask``)."""
    return _valid(values, mask).sum((1, 2)) / _count(mask if counted is None else counted)


def _over_samples(losses: Tensor, mask: Tensor) -> Tensor:
    """Mean of (B,) over the samples with a valid pixel; 0 if there are none."""
    seen = mask.flatten(1).any(1)
    return torch.where(seen, losses, 0.0).sum() / seen.sum().clamp(min=1)


def _root(values: Tensor) -> Tensor:
    """Square root; 0 with a gradient of 0 where ``values`` is 0, or below it by rounding."""
    positive = values > 0
    return torch.where(positive, torch.where(positive, values, 1.0).sqrt(), 0.0)
