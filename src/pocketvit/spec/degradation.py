"""How clean photos are made worse for training: the ranges of each kind of noise and of blur, sections of ``data``.

Pairs of numbers are ranges that a value is drawn from, for each sample anew; shares are probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pocketvit.errors import UsageError
from pocketvit.spec.typed import Range, check_ordered, check_ranges

_SHARE, _COUNT = Range(0, 1), Range(0, 1e6)
_CAMERA = {
    **{"shot": Range(1e-6, 0.5), "red_gain": Range(0.5, 8), "blue_gain": Range(0.5, 8), "exposure": Range(0.1, 4)},
    **dict.fromkeys(("malvar", "smooth", "rescale", "sharpen", "sharpen_truth", "jpeg", "subsampling"), _SHARE),
    **{"smooth_luma": Range(0, 4), "smooth_color": Range(0, 8), "rescale_by": Range(0.25, 4), "reduce": Range(1, 8)},
    **{"sharpen_by": Range(0, 4), "quality": Range(1, 100)},
}
_CORRELATED = {
    **{"sigma": Range(0.1, 255), "luma": Range(0, 4), "color": Range(0, 8)},
    **dict.fromkeys(("signal", "rescale", "sharpen", "jpeg"), _SHARE),
}
_BLUR = {
    **{"probability": _SHARE, "shake": _COUNT, "defocus": _COUNT, "shake_size": Range(1, 127)},
    **{"anxiety": Range(0, 0.1), "defocus_size": Range(0, 127), "defocus_edge": Range(0.5, 32), "gamma": Range(1, 4)},
}


def _check(section: str, settings: object, ranges: Mapping[str, Range]) -> None:
    check_ranges(section, settings, ranges)
    check_ordered(section, settings, (name for name, value in vars(settings).items() if isinstance(value, tuple)))


def _shares(weights: dict[str, float]) -> dict[str, float]:
    found = sorted(((kind, weight) for kind, weight in weights.items() if weight > 0), key=lambda entry: -entry[1])
    return {kind: weight / sum(weights.values()) for kind, weight in found}


@dataclass(frozen=True)
class CameraConfig:
    """Noise that arises on a sensor and goes through a camera's processing (:func:`pocketvit.data.camera.develop`)."""

    shot: tuple[float, float] = (1.5e-3, 0.03)
    """Variance of the noise per unit of linear signal, drawn log-uniformly; the read noise follows from it."""
    red_gain: tuple[float, float] = (1.2, 2.4)
    """White balance: the factor of red over green."""
    blue_gain: tuple[float, float] = (1.2, 2.0)
    """White balance: the factor of blue over green."""
    exposure: tuple[float, float] = (0.8, 1.25)
    """Factor of the linear picture."""
    malvar: float = 0.5
    """Share of photos demosaicked by gradient-corrected interpolation; the others are bilinear."""
    smooth: float = 0.8
    """Share of photos whose noise the camera has smoothed, colour more than light."""
    smooth_luma: tuple[float, float] = (0.0, 1.1)
    """Deviation of that smoothing (Gaussian) of light, in pixels."""
    smooth_color: tuple[float, float] = (0.0, 4.0)
    """Deviation of that smoothing of colour, in pixels."""
    rescale: float = 0.85
    """Share of photos that are rescaled before noise arises: real photos are softer at one pixel than small ones."""
    rescale_by: tuple[float, float] = (0.5, 1.3)
    """Factor of that rescaling."""
    reduce: tuple[int, int] = (2, 4)
    """A photo that is rescaled is first reduced so many times (averages of squares), which takes away its own grain and
    what its JPEG file has left, and then enlarged to the size that ``rescale_by`` gives."""
    sharpen: float = 0.3
    """Share of photos that are sharpened after noise has arisen (unsharp mask)."""
    sharpen_truth: float = 1.0
    """Share of those whose truth and noise are sharpened too; else the edges of the photo alone are, and its halos are
    to be taken back with the noise: what a mean of many shots holds is softer than one shot."""
    sharpen_by: tuple[float, float] = (0.2, 1.0)
    """Amount of that sharpening."""
    jpeg: float = 0.6
    """Share of photos that are written as JPEG at last; the truth is not."""
    quality: tuple[int, int] = (60, 100)
    """Quality of those JPEG files."""
    subsampling: float = 0.5
    """Share of those JPEG files with colour at half resolution (4:2:0); the others have it whole (4:4:4)."""

    def __post_init__(self) -> None:
        _check("data.camera", self, _CAMERA)


@dataclass(frozen=True)
class CorrelatedConfig:
    """Gaussian noise that is smoothed, so that neighbouring pixels share it."""

    sigma: tuple[float, float] = (4.0, 20.0)
    """Deviation after smoothing, on the 0..255 scale, drawn log-uniformly."""
    luma: tuple[float, float] = (0.0, 1.1)
    """Deviation of the smoothing of light (Gaussian), in pixels."""
    color: tuple[float, float] = (0.0, 4.0)
    """Deviation of the smoothing of colour, in pixels."""
    signal: float = 0.5
    """Share of photos whose noise depends on the signal: a random power of it, -0.5 to 0.5."""
    rescale: float = 0.85
    """As ``data.camera.rescale``; its other fields hold here too."""
    sharpen: float = 0.3
    jpeg: float = 0.6

    def __post_init__(self) -> None:
        _check("data.correlated", self, _CORRELATED)


@dataclass(frozen=True)
class MixtureConfig:
    """Weights of the kinds of noise among the samples (``data.noise: mixture``)."""

    camera: float = 0.5
    correlated: float = 0.35
    gaussian: float = 0.15
    poisson: float = 0.0
    none: float = 0.0
    """Photos as they are, to be left alone."""

    def __post_init__(self) -> None:
        check_ranges("data.mixture", self, dict.fromkeys(asdict(self), _COUNT))
        if not any(asdict(self).values()):
            raise UsageError("data.mixture gives no kind of noise a weight.", "Give one of them a weight above 0.")

    def shares(self) -> dict[str, float]:
        """Kinds of a weight above 0, the heaviest first, with weights that sum to 1."""
        return _shares(asdict(self))


@dataclass(frozen=True)
class BlurConfig:
    """Blur of clean photos, before any noise (:mod:`pocketvit.data.blur`)."""

    probability: float = 0.0
    """Share of photos that are blurred; 0 blurs none."""
    shake: float = 0.7
    """Weight of camera shake among the blurred photos."""
    defocus: float = 0.3
    """Weight of defocus among the blurred photos."""
    shake_size: tuple[float, float] = (3.0, 25.0)
    """Width of the kernels of camera shake, in pixels."""
    anxiety: tuple[float, float] = (0.0, 0.005)
    """How restless the hand is: 0 moves in a straight line."""
    defocus_size: tuple[float, float] = (2.0, 9.0)
    """Diameter of the discs of defocus, in pixels."""
    defocus_edge: tuple[float, float] = (1.0, 2.0)
    """Width of the soft edge of those discs, in pixels."""
    gamma: float = 2.2
    """Blur is of light, before a camera's tone curve: of pixels to this power. 1 blurs the pixels as they are."""

    def __post_init__(self) -> None:
        _check("data.blur", self, _BLUR)
        if not self.shake + self.defocus:
            raise UsageError("data.blur gives no kind of blur a weight.", "Give one of them a weight above 0.")

    def shares(self) -> dict[str, float]:
        """Kinds of a weight above 0, the heaviest first, with weights that sum to 1."""
        return _shares({"shake": self.shake, "defocus": self.defocus})
