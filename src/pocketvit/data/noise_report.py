"""The noise of each photo and of a folder, for people and as JSON, with what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pocketvit.data.noise_level import NoiseLevel, noise_level
from pocketvit.errors import DataError, MissingDependencyError
from pocketvit.spec.artifact import shipped_names
from pocketvit.spec.images import open_image
from pocketvit.spec.preprocess import Pixels
from pocketvit.terminal import shown

CLEAN, WHITE = 1.5, 0.3
"""Levels up to which there is nothing to remove, and correlations up to which noise is as good as white."""
_SAMPLING = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (1, 2): "4:4:0", (4, 1): "4:1:1"}
# Luminance table of the JPEG standard (ITU-T T.81, Annex K); libjpeg scales it by the quality.
_STANDARD = np.array([
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
])  # fmt: skip
_FOR_WHITE, _FOR_GRAIN = "denoise-color", "denoise-photo"


@dataclass(frozen=True)
class PhotoNoise:
    """What is known of the noise of one photo."""

    noise: NoiseLevel | None
    """None where the photo is too small."""
    jpeg_quality: int | None = None
    """As libjpeg counts it; an estimate from the tables."""
    jpeg_sampling: str = ""
    """``4:2:0`` and the like."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form; ``noise`` is null where the photo is too small."""
        shot = {"shot_share": self.noise.shot_share} if self.noise else {}
        return asdict(self) | {"noise": {**asdict(self.noise), **shot} if self.noise else None}

    @property
    def line(self) -> str:
        """One line for people."""
        jpeg = f"; JPEG quality {self.jpeg_quality}, {self.jpeg_sampling}" if self.jpeg_quality else ""
        n = self.noise
        if n is None:
            return f"too small to tell{jpeg}"
        words = f"noise {n.level:.1f} (luma {n.luma:.1f}, chroma {n.chroma:.1f})"
        if n.level >= 1:
            words += f", {_grain(n)}, {_dependence(n)}"
        return words + ("" if n.sure else "; unsure: few flat places, so texture may be in it") + jpeg


def _grain(n: NoiseLevel) -> str:
    if max(n.luma_lag1, n.chroma_lag1) < WHITE:
        return "white"
    return f"grain of {n.luma_length:.1f} px (chroma {n.chroma_length:.1f} px)"


def _dependence(n: NoiseLevel) -> str:
    if not n.slope_known:
        return "dependence on brightness not known"
    return f"variance {n.read:.3g} {'-' if n.slope < 0 else '+'} {abs(n.slope):.2g} x brightness"


def look_at(path: Path, image: Pixels) -> PhotoNoise:
    """Estimate the noise of a decoded photo, (H, W, 3) uint8, and read how its file was compressed."""
    quality, sampling = jpeg_facts(path)
    return PhotoNoise(noise_level(image), quality, sampling)


def jpeg_facts(path: Path) -> tuple[int | None, str]:
    """Quality (1 to 100, as libjpeg counts) and chroma subsampling of a JPEG; (None, "") for other files."""
    try:
        with open_image(path) as image:
            tables, layers = getattr(image, "quantization", None), getattr(image, "layer", None)
            if image.format not in ("JPEG", "MPO") or not tables or not layers:
                return None, ""
            first, others = layers[0], layers[1:]
            step = (first[1] // others[0][1], first[2] // others[0][2]) if others else (1, 1)
            return _quality(next(iter(tables.values()))), _SAMPLING.get(step, f"{step[0]}x{step[1]}")
    except (DataError, MissingDependencyError):
        return None, ""


def _quality(table: list[int]) -> int:
    """The quality whose scaled standard table has the nearest sum; other encoders have tables of their own."""
    percent = np.arange(1, 101)
    scales = np.where(percent < 50, 5000 // percent, 200 - 2 * percent)
    sums = np.clip((_STANDARD * scales[:, None] + 50) // 100, 1, 255).sum(axis=1)
    return int(percent[np.argmin(np.abs(sums - sum(table)))])


@dataclass(frozen=True)
class FolderNoise:
    """The noise of photos: each, and the median of those that are large enough."""

    photos: dict[str, PhotoNoise]

    @property
    def known(self) -> list[NoiseLevel]:
        """Of the photos that are large enough."""
        return [photo.noise for photo in self.photos.values() if photo.noise]

    def median(self, name: str) -> float:
        """Median of a field of :class:`NoiseLevel`."""
        return float(np.median([getattr(each, name) for each in self.known]))

    @property
    def advice(self) -> str:
        """Which shipped model suits the noise of most photos."""
        if not self.known:
            return ""
        if self.median("level") <= CLEAN:
            return "Hardly any noise: a denoiser has little to do here."
        white = self.median("luma_lag1") < WHITE and self.median("chroma_lag1") < WHITE
        kind = "white noise" if white else "noise with a grain, as cameras and JPEG make it"
        model, others = _FOR_WHITE if white else _FOR_GRAIN, shipped_names()
        if model in others:
            return f"This is {kind}: use {model}."
        return f"This is {kind}; none of the shipped models ({', '.join(others)}) was trained for it."

    def to_dict(self) -> dict[str, Any]:
        """JSON form; ``folder`` is the median photo, null where all are too small."""
        fields = ("level", "luma", "chroma", "luma_lag1", "chroma_lag1", "luma_length", "chroma_length", "slope")
        return {
            "folder": {name: self.median(name) for name in fields} if self.known else None,
            "unsure": [path for path, photo in self.photos.items() if photo.noise and not photo.noise.sure],
            "advice": self.advice,
            "photos": {path: photo.to_dict() for path, photo in self.photos.items()},
        }

    def lines(self, most: int) -> list[str]:
        """The folder, the first photos and the advice."""
        count = len(self.photos)
        lines = [f"noise, as standard deviation on 0 to 255, of {count} photo{'s' if count > 1 else ''}:"]
        lines += [f"  {shown(path)}: {photo.line}" for path, photo in list(self.photos.items())[:most]]
        if count > most:
            lines.append(f"  ... and {count - most} more (--json lists all)")
        if len(self.known) > 1:
            level, luma, chroma = (self.median(name) for name in ("level", "luma", "chroma"))
            lengths = f"{self.median('luma_length'):.1f} px (chroma {self.median('chroma_length'):.1f} px)"
            grain = f", grain of {lengths}" if level >= 1 else ""
            lines.append(f"  median photo: noise {level:.1f} (luma {luma:.1f}, chroma {chroma:.1f}){grain}")
        return [*lines, self.advice] if self.advice else lines
