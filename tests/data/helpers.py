"""Small data sets on disk for the tests of this folder."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from PIL import Image

from tests.bad_images import photo

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not on this machine")


def write(path: Path, seed: int | None = None, height: int = 40, width: int = 56) -> Path:
    """Write a photo; the suffix names the format, and without a seed the last parts of the path the content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32("/".join(path.parts[-3:]).encode()) % 10_000 if seed is None else seed
    Image.fromarray(photo(height, width, seed)).save(path)
    return path


def clean_folder(root: Path, count: int = 6, **size: int) -> Path:
    for i in range(count):
        write(root / f"photo{i}.png", zlib.crc32(root.name.encode()) % 10_000 + i, **size)
    return root


def class_folders(root: Path, counts: dict[str, int]) -> Path:
    """One folder per class; names with a slash give two levels."""
    for k, (name, count) in enumerate(counts.items()):
        for i in range(count):
            write(root / name / f"{i}.png", zlib.crc32(root.name.encode()) % 10_000 + 100 * k + i)
    return root


def list_file(root: Path, lines: list[str], name: str = "train.txt") -> Path:
    """A list file and every image it names."""
    for line in filter(None, lines):
        write(root / line.split(",")[0].strip().strip('"'))
    file = root / name
    file.write_text("\n".join(lines) + "\n")
    return file
