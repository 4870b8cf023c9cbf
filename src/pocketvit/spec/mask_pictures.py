"""Masks as pictures: probabilities at a photo's size, colours over the photo with outlines, a legend.

Everything but the legend is the same number for number in the phone app (``web/src/segment.ts``): single precision in
this order, and whole numbers for colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features

from pocketvit.spec.preprocess import Pixels

Classes = NDArray[np.uint8]
"""(H, W): the class of each pixel."""
_PALETTE = np.array(
    [
        *[(0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66)],
        *[(120, 94, 240), (170, 68, 85), (68, 119, 68), (187, 187, 187), (102, 51, 0), (0, 191, 196), (255, 128, 128)],
    ],
    np.int64,
)
"""Those of Okabe and Ito (2008), which people who see few colours tell apart, and seven more."""
_SHADES = 4
_TINT = 115
"""Of 256: how much of a pixel is the colour of its class."""
_EDGE = (255, 255, 255)
_EDGE_SHARE = 640
"""A line is as many pixels wide as the longer side holds this many."""
_ROWS, _LEAST = 8, 0.005
"""Of the legend: lines at most, and the least share of the picture that a line is for."""
_SMALLEST, _LARGEST, _PARTS = 10, 48, 26
_BOX, _INK = (18, 22, 28), (245, 246, 248)


def colours(count: int) -> NDArray[np.uint8]:
    """(count, 3) RGB, one for each class; after 14 they begin again, darker."""
    index = np.arange(count)
    shade = _SHADES - (index // len(_PALETTE)) % (_SHADES - 1)
    return (_PALETTE[index % len(_PALETTE)] * shade[:, None] // _SHADES).astype(np.uint8)


def _axis(have: int, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """For each wanted place the two given ones around it, and how far it is from the first; centres are at halves."""
    place = np.clip((np.arange(wanted) + 0.5) * have / wanted - 0.5, 0, have - 1)
    low = np.floor(place).astype(np.int64)
    return low, np.minimum(low + 1, have - 1), (place - low).astype(np.float32)


def classes_at(probs: NDArray[np.float32], size: tuple[int, int]) -> Classes:
    """(K, h, w) float32 to the class (H, W) of each pixel of a picture of ``size`` (height, width).

    Probabilities are interpolated bilinearly, not classes, so that borders are smooth; of equal ones the first wins.
    One class after the other: memory does not grow with their number. A class is looked at only in the rectangle where
    it can win: a pixel lies between four places, one of which has at least a quarter of the weight, so that its best
    class has at least a quarter of the least probability with which any place is decided.
    """
    rows, columns = (_axis(have, wanted) for have, wanted in zip(probs.shape[1:], size, strict=True))
    best, which = np.full(size, -np.inf, np.float32), np.zeros(size, np.uint8)
    least = 0.99 * float(probs.max(axis=0).min()) / 4
    for number, each in enumerate(probs):
        strong = each >= least
        if not strong.any():
            continue
        tall, wide = (_between(axis[0], strong.any(axis=1 - k)) for k, axis in enumerate((rows, columns)))
        low, high, part = (x[wide] for x in columns)
        across = each[:, low]
        across = across + part * (each[:, high] - across)
        low, high, part = (x[tall] for x in rows)
        full = across[low]
        full = full + part[:, None] * (across[high] - full)
        np.copyto(which[tall, wide], np.uint8(number), where=full > best[tall, wide])
        np.maximum(best[tall, wide], full, out=best[tall, wide])
    return which


def _between(low: NDArray[np.int64], strong: NDArray[np.bool_]) -> slice:
    """Which of the places whose first neighbour is ``low`` (rising) have one from the first to the last strong one."""
    first, last = np.flatnonzero(strong)[[0, -1]].tolist()
    return slice(int(np.searchsorted(low, first - 1)), int(np.searchsorted(low, last, side="right")))


def painted(photo: Pixels, classes: Classes, count: int) -> Pixels:
    """(H, W, 3) uint8: the photo tinted by the class of each pixel, with white lines between classes.

    Values of ``count`` and more (255: no class) are left as they are.
    """
    added, kept = np.full((256, 3), 128, np.uint16), np.full((256, 1), 256, np.uint16)
    added[:count] += colours(count).astype(np.uint16) * _TINT
    kept[:count] -= _TINT
    picture = ((photo.astype(np.uint16) * kept[classes] + added[classes]) >> 8).astype(np.uint8)
    picture[edges(classes)] = _EDGE
    return picture


def edges(classes: Classes) -> NDArray[np.bool_]:
    """(H, W): pixels that have another class than what lies to their right or below them, at the line's width."""
    wide = max(1, max(classes.shape) // _EDGE_SHARE)
    found = np.zeros(classes.shape, bool)
    found[:-wide] |= classes[:-wide] != classes[wide:]
    found[:, :-wide] |= classes[:, :-wide] != classes[:, wide:]
    return found


def with_legend(picture: Pixels, labels: Sequence[str], shares: NDArray[np.float64]) -> Pixels:
    """A copy with a box in its upper left corner: colour, name and share of the classes that take most room.

    A picture that is too small for a line of text stays as it is.
    """
    height, width = picture.shape[:2]
    size = min(max(_SMALLEST, height // _PARTS), _LARGEST)
    line, pad = size + size // 3, size // 2
    rows = [int(k) for k in np.argsort(-shares, kind="stable") if shares[k] >= _LEAST][:_ROWS]
    rows = rows[: max(0, (height - 3 * pad) // line)]
    font: Any = ImageFont.load_default(size) if features.check("freetype2") else ImageFont.load_default()
    canvas = Image.fromarray(picture)  # a copy: the picture itself is left alone
    draw = ImageDraw.Draw(canvas)
    texts = [f"{' '.join(labels[k].split())[:40]} {100 * shares[k]:.0f} %" for k in rows]
    wide = max((int(draw.textlength(text, font=font)) for text in texts), default=0) + size + 3 * pad
    if not rows or wide + pad > width:
        return picture
    draw.rectangle((pad, pad, pad + wide, 2 * pad + line * len(rows)), fill=_BOX)
    table = colours(len(labels))
    for number, (k, text) in enumerate(zip(rows, texts, strict=True)):
        left, top = 2 * pad, pad + pad // 2 + number * line
        draw.rectangle((left, top + size // 8, left + size, top + size // 8 + size), fill=tuple(table[k].tolist()))
        draw.text((left + size + pad, top), text, fill=_INK, font=font)
    return np.asarray(canvas)
