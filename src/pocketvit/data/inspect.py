"""Looking at one image file: can it be decoded, is it what its name says, and two fingerprints to find duplicates."""

from __future__ import annotations

import hashlib
import threading
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pocketvit.data.noise_report import PhotoNoise, look_at
from pocketvit.errors import DataError, MissingDependencyError
from pocketvit.spec.depth_files import stored_picture
from pocketvit.spec.images import FORMATS, open_image, read_image

# Of the largest images one is decoded at a time, so that memory does not grow with the threads.
_LARGE, _LARGE_PIXELS = threading.Lock(), 25_000_000
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Finding:
    """What one file is."""

    path: Path
    bytes: int
    format: str = ""
    """Pillow's name of the format; empty if it is no image."""
    width: int = 0
    height: int = 0
    rotated: bool = False
    """EXIF asks for a turn or mirroring (readers here follow it; many other tools do not)."""
    frames: int = 1
    sha256: str = ""
    """Of the file."""
    pixels: str = ""
    """Hash of the decoded pixels: equal for copies in another file format without loss."""
    error: str = ""
    """Why it cannot be decoded; empty if it can."""
    noise: PhotoNoise | None = None
    """Where it was asked for and the file can be decoded."""

    @property
    def mislabelled(self) -> bool:
        """The content has another format than the suffix says."""
        return bool(self.format) and self.format not in FORMATS.get(self.path.suffix.lower(), (self.format,))

    @property
    def megapixels(self) -> float:
        """Millions of pixels."""
        return self.width * self.height / 1e6


def inspect_file(path: Path, noise: bool = False, depth: bool = False) -> Finding:
    """Open, hash and fully decode one file, and with ``noise`` estimate its noise; never raises for what is wrong with
    the image itself.

    A ``depth`` map is no photo: its samples are taken as they are, with all their bits, and have no noise.
    """
    try:
        if path.exists() and not path.is_file():
            return Finding(path, 0, error="is no regular file")
        with path.open("rb") as file:
            size, sha256 = path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return Finding(path, 0, error=f"cannot be read ({error.strerror})")
    facts = _header(path)
    large = _LARGE if facts.get("width", 0) * facts.get("height", 0) > _LARGE_PIXELS else nullcontext()
    try:
        with large:
            image = _decoded(path, depth)
            pixels = hashlib.blake2b(repr((image.shape, image.dtype.str)).encode(), digest_size=16)
            pixels.update(image.data)
            seen = look_at(path, image) if noise and image.ndim == 3 else None
    except (DataError, MissingDependencyError) as error:
        reason = error.what.removeprefix(f"{path}").lstrip(": ").rstrip(".")
        return Finding(path, size, sha256=sha256, error=reason, **facts)
    return Finding(path, size, sha256=sha256, pixels=pixels.hexdigest(), noise=seen, **facts)


def _decoded(path: Path, depth: bool) -> NDArray[Any]:
    """(H, W, 3) uint8 of a photo, (H, W) of a depth map; one of 8 bits is a picture, and a damaged one fails as one."""
    if depth:
        with suppress(DataError):
            return stored_picture(path)
    return read_image(path)


def _header(path: Path) -> dict[str, Any]:
    try:
        with open_image(path) as image:
            return {
                "format": image.format or "",
                "width": image.width,
                "height": image.height,
                "rotated": image.getexif().get(_ORIENTATION, 1) not in (0, 1),
                "frames": int(getattr(image, "n_frames", 1)),
            }
    except (DataError, MissingDependencyError):
        return {}  # decoding names the reason
