"""Pictures of a stream: each frame beside the picture of its answer, or with the answer written on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from pocketvit.errors import UsageError
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.tasks.base import Follower, Result, Task

Painter = Callable[[Any, Pixels], Pixels]
"""(answer, frame (H, W, 3) uint8) to the (h, w, 3) uint8 picture that is shown."""
_BAR, _INK = (18, 22, 28), (245, 246, 248)
_SMALLEST, _SHARE = 10, 22
"""Height of letters in pixels: at least, and as a part of the frame's height."""


def painter(task: Task, follower: Follower | None, both: bool) -> Painter:
    """How answers of ``task`` are drawn.

    Labels are written on the frame; every other answer is a picture (a restored photo, a coloured map, a frame with
    boxes), and with ``both`` the frame stands to its left.
    """
    if task.labelled:
        return lambda result, source: captioned(source, result.line)
    draw = follower.draw if follower is not None else _draw

    def paint(result: Any, source: Pixels) -> Pixels:
        picture = _checked(task, draw, result, source)
        return beside(source, picture) if both else picture

    return paint


def _draw(result: Result, source: Pixels) -> Pixels:
    return result.draw(source)


def _checked(task: Task, draw: Painter, result: Any, source: Pixels) -> Pixels:
    try:
        picture = draw(result, source)
    except (AttributeError, NotImplementedError) as error:
        raise _undrawable(task) from error
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise _undrawable(task)
    return picture


def _undrawable(task: Task) -> UsageError:
    todo = "Leave output out: figures and answers come without pictures too."
    return UsageError(f"answers of task {task.name} cannot be drawn.", todo)


def beside(left: Pixels, right: Pixels) -> Pixels:
    """Two (H, W, 3) uint8 pictures side by side; the right one is brought to the height of the left one."""
    if len(left) != len(right):
        width = max(1, round(right.shape[1] * len(left) / len(right)))
        right = _resized(right, len(left), width)
    return np.concatenate([left, right], axis=1)


def captioned(frame: Pixels, text: str) -> Pixels:
    """A copy of (H, W, 3) uint8 with ``text`` on a dark bar along its lower edge, in letters as large as fit."""
    height, width = frame.shape[:2]
    size = max(_SMALLEST, height // _SHARE)
    picture = Image.fromarray(frame)  # a copy: the frame itself is left alone
    draw = ImageDraw.Draw(picture)
    font = _font(size)
    while (wide := draw.textlength(text, font=font)) > width - size and size > _SMALLEST:
        size = max(_SMALLEST, min(size - 1, int(size * (width - size) / wide)))
        font = _font(size)
    bar = min(height, size + size // 2 + 4)
    draw.rectangle((0, height - bar, width, height), fill=_BAR)
    draw.text((size // 2, height - bar + size // 4), text, fill=_INK, font=font)
    return np.asarray(picture)


def _font(size: int) -> Any:
    return ImageFont.load_default(size) if features.check("freetype2") else ImageFont.load_default()


def onto(picture: Pixels, canvas: tuple[int, int]) -> Pixels:
    """(H, W, 3) uint8 on a black (height, width) canvas: as it is where it fits within two pixels, else made to fit."""
    height, width = canvas
    if picture.shape[:2] == canvas:
        return picture
    room = height - picture.shape[0], width - picture.shape[1]
    if not all(0 <= left < 2 for left in room):
        scale = min(height / picture.shape[0], width / picture.shape[1])
        fitted = (max(1, min(side, round(old * scale))) for side, old in zip(canvas, picture.shape[:2]))
        picture = _resized(picture, *fitted)
    paper = np.zeros((height, width, 3), np.uint8)
    top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    paper[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return paper


def _resized(picture: Pixels, height: int, width: int) -> Pixels:
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
