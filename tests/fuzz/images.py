"""Damaged images of every format: a picture or a ``DataError`` that names the file, nothing else.

Run more of them with ``python -m tests.fuzz.images --count 2000``.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, features

from pocketvit.errors import DataError
from pocketvit.spec.images import read_image
from tests.bad_images import photo
from tests.fuzz.command import command
from tests.fuzz.mutate import mutate


def sources() -> dict[str, bytes]:
    """A sound small file of each format."""
    picture = Image.fromarray(photo(24, 32))
    deep = Image.fromarray(np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 80)
    made = {
        "png": (picture, {"format": "PNG"}),
        "png16": (deep, {"format": "PNG"}),
        "jpeg": (picture, {"format": "JPEG"}),
        "cmyk": (picture.convert("CMYK"), {"format": "JPEG"}),
        "progressive": (picture, {"format": "JPEG", "progressive": True}),
        "tiff": (picture, {"format": "TIFF"}),
        "lzw": (picture, {"format": "TIFF", "compression": "tiff_lzw"}),
        "webp": (picture, {"format": "WEBP"}),
        "gif": (picture, {"format": "GIF"}),
        "bmp": (picture, {"format": "BMP"}),
        "ppm": (picture, {"format": "PPM"}),
    }
    if features.check("avif"):
        made["avif"] = (picture, {"format": "AVIF"})
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        pass
    else:
        register_heif_opener()
        made["heif"] = (picture, {"format": "HEIF"})
    files = {}
    for name, (image, options) in made.items():
        buffer = io.BytesIO()
        image.save(buffer, **options)
        files[name] = buffer.getvalue()
    return files


def attack(count: int, seed: int, folder: Path) -> dict[str, int]:
    """Read ``count`` damaged files; how many were pictures and how many errors. Anything else is raised."""
    files, answers = list(sources().items()), {"picture": 0, "error": 0}
    for index in range(count):
        name, data = files[index % len(files)]
        path = folder / f"{name}.{seed}-{index}.jpg"
        path.write_bytes(mutate(data, np.random.default_rng((seed, index))) or b"\0")
        try:
            pixels = read_image(path)
        except DataError as error:
            if str(path) not in error.what:
                raise AssertionError(f"{path}: {error.what}") from error
            answers["error"] += 1
        else:
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
            assert pixels.dtype == np.uint8
            answers["picture"] += 1
        path.unlink()
    return answers


if __name__ == "__main__":
    command(__doc__, attack, 2000)
