"""Photos with known boxes where there are none: photos of groceries, made small, on photos of other things.

python benchmarks/detect_composites.py runs/composites [--shared ../shared/data] [--train 800] [--val 200]

Each composite is a part of a BSDS500 photo with one to four photos of the Grocery Store Dataset (Klasson et al. 2019)
pasted on it, of five coarse classes, as COCO's layout: OUT/train and OUT/val, each with images/ and instances.json.
Validation takes photos of val.txt and other backgrounds (val32). A pasted photo has straight edges and another light
than its ground, which makes boxes easier to find than in real photos: what is measured on these tells that training
works, and nothing about shops. recipes/detect_grocery.yaml trains on them.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pocketvit.data.layouts import read_lines
from pocketvit.progress import track
from pocketvit.spec.boxes import overlaps
from pocketvit.spec.images import list_images

CLASSES = ("Apple", "Juice", "Milk", "Pepper", "Yoghurt")
SIZE = (240, 320)
SHARES = (0.2, 0.55)
"""Of a composite's height: the shorter side of a pasted photo."""
MOST_SHARED = 0.05


def photos_of(grocery: Path, split: str) -> list[list[Path]]:
    """The photos of each class of ``CLASSES``."""
    coarse = {row[1][3]: row[1][2] for row in read_lines(grocery / "classes.csv")[1:]}
    rows = [columns for _, columns in read_lines(grocery / f"{split}.txt")]
    return [[grocery / path for path, _, number in rows if coarse[number] == name] for name in CLASSES]


def background(path: Path, rng: np.random.Generator) -> Image.Image:
    """A random part of a photo at ``SIZE``, flipped or not."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    share = rng.uniform(0.6, 1.0)
    wide, tall = share * image.width, share * image.width * SIZE[0] / SIZE[1]
    if tall > image.height:
        wide, tall = wide * image.height / tall, image.height
    left, top = rng.uniform(0, image.width - wide), rng.uniform(0, image.height - tall)
    made = image.resize(SIZE[::-1], Image.Resampling.BICUBIC, box=(left, top, left + wide, top + tall))
    return made.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else made


def composite(
    grounds: Sequence[Path], things: Sequence[Sequence[Path]], rng: np.random.Generator
) -> tuple[Image.Image, list[tuple[int, list[int]]]]:
    """A composite, and of each thing on it the class and left, top, right, bottom in pixels."""
    picture = background(grounds[int(rng.integers(len(grounds)))], rng)
    placed: list[tuple[int, list[int]]] = []
    for _ in range(int(rng.integers(1, 5))):
        kind = int(rng.integers(len(CLASSES)))
        with Image.open(things[kind][int(rng.integers(len(things[kind])))]) as opened:
            thing = opened.convert("RGB")
        scale = rng.uniform(*SHARES) * SIZE[0] / min(thing.size)
        size = [max(8, round(scale * side)) for side in thing.size]
        left, top = (int(rng.integers(0, max(1, room - side))) for room, side in zip(SIZE[::-1], size, strict=True))
        box = [left, top, min(SIZE[1], left + size[0]), min(SIZE[0], top + size[1])]
        if overlaps(np.array([box]), np.array([other for _, other in placed])).max(initial=0) <= MOST_SHARED:
            picture.paste(thing.resize((size[0], size[1]), Image.Resampling.BICUBIC), (left, top))
            placed.append((kind, box))
    return picture, placed


def write(out: Path, count: int, grounds: Sequence[Path], things: Sequence[Sequence[Path]], seed: int) -> int:
    """``count`` composites as COCO's layout; the number of boxes."""
    (out / "images").mkdir(parents=True)
    rng, images, boxes = np.random.default_rng(seed), list[dict[str, Any]](), list[dict[str, Any]]()
    with track(f"composites {out.name}", count) as advance:
        for i in range(count):
            picture, placed = composite(grounds, things, rng)
            picture.save(out / "images" / f"{i:05d}.jpg", quality=92)
            images.append({"id": i, "file_name": f"{i:05d}.jpg", "width": SIZE[1], "height": SIZE[0]})
            for kind, (x0, y0, x1, y1) in placed:
                row = {"id": len(boxes), "image_id": i, "category_id": kind, "iscrowd": 0}
                boxes.append({**row, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)})
            advance()
    categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES)]
    document = {"images": images, "annotations": boxes, "categories": categories}
    (out / "instances.json").write_text(json.dumps(document), encoding="utf-8")
    return len(boxes)


def main() -> None:
    """Make both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--train", type=int, default=800)
    parser.add_argument("--val", type=int, default=200)
    given = parser.parse_args()
    for split, count, folder in (("train", given.train, "train"), ("val", given.val, "val32")):
        things = photos_of(given.shared / "grocery", split)
        grounds = list_images(given.shared / "bsds500" / folder)
        boxes = write(given.out / split, count, grounds, things, seed=0 if split == "train" else 1)
        counts = ", ".join(f"{len(each)} {name}" for name, each in zip(CLASSES, things, strict=True))
        print(f"{split}: {count} composites with {boxes} boxes; photos: {counts}; {len(grounds)} backgrounds")


if __name__ == "__main__":
    main()
