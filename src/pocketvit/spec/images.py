"""Reading images: any file, PIL image or array becomes one (H, W, 3) uint8 sRGB array, or one clear ``DataError``.

EXIF orientation is honoured, alpha is composited over white, 16-bit grey is scaled to 8 bit, CMYK is converted, and of
an animation the first frame is taken. Colour profiles are not applied: cameras and phones write sRGB or close to it.
"""

from __future__ import annotations

import os
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pocketvit.errors import DataError, within_memory
from pocketvit.files import replacing

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
MAX_PIXELS = 200_000_000
"""Images larger than this are refused before they are decoded (a decompression bomb of a few kB can ask for 100 GB)."""

_BAND = 1 << 20  # pixels converted at once: whole copies of a large photo, in wider types, are many times its size
_OPENING = threading.Lock()  # Pillow's pixel limit and the warning filters are global

ImageLike = str | os.PathLike[str] | Image.Image | NDArray[Any]


def read_image(source: ImageLike) -> NDArray[np.uint8]:
    """Return ``source`` as a C-contiguous (H, W, 3) uint8 array, RGB, 0 to 255.

    Args:
        source: a path, a PIL image, or an array of shape (H, W, 3), (H, W, 4), (H, W, 1) or (H, W); uint8, uint16
            (divided by 257) or float in [0, 1].

    Raises:
        DataError: the file is missing, empty, truncated, not an image, or larger than ``MAX_PIXELS``; the array has
            another shape or dtype, is empty, or holds NaN or values outside [0, 1].
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _from_pil(source, "the image")
    return _from_file(Path(source))


def _from_file(path: Path) -> NDArray[np.uint8]:
    if not path.exists():
        raise DataError(f"{path}: no such file.", "Check the path.")
    if path.is_dir():
        raise DataError(f"{path} is a folder, not an image.", "Name an image file.")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes).", "Copy it again or leave it out.")
    try:
        with within_memory(str(path)), open_image(path) as image:
            return _from_pil(image, str(path), own=True)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
        what = f"{path}: cannot be decoded ({reason})."
        raise DataError(what, "Run `pocketvit doctor` on its folder to list damaged files.") from error


def open_image(path: Path) -> Image.Image:
    """Open a file lazily with Pillow, without Pillow's own pixel limit (ours gives a better message); safe in threads.

    Raises:
        OSError, ValueError, SyntaxError: Pillow's errors for files that are not images.
    """
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _from_pil(image: Image.Image, name: str, own: bool = False) -> NDArray[np.uint8]:
    """Only an image of our ``own`` may be changed: another one is copied."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        what = f"{name}: {width}x{height} are {width * height / 1e6:.0f} megapixels, above {MAX_PIXELS // 1_000_000}."
        raise DataError(what, "Cut it into parts first.")
    if width == 0 or height == 0:
        raise DataError(f"{name}: the image has no pixels ({width}x{height}).", "Leave it out.")
    image.load()
    image = (ImageOps.exif_transpose(image, in_place=True) or image) if own else ImageOps.exif_transpose(image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    step = max(1, _BAND // image.width)
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        whole = bottom - top == image.height
        pixels[top:bottom] = _to_rgb(image if whole else image.crop((0, top, image.width, bottom)))
    return pixels


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Each pixel by itself, so that an image can be converted in bands; the array may be read-only."""
    if image.mode in ("I", "I;16", "I;16L", "I;16B", "I;16N"):
        grey = np.asarray(image).astype(np.float64)[:, :, None] / 257.0
        return np.clip(np.round(grey), 0, 255).astype(np.uint8).repeat(3, axis=2)
    if image.mode == "F":
        return _from_array(np.asarray(image))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _from_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    todo = "Give an (H, W, 3) uint8 array, RGB, 0 to 255."
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise DataError(f"an array of shape {array.shape} is not an image.", todo)
    if array.dtype == np.uint8:
        pixels = array
    elif array.dtype == np.uint16:
        pixels = np.round(array / 257.0).astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise DataError("the array holds NaN or infinity.", todo)
        if array.min() < 0 or array.max() > 1:
            what = f"a float image must lie in [0, 1]; this one lies in [{array.min():.3g}, {array.max():.3g}]."
            raise DataError(what, todo)
        pixels = np.round(array * 255.0).astype(np.uint8)
    else:
        raise DataError(f"an array of dtype {array.dtype} is not an image.", todo)
    if pixels.shape[2] == 1:
        return pixels.repeat(3, axis=2)
    if pixels.shape[2] == 4:
        return _from_pil(Image.fromarray(np.ascontiguousarray(pixels), "RGBA"), "the array")
    return np.ascontiguousarray(pixels)


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an (H, W, 3) uint8 array; the suffix names the format. A failed write leaves no half file.

    Raises:
        DataError: an unknown suffix, or a folder that cannot be made or written.
    """
    options: dict[str, Any] = {"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg", ".webp") else {}
    try:
        with replacing(path) as partial:
            Image.fromarray(image).save(partial, **options)
    except ValueError as error:
        raise DataError(f"{path}: cannot be written ({error}).", "Check the suffix.") from error


def list_images(folder: Path) -> list[Path]:
    """All image files below ``folder`` by suffix, sorted; hidden files and folders are skipped.

    Raises:
        DataError: the folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder.", "Check the path.")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise DataError(f"{folder}: holds no image files.", f"Known suffixes: {', '.join(sorted(IMAGE_SUFFIXES))}.")
    return files
