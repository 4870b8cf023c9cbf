"""The card's code without pocketvit: ONNX Runtime, NumPy and Pillow give the answer that ``predict`` gives."""

from __future__ import annotations

import json
import math

from pocketvit.spec.manifest import Manifest
from pocketvit.spec.tasks import TASKS

_OPEN = """\
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession({file}, providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map  # name, version, task, labels, preprocess
image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
"""
_CROP = """\
height, width = {height}, {width}
scale = max({short_h} / image.height, {short_w} / image.width)  # the short side, rounded down
size = max(width, int(image.width * scale + 1e-6)), max(height, int(image.height * scale + 1e-6))
image = image.resize(size, Image.Resampling.{filter})
left, top = round((image.width - width) / 2), round((image.height - height) / 2)
image = image.crop((left, top, left + width, top + height))
outputs = session.run(None, {{"pixels": np.asarray(image)[None]}})  # mean and std are in the graph
"""
_STRETCH = """\
image = image.resize(({width}, {height}), Image.Resampling.{filter})
outputs = session.run(None, {{"pixels": np.asarray(image)[None]}})  # mean and std are in the graph
"""
_TILE = """\
(height, width), overlap = ({height}, {width}), {overlap}
pixels = np.asarray(image)
pad = [(0, max(0, height - image.height)), (0, max(0, width - image.width)), (0, 0)]
padded = np.pad(pixels, pad, mode="reflect")


def tiles(length, tile):  # first pixel of each tile along a side, and the weight of each of its pixels
    count = -(-(length - overlap) // (tile - overlap))
    first, x = [round(i * (length - tile) / max(count - 1, 1)) for i in range(count)], np.arange(tile) + 0.5
    for i, start in enumerate(first):
        before = x / max(first[i - 1] + tile - start, 1) if i > 0 else 1
        after = (tile - x) / max(start + tile - first[i + 1], 1) if i + 1 < count else 1
        yield start, np.minimum(np.ones(tile), np.minimum(before, after))


total, weights = np.zeros(padded.shape), np.zeros((*padded.shape[:2], 1))
for top, down in tiles(padded.shape[0], height):
    for left, across in tiles(padded.shape[1], width):
        here, weight = np.s_[top : top + height, left : left + width], np.outer(down, across)[..., None]
        total[here] += weight * session.run(None, {{"pixels": padded[here][None]}})[0][0]
        weights[here] += weight
answer = (total / weights)[: pixels.shape[0], : pixels.shape[1]]
"""
_WHOLE = """\
answer = session.run(None, {{"pixels": np.asarray(image)[None]}})[0][0]  # of any size, as far as memory goes
"""
_WHAT_SIZES = {
    "crop": "The photo's short side is scaled and the centre cut out; any size may come in.",
    "stretch": "The photo is stretched to the input's size; any size may come in.",
    "whole": "The photo keeps its size, and any size may come in; large ones `pocketvit predict` covers with tiles.",
    "tile": "The photo keeps its size: it is covered with evenly spread tiles of one size that are blended where they "
    "overlap; a photo smaller than a tile is mirrored at its edges and cut back.",
}
_READING = "8-bit photos as cameras write them; `pocketvit predict` also reads transparency, 16 bits and damaged files."


def plain_code(m: Manifest) -> tuple[list[str], list[str]]:
    """Lines of Python, and sentences on what they do; both empty where the artifact holds no ONNX file or its task
    does not say what to do with raw outputs."""
    files = sorted((v.key != m.default, v.path) for v in m.variants if v.path.endswith(".onnx"))
    tail = TASKS[m.task].plain
    if not files or not tail:
        return [], []
    p, file = m.preprocess, files[0][1]
    kind = "whole" if p.multiple else p.resize
    middle = {"crop": _CROP, "stretch": _STRETCH, "tile": _TILE, "whole": _WHOLE}[kind]
    height, width = p.size
    # As `prepare` does it: see there for where each integer is rounded.
    short_h, short_w = math.floor(height / p.crop_pct), math.floor(width / p.crop_pct)
    fields = {"height": height, "width": width, "short_h": short_h, "short_w": short_w, "overlap": p.overlap}
    code = _OPEN.format(file=json.dumps(f"THIS_FOLDER/{file}")) + middle.format(
        **fields, filter=p.interpolation.upper()
    )
    about = [f"Without pocketvit, with ONNX Runtime, NumPy and Pillow, on `{file}`: {_WHAT_SIZES[kind]}", _READING]
    return (code + tail).rstrip("\n").split("\n"), about
