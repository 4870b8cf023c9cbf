"""Masks as data sets store them: a PNG beside each photo whose values are the classes of its pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pocketvit.errors import DataError
from pocketvit.spec.images import MAX_PIXELS, open_image

IGNORED = 255
"""Pixels of this value belong to no class: they teach nothing and are not scored (PASCAL VOC, Cityscapes)."""
MOST_CLASSES = 255
"""What is left of 8 bits."""
SUFFIX = ".png"
"""JPEG would change the values at every edge."""
_GREY = {"L;2": 85, "L;4": 17}
"""Pillow stretches grey of 2 and 4 bits to 0..255 by these factors."""
_INDICES = ("1", "L", "P")
_LOSSY = ("JPEG", "MPO", "WEBP", "AVIF")


def read_mask(path: Path, unit: float = 1.0) -> NDArray[np.uint8]:
    """(H, W) uint8, the class of each pixel: the values of a grey PNG, or the indices of one with a palette.

    ``unit`` is not used: classes are counted and not measured. Where the file itself says how it is turned (EXIF), it
    is turned as photos are.

    Raises:
        DataError: no such file, damaged, too large, with more than 8 bits, in colours, or stored with loss.
    """
    with open_image(path) as image:
        if image.width * image.height > MAX_PIXELS:
            raise DataError(f"{path}: {image.width}x{image.height} is too large for a mask.", "Leave it out.")
        if image.format in _LOSSY:
            raise DataError(f"{path}: is {image.format}, which changes values at every edge.", _TODO)
        if image.mode not in _INDICES:
            raise DataError(f"{path}: {_what(image)}, and no class indices.", _TODO)
        factor = _GREY.get(_stored_as(image), 1)
        values = np.array(ImageOps.exif_transpose(image)).astype(np.uint8)
        return values // np.uint8(factor) if factor > 1 else values


_TODO = "A mask is an 8-bit PNG, grey or with a palette, whose values are classes: 0 the first one, 255 none."


def _what(image: Image.Image) -> str:
    bands = len(image.getbands())
    return f"holds colours ({bands} channels)" if bands > 1 else "has more than 8 bits a pixel"


def _stored_as(image: Image.Image) -> str:
    """Pillow's word for how the pixels lie in the file."""
    tiles: Any = getattr(image, "tile", None) or [()]
    first = tuple(tiles[0])
    return str(first[3]) if len(first) > 3 else ""


def unknown_class(mask: NDArray[np.uint8], count: int) -> str:
    """What is wrong with a mask of ``count`` classes, in a phrase; empty where nothing is."""
    beyond = mask[(mask >= count) & (mask != IGNORED)]
    if not beyond.size:
        return ""
    share = 100 * beyond.size / mask.size
    return f"holds class {int(beyond.max())} ({share:.2g} % of its pixels beyond {count - 1}), of {count} classes"
