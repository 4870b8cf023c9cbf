"""Reading images: any file, PIL image or array becomes one (H, W, 3) uint8 sRGB array, or one clear ``DataError``.

EXIF orientation is honoured, alpha is composited over white, deeper samples are scaled to 8 bit by the range that the
file declares, colours are converted to sRGB, and of an animation the first frame is taken (:mod:`.pixels`).
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError, features

from pocketvit.errors import DataError, MissingDependencyError, PocketvitError
from pocketvit.files import replacing
from pocketvit.spec.pixels import shown_size, to_pixels

FORMATS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((".jpg", ".jpeg"), ("JPEG", "MPO")),
    **dict.fromkeys((".tif", ".tiff"), ("TIFF",)),
    **dict.fromkeys((".ppm", ".pgm"), ("PPM",)),
    **{".png": ("PNG",), ".bmp": ("BMP", "DIB"), ".webp": ("WEBP",), ".gif": ("GIF",)},
    **({".avif": ("AVIF",)} if "avif" in features.get_supported() else {}),
}
"""Suffix -> formats as Pillow calls them that may stand behind it (MPO is what many phones write as .jpg).

Nothing else is decoded: some of Pillow's other formats start external programs.
"""
IMAGE_SUFFIXES = frozenset(FORMATS)
HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
OWN_LIST = "pocketvit-quarantine.txt"
"""The doctor's list of files that readers leave out; it is no photo that somebody misses."""
CLASS_LIST = "classes.txt"
"""Beside photos with masks the names of their classes, which is read and not left out either."""
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
MAX_PIXELS = 200_000_000
"""Images larger than this are refused before they are decoded (a decompression bomb of a few kB can ask for 100 GB)."""
MAX_BYTES = 2 << 30
"""Larger files are refused: no image of ``MAX_PIXELS`` needs them, and some decoders read a file whole."""

_NOWHERE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}
_OPENING = threading.Lock()  # Pillow's pixel limit and the warning filters are global

ImageLike = str | os.PathLike[str] | Image.Image | NDArray[Any]


def read_image(source: ImageLike) -> NDArray[np.uint8]:
    """Return ``source`` as a C-contiguous (H, W, 3) uint8 array, RGB, 0 to 255.

    Args:
        source: a path, a PIL image, or an array of shape (H, W, 3), (H, W, 4), (H, W, 1) or (H, W); uint8, uint16
            (divided by 257) or float in [0, 1].

    Raises:
        DataError: the file is missing, empty, truncated, not an image, or larger than ``MAX_PIXELS``; the array has
            another shape or dtype, is empty or masked, or holds NaN or values outside [0, 1]; ``source`` is something
            else.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _from_pil(source, "the image")
    try:
        return _from_file(Path(os.fsdecode(source)))
    except TypeError as error:
        what = f"a {type(source).__name__} is not an image."
        raise DataError(what, "Give a path, a PIL image or an (H, W, 3) uint8 array.") from error


def _from_file(path: Path) -> NDArray[np.uint8]:
    with open_image(path) as image:
        return _from_pil(image, str(path))


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open a file lazily with Pillow; safe in threads. Whatever fails in the block is a ``DataError`` of this file.

    Raises:
        DataError: no such file, no regular file, empty, not an image of ``FORMATS``, damaged, or too large for memory.
        MissingDependencyError: HEIC without the extra ``heif``.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe may wait for ever
            kind = "is a folder" if stat.S_ISDIR(status.st_mode) else "is a device or pipe"
            raise DataError(f"{path} {kind}, not an image.", "Name an image file.")
        if status.st_size == 0:
            raise DataError(f"{path}: the file is empty (0 bytes).", "Copy it again or leave it out.")
        if status.st_size > MAX_BYTES:
            raise DataError(f"{path}: {status.st_size / 1e9:.1f} GB are too large for an image.", "Leave it out.")
        # By handle and not by name: Pillow maps raw TIFFs that it opens by name, and scrambles turned ones.
        with path.open("rb") as file, _open_quietly(file, str(path)) as image:
            yield image
    except PocketvitError:
        raise
    except Exception as error:  # decoders raise nearly everything for damaged files
        if isinstance(error, OSError) and error.errno in _NOWHERE:
            raise DataError(f"{path}: no such file.", "Check the path.") from error
        raise _undecodable(str(path), error) from error


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of an image file as :func:`read_image` gives it, from its header.

    Raises:
        DataError, MissingDependencyError: as :func:`open_image`.
    """
    with open_image(path) as image:
        return shown_size(image)


@contextmanager
def open_bytes(content: bytes, name: str) -> Iterator[Image.Image]:
    """Open what a file holds as :func:`open_image` opens a file: only its header is read until pixels are asked for.

    Raises:
        DataError: not an image of ``FORMATS``, or damaged; ``name`` says which.
        MissingDependencyError: HEIC without the extra ``heif``.
    """
    try:
        with _open_quietly(io.BytesIO(content), name) as image:
            yield image
    except PocketvitError:
        raise
    except Exception as error:  # decoders raise nearly everything for damaged files
        raise _undecodable(name, error) from error


def _undecodable(name: str, error: Exception) -> DataError:
    text = "too little memory" if isinstance(error, MemoryError) else " ".join(str(error).split())
    reason = "not an image" if isinstance(error, UnidentifiedImageError) else text or type(error).__name__
    todo = "Run `pocketvit doctor` on its folder to list damaged files."
    return DataError(f"{name}: cannot be decoded ({reason}).", todo)


def _open_quietly(file: Any, name: str) -> Image.Image:
    """Open without Pillow's own pixel limit (ours gives a better message) and without its warnings."""
    head = file.read(64)
    file.seek(0)
    formats = sorted({kind for kinds in FORMATS.values() for kind in kinds} - {"MPO"})  # JPEG's reader opens it
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and b"avif" not in head[8:]:
        formats.append(_heif(name))
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(file, formats=formats)
            if (place := head.find(b"cICP")) > 0:  # a chunk that Pillow passes over
                image.info["cicp"] = tuple(head[place + 4 : place + 6])
            return image
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _heif(name: str) -> str:
    """Teach Pillow to read HEIC; the name that the format has there."""
    try:
        import pillow_heif  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        missing = MissingDependencyError.of("pillow-heif", "heif")
        raise MissingDependencyError(f"{name}: is a HEIC photo, and {missing.what}", missing.todo) from error
    pillow_heif.register_heif_opener()
    return "HEIF"


def _from_pil(image: Image.Image, name: str) -> NDArray[np.uint8]:
    width, height = image.size
    if width * height > MAX_PIXELS:
        what = f"{name}: {width}x{height} are {width * height / 1e6:.0f} megapixels, above {MAX_PIXELS // 1_000_000}."
        raise DataError(what, "Cut it into parts first.")
    if width == 0 or height == 0:
        raise DataError(f"{name}: the image has no pixels ({width}x{height}).", "Leave it out.")
    try:
        return to_pixels(image, name)
    except PocketvitError:
        raise
    except Exception as error:
        raise _undecodable(name, error) from error


def _from_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    todo = "Give an (H, W, 3) uint8 array, RGB, 0 to 255."
    if np.ma.is_masked(array):
        raise DataError("an array with masked values is not an image.", todo)
    array = np.asarray(array)  # matrices and the like have rules of their own
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise DataError(f"an array of shape {array.shape} is not an image.", todo)
    if array.dtype == np.uint8:
        pixels = array
    elif array.dtype in (np.dtype("<u2"), np.dtype(">u2")):
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


def digest_of(image: NDArray[np.uint8]) -> str:
    """SHA-256 in hex of shape and values of an (H, W, 3) uint8 array: the same for a photo in whatever file it lies."""
    return hashlib.sha256(str(image.shape).encode() + image.tobytes()).hexdigest()


def write_image(path: Path, image: NDArray[np.uint8], *, overwrite: bool = True) -> None:
    """Write an (H, W, 3) uint8 sRGB array (PNG says so, elsewhere it is understood); the suffix names the format.

    A failed write leaves no half file.

    Without ``overwrite`` a file that is there already is left alone.

    Raises:
        DataError: an unknown suffix, a folder that cannot be made or written, a file that is there already, or a
            picture that is larger than the format holds.
    """
    options: dict[str, Any] = {"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg", ".webp") else {}
    if path.suffix.lower() == ".png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add(b"sRGB", b"\0")
    try:
        with replacing(path, overwrite=overwrite) as partial:
            Image.fromarray(image).save(partial, **options)
    except (PocketvitError, MemoryError):
        raise
    except Exception as error:  # encoders raise as many kinds of errors as decoders
        height, width = image.shape[:2]
        what = f"{path}: {width}x{height} pixels cannot be written ({' '.join(str(error).split())})."
        raise DataError(what, "Check the suffix: PNG and TIFF hold pictures of any size.") from error


def readable_suffixes() -> frozenset[str]:
    """Suffixes that this installation decodes: HEIC with the extra ``heif`` only."""
    try:
        import pillow_heif  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except ImportError:  # also where it is installed and cannot be loaded
        return IMAGE_SUFFIXES
    return IMAGE_SUFFIXES | HEIF_SUFFIXES


def list_images(folder: Path) -> list[Path]:
    """All image files below ``folder`` by suffix, sorted; hidden files and folders are skipped, links are followed.

    Raises:
        DataError: the folder is missing or holds no image.
    """
    if not os.path.isdir(folder):
        raise DataError(f"{folder}: no such folder.", "Check the path.")
    files, suffixes = _files(folder), readable_suffixes()
    images = sorted(path for path in files if path.suffix.lower() in suffixes and path.is_file())
    if not images:
        what = " ".join([f"{folder}: holds no image files.", *not_looked_at(files)])
        raise DataError(what, f"Known suffixes: {', '.join(sorted(suffixes))}.")
    return images


def folders_below(folder: Path) -> list[Path]:
    """``folder`` and the folders below it that are not hidden; linked ones too, but none twice (links may be loops)."""
    found, seen, links = list[Path](), set[Path](), [folder]
    while links:  # folders keep the name that they have without links, if they have one
        for name, inner, _ in os.walk(links.pop(0)):
            here = Path(name)
            real = here.resolve()
            if real in seen:
                inner.clear()
                continue
            seen.add(real)
            found.append(here)
            visible = sorted(each for each in inner if not each.startswith("."))
            links += [here / each for each in visible if (here / each).is_symlink()]
            inner[:] = [each for each in visible if not (here / each).is_symlink()]
    return found


def _files(folder: Path) -> list[Path]:
    entries = (path for inside in folders_below(folder) for path in _listed(inside))
    return [path for path in entries if not path.name.startswith(".") and not path.is_dir()]


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def not_looked_at(source: Path | Sequence[Path]) -> list[str]:
    """One line that counts by type the files of a folder (or among ``source``) that are no images; or none."""
    suffixes = readable_suffixes()
    files = _files(source) if isinstance(source, Path) else source
    others = Counter(
        path.suffix.lower() or "without suffix"
        for path in files
        if path.name not in (OWN_LIST, CLASS_LIST)
        and (path.suffix.lower() not in suffixes or not path.is_file())  # pipes, dead links
    )
    if not others:
        return []
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items(), key=lambda each: (-each[1], each[0])))
    count = others.total()
    line = f"{count} {'file was' if count == 1 else 'files were'} not looked at: {kinds}"
    if HEIF_SUFFIXES & others.keys():
        line += f" ({MissingDependencyError.of('pillow-heif', 'heif').todo.removeprefix('Run: ')})"
    return [line]
