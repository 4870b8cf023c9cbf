"""Before and after in one picture: both whole, and below them two details enlarged."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from pocketvit.spec.detail import Box, best_window, cut, detail
from pocketvit.spec.drawing import frame, overview
from pocketvit.spec.preprocess import Pixels

HALF = 960
"""Longer side of each half in pixels; a larger photo is shown smaller, its details are not."""
ZOOM, GAP, BAR = 2, 3, 26
_LEAST_COLUMN, _LEAST_CROP = 72, 32
_PAPER, _LINE, _INK = (255, 255, 255), (150, 156, 165), (28, 36, 48)


def compare_picture(before: Pixels, after: Pixels) -> Pixels:
    """Two (H, W, 3) uint8 photos of one size side by side, (h, w, 3) uint8, at most about 1930 pixels a side.

    Above: the whole photos, pixel for pixel where they are at most 960 pixels a side. Below: the place with most
    detail, and the one where most changed for the little that is to be seen there (noise on a wall), each pixel of
    the photo as 2x2 pixels. Small photos have no details. The same photos give the same picture.
    """
    (left, scale), (right, _) = overview(before, HALF), overview(after, HALF)
    boxes = _places(before, after, left.shape[1])
    if scale < 1:  # at their own size the pixels are left alone
        for box in boxes:
            top, beside, height, width = (round(value * scale) for value in box)
            left, right = (frame(half, (top, beside, height, width)) for half in (left, right))
    size = f" ({100 * scale:.0f} % of its size)" if scale < 1 else ""
    column = max(left.shape[1], _LEAST_COLUMN)
    rows = [_labelled(f"before{size}", f"after{size}", left, right, column)]
    if boxes:
        names = f"before, details {ZOOM}:1", f"after, details {ZOOM}:1"
        rows.append(_labelled(*names, _details(before, boxes), _details(after, boxes), column))
    return np.concatenate(rows)


def _places(before: Pixels, after: Pixels, shown: int) -> list[Box]:
    """Windows of the photo that fit side by side under a half of ``shown`` pixels, if there is room for any."""
    wide = (shown - GAP) // 2 // ZOOM
    size = min(wide * 3 // 4, before.shape[0]), wide
    if min(size) < _LEAST_CROP or before.shape != after.shape:
        return []
    fine, changed = detail(after), detail(before, after)
    first = best_window(fine, before.shape[:2], size)
    return [first, best_window(changed / (fine + 4), before.shape[:2], size, apart=first)]


def _details(image: Pixels, boxes: list[Box]) -> Pixels:
    first, second = (cut(image, box).repeat(ZOOM, axis=0).repeat(ZOOM, axis=1) for box in boxes)
    return np.concatenate([first, np.full((len(first), GAP, 3), _PAPER, np.uint8), second], axis=1)


def _labelled(left_name: str, right_name: str, left: Pixels, right: Pixels, width: int) -> Pixels:
    """Two pictures in columns of ``width``, with a thin line between them and a bar with their names above."""
    height = len(left)
    paper = np.full((BAR + height + GAP, 2 * width + GAP, 3), _PAPER, np.uint8)
    paper[:, width : width + GAP] = _LINE
    for start, half in ((0, left), (width + GAP, right)):
        paper[BAR : BAR + len(half), start : start + half.shape[1]] = half
    bar = Image.fromarray(paper[:BAR])
    font = ImageFont.load_default(15) if features.check("freetype2") else ImageFont.load_default()
    for start, name in ((4, left_name), (width + GAP + 4, right_name)):
        ImageDraw.Draw(bar).text((start, 4), name, fill=_INK, font=font)
    paper[:BAR] = np.asarray(bar)
    return paper
