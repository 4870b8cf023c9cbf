"""An opened PIL image becomes (H, W, 3) uint8 sRGB: sample range, alpha, colour profile and orientation.

It is done in bands of rows, so that the peak is Pillow's picture plus the result, whatever has to be converted.
What is lost on the way (alpha, more than 8 bits, another colour profile) is logged; the command line says each once.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from contextlib import suppress
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
_ORIENTATION, _BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _SAMPLE_MAX, _OLD_MAX = 0x0112, 258, 262, 339, 341, 281
_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_TODO = "Save it with 8 or 16 bits a sample (PNG, TIFF)."
_TODO_MADE = "Give an array of uint8 or uint16 instead."
_INTEROP = 0xA005
_SRGB_CODES, _SRGB_GAMMA, _NEAR = (1, 13), 0.45455, 0.02
_SRGB_PRIMARIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
"""x and y of white, red, green and blue."""
_ON_ITS_SIDE = (5, 6, 7, 8)
"""Orientations whose height and width change places."""
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
    raw = [str(tile[3]) for tile in getattr(image, "tile", ())]  # how the file has its samples; gone when decoded
    deep = image.mode in _DEEP or any(";16" in layout for layout in raw)
    white, inverted = _white(image, name) if image.mode in _DEEP else (255.0, False)
    _check_unsigned(image, name)
    _load(image)
    key = _key(image, raw)
    if deep:
        _note("bits", f"{name}: has more than 8 bits a sample; 8 are kept.")
    data = image.info.get("icc_profile")
    profile = _profile(bytes(data), image.mode) if data else Profile("")
    if profile.broken:
        _note("broken", f"{name}: its colour profile cannot be used; its colours are taken for sRGB.")
    elif profile.transform is not None:
        _note("profile", f"{name}: its colours are converted from {profile.name or 'its profile'} to sRGB.")
    elif not data and (stated := _stated_colours(image)):
        _note("stated", f"{name}: says that its colours are {stated}, without a profile; they are taken for sRGB.")
    width, height = image.size
    turn = _turn(image)
    upright = np.empty((width, height, 3) if turn in _ON_ITS_SIDE else (height, width, 3), np.uint8)
    stored = _AS_STORED[turn](upright) if turn in _AS_STORED else upright
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        band = image if rows >= height else image.crop((0, top, width, bottom))
        stored[top:bottom] = _band(band, name, key, white, inverted, profile)
    with suppress(Exception):  # later frames may be damaged; of MPO, which phones write, they are small copies
        if image.format != "MPO" and getattr(image, "is_animated", False):
            _note("frames", f"{name}: has several frames; the first is taken.")
    return upright


def _load(image: Image.Image) -> None:
    """Decode; raw TIFFs that somebody opened by name Pillow would map, and scramble turned ones."""
    name = getattr(image, "filename", None)
    if name:
        vars(image)["filename"] = ""
    try:
        image.load()
    finally:
        if name:
            vars(image)["filename"] = name


def _turn(image: Image.Image) -> int:
    """The orientation that EXIF or XMP asks for; damaged EXIF asks for none, since the picture is sound."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Height and width of an opened image as :func:`to_pixels` turns it, without decoding it."""
    width, height = image.size
    return (width, height) if _turn(image) in _ON_ITS_SIDE else (height, width)


def _check_unsigned(image: Image.Image, name: str) -> None:
    """Raise ``DataError`` for signed bytes, which Pillow takes for unsigned ones: -1 would be white."""
    tags = getattr(image, "tag_v2", {})
    if image.mode not in _DEEP and _first(tags.get(_SAMPLE_FORMAT), 1) == 2:
        raise DataError(f"{name}: has signed samples of {_first(tags.get(_BITS), 8)} bits.", _TODO)


def _key(image: Image.Image, raw: list[str]) -> Any:
    """The transparent sample or colour, if there is one (tRNS of PNG), in the samples that Pillow has made."""
    key = image.info.get("transparency")
    if isinstance(key, int):  # grey of 2 and 4 bits is stretched to 8
        return key * next((step for bits, step in (("L;2", 85), ("L;4", 17)) if bits in raw), 1)
    if isinstance(key, tuple) and any(";16" in layout for layout in raw):  # of each sample the upper byte is read
        return tuple(value >> 8 for value in key)
    return key


def _stated_colours(image: Image.Image) -> str:
    """Colours other than sRGB that a file states without a profile: PNG's chunks, and Adobe RGB of cameras."""
    info, said = image.info, []
    if info.get("cicp", _SRGB_CODES) != _SRGB_CODES:
        said.append("of code points {}-{}".format(*info["cicp"]))
    elif image.format == "PNG" and "srgb" not in info:
        if abs(info.get("gamma", _SRGB_GAMMA) - _SRGB_GAMMA) > _NEAR:
            said.append(f"of gamma {1 / max(info['gamma'], 1e-5):.3g}")
        if not np.allclose(info.get("chromaticity", _SRGB_PRIMARIES), _SRGB_PRIMARIES, atol=_NEAR):
            said.append("of other primaries")
    with suppress(Exception):  # damaged EXIF says nothing
        if str(image.getexif().get_ifd(_INTEROP).get(1, "")).startswith("R03"):
            said.append("Adobe RGB")
    return " and ".join(said)


def _band(image: Image.Image, name: str, key: Any, white: float, inverted: bool, profile: Profile) -> Any:
    if image.mode in _DEEP:
        image = _with_key(_to_eight(np.asarray(image), name, white, inverted), np.asarray(image), key)
    elif key != image.info.get("transparency"):
        image = image.copy()
        image.info["transparency"] = key
    if image.mode == "La":  # Pillow converts it to nothing else
        image = image.convert("LA")
    if image.mode in _ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:  # type: ignore[operator]
            _note("alpha", f"{name}: transparent parts are shown over white.")
        if profile.transform is not None:  # before white comes in, whose sRGB is known
            alpha, image = image.getchannel("A"), _to_srgb(image.convert("RGB"), profile)
            image.putalpha(alpha)
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    elif profile.transform is not None:
        image = _to_srgb(image, profile)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _to_srgb(image: Image.Image, profile: Profile) -> Image.Image:
    return ImageCms.applyTransform(image.convert(profile.transform.input_mode), profile.transform) or image


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
        if image.mode == "I" and image.format is None:  # of files Pillow makes it 16 bits
            raise DataError(f"{name}: has 32-bit integers that do not say which of them is white.", _TODO_MADE)
        return 1.0 if image.mode == "F" else 65535.0, False
    bits, kind = _first(tags.get(_BITS), 1), _first(tags.get(_SAMPLE_FORMAT), 1)
    white = 1.0 if image.mode == "F" else float(2 ** (bits - (kind == 2)) - 1)
    if image.mode == "F" or bits > 16:
        white = float(_first(tags.get(_SAMPLE_MAX), white))
        if image.mode != "F" and _SAMPLE_MAX not in tags:
            raise DataError(f"{name}: has {bits}-bit integers and does not say which of them is white.", _TODO)
    else:  # 12 bits in 16; other maxima are of this picture, and no reason to make it brighter
        declared = {_first(tags.get(tag), 0) for tag in (_SAMPLE_MAX, _OLD_MAX)}
        white = float(min(declared & {2**n - 1 for n in range(8, bits)}, default=white))
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
