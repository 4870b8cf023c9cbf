"""An opened PIL image becomes (H, W, 3) uint8 sRGB: sample range, alpha, colour profile and orientation.

It is done in bands of rows, so that the peak is Pillow's picture plus the result, whatever has to be converted.
What is lost on the way (alpha, more than 8 bits, another colour profile) is logged; the command line says each once.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from pocketvit.errors import DataError

log = logging.getLogger("pocketvit.images")

Pixels = NDArray[np.uint8]
_BAND_PIXELS = 1 << 20
_ORIENTATION, _BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _SAMPLE_MAX = 0x0112, 258, 262, 339, 341
_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_TODO = "Save it with 8 or 16 bits a sample (PNG, TIFF)."
# Orientation -> the upright array as the file's rows and columns see it (the tag's definition, turned back).
_AS_STORED: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@dataclass(frozen=True)
class Profile:
    """What to do about a colour profile."""

    name: str
    transform: Any = None
    """LittleCMS transform to sRGB; ``None`` where the profile is sRGB already, or cannot be used."""
    broken: bool = False


def to_pixels(image: Image.Image, name: str) -> Pixels:
    """Decode ``image`` and return it upright as a C-contiguous (H, W, 3) uint8 array, sRGB.

    Raises:
        DataError: samples lie outside the range that the file declares; ``name`` is in the text.
        Exception: whatever Pillow raises for a damaged file.
    """
    deep = image.mode in _DEEP or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    white, inverted = _white(image, name) if image.mode in _DEEP else (255.0, False)
    image.load()
    if deep:
        _note("bits", f"{name}: has more than 8 bits a sample; 8 are kept.")
    data = image.info.get("icc_profile")
    profile = _profile(bytes(data), image.mode) if data else Profile("")
    if profile.broken:
        _note("broken", f"{name}: its colour profile cannot be used; its colours are taken for sRGB.")
    elif profile.transform is not None:
        _note("profile", f"{name}: its colours are converted from {profile.name or 'its profile'} to sRGB.")
    width, height = image.size
    turn = int(image.getexif().get(_ORIENTATION, 1))
    upright = np.empty((width, height, 3) if turn in (5, 6, 7, 8) else (height, width, 3), np.uint8)
    stored = _AS_STORED[turn](upright) if turn in _AS_STORED else upright
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        band = image if rows >= height else image.crop((0, top, width, bottom))
        stored[top:bottom] = _band(band, name, deep, white, inverted, profile)
    return upright


def _band(image: Image.Image, name: str, deep: bool, white: float, inverted: bool, profile: Profile) -> Any:
    key = image.info.get("transparency")
    if image.mode in _DEEP:
        image = _with_key(_to_eight(np.asarray(image), name, white, inverted), np.asarray(image), key)
    elif key is not None and deep and isinstance(key, tuple):  # Pillow reads the upper byte of each 16-bit sample
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if image.mode in _ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:  # type: ignore[operator]
            _note("alpha", f"{name}: transparent parts are shown over white.")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    if profile.transform is not None:
        image = ImageCms.applyTransform(image.convert(profile.transform.input_mode), profile.transform) or image
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _with_key(grey: Image.Image, samples: NDArray[Any], key: Any) -> Image.Image:
    """Grey pixels with those that have the transparent sample ``key`` (tRNS of a 16-bit PNG) made transparent."""
    if not isinstance(key, int):
        return grey
    grey.putalpha(Image.fromarray(np.where(samples == key, 0, 255).astype(np.uint8)))
    return grey


def _white(image: Image.Image, name: str) -> tuple[float, bool]:
    """The sample that is white, and whether that is black instead (WhiteIsZero), from what the file declares."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return 1.0 if image.mode == "F" else 65535.0, False
    bits, kind = _first(tags.get(_BITS), 1), _first(tags.get(_SAMPLE_FORMAT), 1)
    white = 1.0 if image.mode == "F" else float(2 ** (bits - (kind == 2)) - 1)
    if image.mode == "F" or bits > 16:
        white = float(_first(tags.get(_SAMPLE_MAX), white))
        if image.mode != "F" and _SAMPLE_MAX not in tags:
            raise DataError(f"{name}: has {bits}-bit integers and does not say which of them is white.", _TODO)
    return white, tags.get(_PHOTOMETRIC) == 0


def _first(value: Any, otherwise: Any) -> Any:
    return value[0] if isinstance(value, tuple) and value else otherwise if value in (None, ()) else value


def _to_eight(samples: NDArray[Any], name: str, white: float, inverted: bool) -> Image.Image:
    """Samples from 0 to ``white`` as 8-bit grey."""
    low, high = float(samples.min()), float(samples.max())
    if not (np.isfinite(low) and np.isfinite(high) and white > 0):  # NaN makes both NaN
        raise DataError(f"{name}: holds NaN or infinity.", _TODO)
    if low < 0 or high > white:
        raise DataError(
            f"{name}: its samples must lie in [0, {white:.6g}]; they lie in [{low:.3g}, {high:.3g}].", _TODO
        )
    scaled = np.round(samples.astype(np.float64) / (white / 255.0)).astype(np.uint8)
    return Image.fromarray(255 - scaled if inverted else scaled)


@lru_cache(maxsize=32)
def _profile(data: bytes, mode: str) -> Profile:
    """Read a profile; one that changes no colour by more than one level is sRGB and costs nothing."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(data))
        space = source.profile.xcolor_space.strip()
        kind = {"GRAY": "L", "CMYK": "CMYK", "RGB": "RGB"}[space]
        if (kind == "CMYK") != (mode == "CMYK") or (kind == "L") != (mode in ("1", "L", "LA", "La", *_DEEP)):
            kind = "" if kind != "RGB" or mode == "CMYK" else kind
        if not kind:
            return Profile("", broken=True)
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), kind, "RGB")
        transform.input_mode = kind
        probe = _probe().convert(kind)
        changed = np.asarray(ImageCms.applyTransform(probe, transform)).astype(int) - np.asarray(probe.convert("RGB"))
        same = kind != "CMYK" and bool(np.abs(changed).max() <= 1)
        described = " ".join((source.profile.profile_description or "").split())
        return Profile(described[:60], None if same else transform)
    except Exception:  # a damaged profile, or a Pillow without LittleCMS: the pixels are still good
        return Profile("", broken=True)


def _probe() -> Image.Image:
    """A cube of 9 x 9 x 9 colours and all greys."""
    cube = np.stack(np.meshgrid(*[np.linspace(0, 255, 9)] * 3), axis=-1).reshape(-1, 3)
    return Image.fromarray(np.concatenate([cube, np.arange(256)[:, None].repeat(3, 1)])[None].astype(np.uint8))


def _note(once: str, text: str) -> None:
    log.info(text, extra={"once": once})
