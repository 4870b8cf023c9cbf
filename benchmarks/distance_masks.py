"""Masks of real photos from their measured depth: how far away each pixel is, in three classes.

python benchmarks/distance_masks.py OUT [--data ../shared/data/scenes7] [--near 1.2] [--far 2.0] [--trained 400]

For want of photos that people have labelled. What the sensor of 7-Scenes measured decides: ``near`` below ``--near``
metres, ``far`` from ``--far`` on, ``middle`` between them, no class (255) where it measured nothing. So the labels are
distances and no things: a model learns depth in three steps, and its borders are where a threshold is crossed and not
where an object ends. Frames before ``--trained`` go to OUT/train, those from it on to OUT/val: of one room, neighbours
in time, so that scores say nothing of other places.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from pocketvit.spec.depth_files import read_depth

CLASSES = ("near", "middle", "far")
IGNORED = 255


def mask_of(depth: np.ndarray, near: float, far: float) -> np.ndarray:
    """(H, W) metres, 0 where nothing was measured, to (H, W) uint8 classes."""
    return np.where(depth > 0, np.digitize(depth, (near, far)), IGNORED).astype(np.uint8)


def write(photo: Path, folder: Path, near: float, far: float) -> np.ndarray:
    """Photo and mask into ``images/`` and ``masks/``; returns the pixels of each class and of none."""
    name, _, _ = photo.name.partition(".")
    mask = mask_of(read_depth(photo.with_name(f"{name}.depth.png"), 0.001), near, far)
    shutil.copy(photo, folder / "images" / f"{name}{photo.suffix}")
    Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    counts = np.bincount(mask.ravel(), minlength=256)
    return counts[[0, 1, 2, IGNORED]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/scenes7"))
    parser.add_argument("--near", type=float, default=1.2)
    parser.add_argument("--far", type=float, default=2.0)
    parser.add_argument("--trained", type=int, default=400)
    given = parser.parse_args()
    photos = {part: list[Path]() for part in ("train", "val")}
    for photo in sorted(given.data.glob("frame-*.color.*")):
        number = int(photo.name.split("-")[1].split(".")[0])
        photos["train" if number < given.trained else "val"].append(photo)
    for part, paths in photos.items():
        folder = given.out / part
        for name in ("images", "masks"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
        counts = sum(write(photo, folder, given.near, given.far) for photo in paths)
        shares = ", ".join(f"{n} {100 * x / sum(counts):.1f} %" for n, x in zip((*CLASSES, "no class"), counts))
        print(f"{part}: {len(paths)} photos, {shares}")


if __name__ == "__main__":
    main()
