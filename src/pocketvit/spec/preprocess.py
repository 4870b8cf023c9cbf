"""Preprocessing as data, executed by one function everywhere: training, calibration, prediction, benchmarks, serving.

Colour order, mean and standard deviation are baked into the exported graph, which takes pixels; they are listed here
because they are part of what the model was trained with, and ``verify`` holds the manifest against them.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocketvit.errors import DataError, UsageError
from pocketvit.spec.typed import Range, check_ranges

Pixels = NDArray[np.uint8]
MAX_GROWTH = 32
"""A photo that is resized to more than this many times the model's input is cut first."""
PIXELS = "pixels"
"""Name of the one input of every model file: (1, H, W, 3) uint8 RGB."""

_RANGES = {
    **{"size": Range(1, 8192), "crop_pct": Range(0.05, 1), "overlap": Range(0, 4096), "multiple": Range(0, 256)},
    **{"mean": Range(-1000, 1000), "std": Range(0, 1000, above=True)},
}
MAX_AREA = 4096 * 4096
"""Pixels of a model's input: far above any model, and still memory that a machine has."""


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the model's input.

    ``resize``: ``crop`` scales the short side to ``size / crop_pct`` and cuts the centre (timm's evaluation transform);
    ``stretch`` scales both sides to ``size``; ``tile`` keeps the resolution: the image is covered with such tiles, or
    where ``multiple`` is given runs whole, and in larger tiles only where it takes too much memory.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"use_attribute_docstrings": True}  # for the manifest's schema

    size: tuple[int, int] = (224, 224)
    """Height and width of the model's input in pixels."""
    resize: Literal["crop", "stretch", "tile"] = "crop"
    """``crop`` scales the short side and cuts the centre, ``stretch`` scales both sides, ``tile`` keeps the size."""
    crop_pct: float = 0.9
    """Share of the resized short side that the centre crop keeps (``crop`` only).

    The scale is the larger one of floor(size / crop_pct) / (the photo's height or width), each side is multiplied by it
    and rounded down, but never below ``size``, and the crop begins at half of what is too much, rounded half to even.
    """
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    """Filter, always antialiased when shrinking (Pillow's definition)."""
    overlap: int = 0
    """Pixels shared by neighbouring tiles (``tile`` only)."""
    multiple: int = 0
    """Above 0 the files take an image of any height and width, which they pad inside to multiples of this; 0 means that
    they take ``size`` alone. The architecture says which (``tile`` only)."""
    color: Literal["RGB", "BGR"] = "RGB"
    """Channel order that the model itself sees; the exported graph always takes RGB."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Subtracted per channel after scaling to [0, 1]. It is in the graph: not to be subtracted again."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Divisor per channel. It is in the graph: not to be divided by again."""

    def __post_init__(self) -> None:
        check_ranges("preprocess", self, _RANGES)
        if math.prod(self.size) > MAX_AREA:
            raise UsageError(f"preprocess.size {self.size} is too large.", f"Take at most {MAX_AREA} pixels in all.")
        if self.resize == "tile" and not 0 <= 2 * self.overlap <= min(self.size):
            what = f"preprocess.overlap {self.overlap} must be at most half of the tile {self.size}."
            raise UsageError(what, "Take 16.")

    @property
    def input_shape(self) -> list[int]:
        """Of the model files' input: (1, H, W, 3), -1 where a size is free."""
        return [1, -1, -1, 3] if self.multiple else [1, *self.size, 3]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    def digest(self) -> str:
        """SHA-256 of the canonical JSON form."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def resize(
    image: Pixels,
    size: tuple[int, int],
    interpolation: str = "bicubic",
    box: tuple[float, float, float, float] | None = None,
) -> Pixels:
    """Resize (H, W, 3) uint8 to ``size`` (height, width), antialiased; ``box`` (left, top, right, bottom) is cut."""
    height, width = size
    if box is None and image.shape[:2] == (height, width):
        return image
    kind = Image.Resampling[interpolation.upper()]
    return np.asarray(Image.fromarray(image).resize((width, height), kind, box=box))


def nearest(
    values: NDArray[Any], size: tuple[int, int], box: tuple[float, float, float, float] = (0, 0, 1, 1)
) -> NDArray[Any]:
    """A map (H, W, ...) at ``size`` (height, width) without mixing its values: that of the pixel under each centre.

    ``box`` is (left, top, right, bottom) in shares of width and height.
    """
    rows, columns = (
        np.clip((low + (np.arange(n) + 0.5) / n * (high - low)) * side, 0, side - 1).astype(np.int64)
        for n, side, low, high in zip(size, values.shape, (box[1], box[0]), (box[3], box[2]), strict=False)
    )
    found: NDArray[Any] = values[rows[:, None], columns]
    return found


def prepare(image: Pixels, spec: Preprocess) -> Pixels:
    """Return the (size, 3) uint8 input of a fixed-size model for an RGB image of shape (H, W, 3).

    Raises:
        DataError: the array is not (H, W, 3) uint8.
        UsageError: ``spec`` tiles; use :mod:`pocketvit.spec.tiles`.
    """
    check_pixels(image)
    if spec.resize == "tile":
        raise UsageError("a tiled preprocessing has no single input.", "Use pocketvit.spec.tiles.run_tiled.")
    if spec.resize == "stretch":
        return resize(image, spec.size, spec.interpolation)
    height, width = image.shape[:2]
    target_h, target_w = spec.size
    # The same integers as torchvision's Resize (floor) and CenterCrop (round), which timm uses.
    scale = max(np.floor(target_h / spec.crop_pct) / height, np.floor(target_w / spec.crop_pct) / width)
    resized_h, resized_w = max(target_h, int(height * scale + 1e-6)), max(target_w, int(width * scale + 1e-6))
    top, left = round((resized_h - target_h) / 2.0), round((resized_w - target_w) / 2.0)
    if resized_h * resized_w > MAX_GROWTH * target_h * target_w:
        return _resize_part(image, (resized_h, resized_w), (top, left), spec)
    image = resize(image, (resized_h, resized_w), spec.interpolation)
    return np.ascontiguousarray(image[top : top + target_h, left : left + target_w])


def _resize_part(image: Pixels, whole: tuple[int, int], start: tuple[int, int], spec: Preprocess) -> Pixels:
    """What ``prepare`` would cut of the image resized to ``whole`` at ``start``, at no more cost than that part.

    A line of pixels would become gigabytes, of which a corner is kept. Pillow rounds the box to float32, which is why
    ordinary photos do not go this way, some of their values would differ by a level or two, and why the array is cut
    to the surroundings of the box before: far from zero float32 has no fractions.
    """
    cut, box = [], []
    for side, full, first, size in zip(image.shape, whole, start, spec.size, strict=False):
        scale = side / full
        # The widest filter reaches three pixels, of the smaller picture where it shrinks; one more for rounding.
        reach = math.ceil(3 * max(scale, 1)) + 1
        low, high = max(0, math.floor(first * scale) - reach), min(side, math.ceil((first + size) * scale) + reach)
        cut.append(slice(low, high))
        box.append((first * scale - low, min((first + size) * scale, side) - low))
    (upper, lower), (left, right) = box
    return resize(image[cut[0], cut[1]], spec.size, spec.interpolation, (left, upper, right, lower))


def check_pixels(image: NDArray[Any]) -> None:
    """Raise ``DataError`` unless ``image`` is (H, W, 3) uint8 with at least one pixel."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        what = f"expected (H, W, 3) uint8 pixels, got {image.dtype} {image.shape}."
        raise DataError(what, "Read the image with pocketvit.spec.images.read_image.")
