"""Photos with rectangles in two colours whose boxes can be learnt in seconds, in every layout, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("red", "blue")
_COLOURS = ((215, 45, 40), (40, 60, 215))
Rows = list[tuple[int, float, float, float, float]]


def scene(seed: int, height: int = 64, width: int = 96) -> tuple[np.ndarray, Rows]:
    """(height, width, 3) uint8 of grey noise with one to three rectangles, and their class and sides in pixels."""
    rng = np.random.default_rng(seed)
    photo = np.full((height, width, 3), 128.0) + rng.normal(0, 12, (height, width, 1))
    rows: Rows = []
    for _ in range(int(rng.integers(1, 4))):
        tall, wide = int(rng.integers(16, 32)), int(rng.integers(20, 40))
        top, left = int(rng.integers(0, height - tall)), int(rng.integers(0, width - wide))
        box = (left, top, left + wide, top + tall)
        if any(box[0] < r[3] and r[1] < box[2] and box[1] < r[4] and r[2] < box[3] for r in rows):
            continue
        kind = int(rng.integers(2))
        photo[top : top + tall, left : left + wide] = _COLOURS[kind]
        rows.append((kind, *map(float, box)))
    return np.clip(photo + rng.normal(0, 4, photo.shape), 0, 255).astype(np.uint8), rows


def coco(root: Path, count: int, seed: int = 0) -> Path:
    """``instances.json`` beside ``images/``."""
    (root / "images").mkdir(parents=True)
    images, annotations = [], []
    for i in range(count):
        photo, rows = scene(seed + i)
        Image.fromarray(photo).save(root / "images" / f"{i:03d}.png")
        images.append({"id": i, "file_name": f"{i:03d}.png", "height": photo.shape[0], "width": photo.shape[1]})
        for kind, x0, y0, x1, y1 in rows:
            box = {"id": len(annotations), "image_id": i, "category_id": 3 + 4 * kind, "iscrowd": 0}
            annotations.append({**box, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    categories = [{"id": 3 + 4 * k, "name": name} for k, name in enumerate(NAMES)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(document))
    return root


def yolo(root: Path, count: int, seed: int = 0) -> Path:
    """``images/``, ``labels/`` and ``classes.txt``."""
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    for i in range(count):
        photo, rows = scene(seed + i)
        height, width = photo.shape[:2]
        Image.fromarray(photo).save(root / "images" / f"{i:03d}.png")
        lines = [
            f"{kind} {(x0 + x1) / 2 / width} {(y0 + y1) / 2 / height} {(x1 - x0) / width} {(y1 - y0) / height}"
            for kind, x0, y0, x1, y1 in rows
        ]
        (root / "labels" / f"{i:03d}.txt").write_text("\n".join(lines))
    return root


def kitti(root: Path, count: int, seed: int = 0) -> Path:
    """``image_2/`` and ``label_2/``, with a line that is no class."""
    for name in ("image_2", "label_2"):
        (root / name).mkdir(parents=True)
    for i in range(count):
        photo, rows = scene(seed + i)
        Image.fromarray(photo).save(root / "image_2" / f"{i:06d}.png")
        lines = [f"{('Car', 'Cyclist')[kind]} 0 0 0 {x0} {y0} {x1} {y1} 1 1 1 1 1 9 0" for kind, x0, y0, x1, y1 in rows]
        lines.append("DontCare -1 -1 -10 1 1 5 5 -1 -1 -1 -1000 -1000 -1000 -10")
        (root / "label_2" / f"{i:06d}.txt").write_text("\n".join(lines) + "\n")
    return root
