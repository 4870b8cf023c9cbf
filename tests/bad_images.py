"""Every image of the bad-input list, written into a folder for tests of doctor, predict, train and read_image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

UNREADABLE = ("truncated", "text", "zero_byte")
"""Files that no reader can decode: each must give a DataError (exit 3)."""
READABLE = ("mislabelled", "one_pixel", "huge", "cmyk", "grey16", "grey", "alpha", "exif_rotated", "animated")
"""Files that look odd but are images: each must give a correct result."""


def photo(height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    """A smooth (height, width, 3) uint8 picture with some texture; every seed gives another one."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [np.sin(x / rng.uniform(5, 20) + y / rng.uniform(5, 20) + rng.uniform(0, 6)) for _ in range(3)]
    values = 128 + 80 * np.stack(waves, axis=2) + rng.normal(0, 4, (height, width, 3))
    return np.clip(values, 0, 255).astype(np.uint8)


def write_bad_images(folder: Path, huge: bool = True) -> dict[str, Path]:
    """Write the files into ``folder`` (made if absent) and return them by name.

    Names: those of ``UNREADABLE`` and ``READABLE``, and ``empty_folder``. ``huge`` is a 100-megapixel PNG of 32 kB that
    takes a few seconds to decode; ``huge=False`` leaves it out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(photo())
    files = {name: folder / file for name, file in _FILES.items() if huge or name != "huge"}
    picture.save(files["truncated"], quality=95)
    files["truncated"].write_bytes(files["truncated"].read_bytes()[: files["truncated"].stat().st_size // 2])
    picture.save(files["mislabelled"], format="PNG")
    files["text"].write_text("<html><body>404 Not Found</body></html>\n")
    files["zero_byte"].write_bytes(b"")
    Image.new("RGB", (1, 1), (200, 100, 50)).save(files["one_pixel"])
    if huge:
        Image.new("1", (10_000, 10_000), 1).save(files["huge"])
    picture.convert("CMYK").save(files["cmyk"])
    Image.fromarray((np.arange(96 * 128, dtype=np.uint16) * 5).reshape(96, 128)).save(files["grey16"])
    picture.convert("L").save(files["grey"])
    alpha = picture.convert("RGBA")
    alpha.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 128).astype(np.uint8), (96, 1))))
    alpha.save(files["alpha"])
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees: shown upright the image is 96 wide and 128 high
    picture.save(files["exif_rotated"], exif=exif, quality=95)
    frames = [Image.fromarray(photo(seed=seed)) for seed in (1, 2, 3)]
    frames[0].save(files["animated"], save_all=True, append_images=frames[1:], duration=100)
    files["empty_folder"].mkdir(exist_ok=True)
    return files


_FILES = {
    "truncated": "truncated.jpg",
    "mislabelled": "png_named.jpg",
    "text": "text_named.jpg",
    "zero_byte": "zero_byte.png",
    "one_pixel": "one_pixel.png",
    "huge": "huge.png",
    "cmyk": "cmyk.jpg",
    "grey16": "grey16.png",
    "grey": "grey.png",
    "alpha": "alpha.png",
    "exif_rotated": "exif_rotated.jpg",
    "animated": "animated.gif",
    "empty_folder": "empty_folder",
}
