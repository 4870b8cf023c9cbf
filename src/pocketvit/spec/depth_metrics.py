"""How depth maps are scored: protocols (crop, range, alignment) as named records, and nine errors of one image.

A number for depth says nothing without its protocol, so a protocol is a record with a name that stands beside every
number: ``kitti-garg``, ``nyu+median``. Depths are in metres; what is invalid in a ground truth is 0, negative or no
number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocketvit.errors import DataError, UsageError, did_you_mean

Map = NDArray[np.floating[Any]]
"""(H, W) float."""
ALIGNMENTS = ("none", "median", "least_squares")
ERRORS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3")
"""What :func:`depth_errors` yields, in its order."""
_EDGE = 1e-9
"""Fractions of pixels lie so far below the whole number that they mean (471/480 * 480); published ones do not."""


@dataclass(frozen=True)
class Protocol:
    """Which pixels count, and what is done to a prediction before it is compared."""

    name: str
    low: float
    """Metres; ground truth at or below it does not count, predictions are raised to it."""
    high: float
    """Metres; ground truth at or above it does not count, predictions are lowered to it."""
    crop: tuple[float, float, float, float] | None = None
    """First row, row behind the last, first column, column behind the last, as shares of height and width."""
    alignment: str = "none"
    """One of ``ALIGNMENTS``."""

    @property
    def text(self) -> str:
        """What :func:`protocol` reads: ``nyu+median``, or the bare name where nothing is aligned."""
        return self.name if self.alignment == "none" else f"{self.name}+{self.alignment}"

    def bounds(self, height: int, width: int) -> tuple[int, int, int, int]:
        """First row, row behind the last, first column, column behind the last, for a size; rounded down."""
        if self.crop is None:
            return 0, height, 0, width
        top, bottom, left, right = self.crop
        rows = [int(share * height + _EDGE) for share in (top, bottom)]
        columns = [int(share * width + _EDGE) for share in (left, right)]
        return rows[0], rows[1], columns[0], columns[1]

    def valid(self, truth: Map) -> NDArray[np.bool_]:
        """(H, W): which pixels of a ground truth in metres count."""
        top, bottom, left, right = self.bounds(*truth.shape)
        inside = np.zeros(truth.shape, bool)
        part = truth[top:bottom, left:right]
        inside[top:bottom, left:right] = (part > self.low) & (part < self.high)  # False for NaN
        return inside


_KITTI = {
    "kitti-garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    "kitti-eigen": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
}
PROTOCOLS = {
    "plain": Protocol("plain", 1e-3, 1e9),
    "scenes7": Protocol("scenes7", 1e-3, 10.0),
    "nyu": Protocol("nyu", 1e-3, 10.0, (45 / 480, 471 / 480, 41 / 640, 601 / 640)),
    **{name: Protocol(name, 1e-3, 80.0, crop) for name, crop in _KITTI.items()},
}
"""``nyu``: the crop of Eigen et al. (2014), rows 45:471 and columns 41:601 of 480x640. ``kitti-garg`` (Garg et al.
2016) and ``kitti-eigen`` (Eigen et al. 2014): the Eigen split, as shares of the size since KITTI's images differ in it.
``plain``: every pixel with a depth."""


def protocol(text: str) -> Protocol:
    """A protocol by name, with an alignment behind a plus: ``nyu``, ``nyu+median``, ``plain+least_squares``.

    Raises:
        UsageError: there is no such protocol or alignment; the nearest one is proposed.
    """
    name, _, alignment = text.partition("+")
    if name not in PROTOCOLS:
        todo = did_you_mean(name, PROTOCOLS, f"There are: {', '.join(PROTOCOLS)}.")
        raise UsageError(f"there is no depth protocol {name[:60]!r}.", todo)
    if "+" in text and alignment not in ALIGNMENTS:
        todo = did_you_mean(alignment, ALIGNMENTS, f"There are: {', '.join(ALIGNMENTS)}.", f"{name}+{{}}")
        raise UsageError(f"there is no alignment {alignment[:60]!r} of depths.", todo)
    return replace(PROTOCOLS[name], alignment=alignment or "none")


def align(pred: Map, truth: Map, mask: NDArray[np.bool_], how: str, inverse: bool = False) -> NDArray[np.float64]:
    """(H, W) predicted depth in metres, fitted to the ground truth over the pixels of ``mask``.

    ``median`` multiplies by the ratio of the two medians (Zhou et al. 2017), ``least_squares`` takes the scale and the
    shift with the smallest sum of squares (Ranftl et al. 2020, eq. 4), ``none`` changes nothing.

    Args:
        pred: (H, W) depth, or with ``inverse`` inverse depth, of any scale where it is aligned.
        truth: (H, W) metres.
        mask: (H, W), the pixels that count, at least one.
        how: one of ``ALIGNMENTS``.
        inverse: ``pred`` is inverse depth. It is aligned to 1 / ``truth`` in inverse depth, and inverted then; what is
            not positive by then lies at infinity.

    Raises:
        UsageError: an unknown ``how``.
        DataError: the median of the prediction is not positive, so that no scale fits it.
    """
    if how not in ALIGNMENTS:
        todo = did_you_mean(how, ALIGNMENTS, f"There are: {', '.join(ALIGNMENTS)}.")
        raise UsageError(f"there is no alignment {how[:60]!r} of depths.", todo)
    values = pred.astype(np.float64)
    found, wanted = values[mask], truth[mask].astype(np.float64)
    wanted = 1 / wanted if inverse else wanted
    if how == "median":
        if (middle := float(np.median(found))) <= 0:
            what = f"the median of the predicted depths is {middle:.3g}: no scale brings it to the ground truth's."
            raise DataError(what, "Look at the model: depths are positive.")
        values = values * (np.median(wanted) / middle)
    elif how == "least_squares":
        centred = found - found.mean()
        spread = float(centred @ centred)
        # A constant prediction holds nothing to scale: its best fit is the mean.
        scale = float(centred @ (wanted - wanted.mean())) / spread if spread > 0 else 0.0
        values = wanted.mean() + scale * (values - found.mean())
    return _inverted(values) if inverse else values


def _inverted(values: NDArray[np.float64]) -> NDArray[np.float64]:
    far = values <= 0
    return np.where(far, np.inf, 1 / np.where(far, 1.0, values))


def resize_map(values: Map, size: tuple[int, int]) -> NDArray[np.float32]:
    """(H, W) float brought to ``size`` (height, width) in float32: bilinear, pixel centres at halves (as
    ``align_corners=False``), over the whole area of a target pixel where it becomes smaller. As it is if it fits."""
    values = np.ascontiguousarray(values, np.float32)
    if values.shape == tuple(size):
        return values
    return np.asarray(Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def depth_errors(pred: Map, truth: Map, protocol: Protocol, inverse: bool = False) -> dict[str, float]:
    """The errors of one predicted depth map, over the pixels of the ground truth that count in the protocol.

    The prediction is resized to the ground truth's size, aligned, and clipped to the protocol's range. With d the
    ground truth, p the prediction and e = ln d - ln p (Eigen et al. 2014; the KITTI depth benchmark): ``abs_rel`` mean
    of |d - p| / d, ``sq_rel`` mean of (d - p)^2 / d in metres, ``rmse`` in metres, ``rmse_log`` of e, ``log10`` mean of
    |log10 d - log10 p|, ``silog`` 100 sqrt(mean e^2 - (mean e)^2), ``delta1`` to ``delta3`` the shares (0 to 1) of
    pixels with max(p / d, d / p) below 1.25, 1.25^2 and 1.25^3.

    Args:
        pred: (h, w) depth in metres, or inverse depth; of any scale if the protocol aligns.
        truth: (H, W) metres; 0, negative and NaN are invalid.
        protocol: see :func:`protocol`.
        inverse: ``pred`` is inverse depth (1 / metre, if nothing is aligned).

    Returns:
        ``ERRORS`` in order; empty where no pixel counts: such an image says nothing, and belongs in no mean.

    Raises:
        DataError: a map is no (H, W), or the prediction holds NaN or infinity, or cannot be aligned.
    """
    for name, values in (("prediction", pred), ("ground truth", truth)):
        if values.ndim != 2 or 0 in values.shape:
            raise DataError(f"a {name} of shape {values.shape} is no depth map.", "Give an (H, W) array of floats.")
    if not np.isfinite(pred).all():
        count = pred.size - int(np.isfinite(pred).sum())
        what = f"the predicted depth map holds NaN or infinity ({count} of {pred.size} pixels)."
        raise DataError(what, "Look at the model: 16-bit floats overflow, and logarithms of zero are none.")
    mask = protocol.valid(truth)
    if not mask.any():
        return {}
    depth = align(resize_map(pred, (truth.shape[0], truth.shape[1])), truth, mask, protocol.alignment, inverse)
    return _errors(np.clip(depth[mask], protocol.low, protocol.high), truth[mask].astype(np.float64))


def _errors(p: NDArray[np.float64], d: NDArray[np.float64]) -> dict[str, float]:
    difference, e = d - p, np.log(d) - np.log(p)
    ratio = np.maximum(p / d, d / p)
    values = (
        np.mean(np.abs(difference) / d),
        np.mean(difference**2 / d),
        np.sqrt(np.mean(difference**2)),
        np.sqrt(np.mean(e**2)),
        np.mean(np.abs(e)) / np.log(10),
        100 * np.std(e),  # the same as the formula, and never the root of a rounding error below zero
        *(np.mean(ratio < 1.25**k) for k in (1, 2, 3)),
    )
    return {name: float(value) for name, value in zip(ERRORS, values, strict=True)}
