"""Flicker of a depth artifact, on a still and on a moving sequence, with and without temporal smoothing.

python benchmarks/depth_flicker.py ARTIFACT [--data ../shared/data/scenes7] [--frames 400 499] [--noise 3]

Still: one frame, again and again, with fresh sensor noise (Gaussian, ``--noise`` levels of 255), as a camera on a stand
sees it. Moving: the frames of the sequence in order. Flicker is the mean absolute change of depth between neighbours
after their scales are aligned by the median; in the moving sequence part of it is real motion, which the ground truth's
own change (over pixels that both frames have) shows beside it. AbsRel with and without says what smoothing costs.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

import pocketvit
from pocketvit.spec.depth_files import read_depth
from pocketvit.spec.depth_metrics import depth_errors, protocol, resize_map
from pocketvit.spec.depth_video import Map, Smoother, change
from pocketvit.spec.images import read_image


def flicker(maps: Sequence[Map]) -> tuple[float, float]:
    """Mean aligned change between neighbours: millimetres, and percent of the depth."""
    found = [change(a, b) for a, b in pairwise(maps)]
    return 1e3 * float(np.mean([x.aligned for x in found])), 100 * float(np.mean([x.relative for x in found]))


def error(maps: Iterable[Map], truths: Iterable[Map]) -> float:
    """AbsRel in protocol scenes7."""
    rules = protocol("scenes7")
    rows = [depth_errors(resize_map(depth, truth.shape), truth, rules) for depth, truth in zip(maps, truths)]
    return float(np.mean([row["abs_rel"] for row in rows if row]))


def report(title: str, maps: Sequence[Map], truths: Sequence[Map]) -> None:
    steady: Callable[[Map], Map] = Smoother()
    for name, each in (("as the model answers", list(maps)), ("smoothed", [steady(depth) for depth in maps])):
        millimetres, percent = flicker(each)
        print(f"| {title} | {name} | {millimetres:.2f} | {percent:.3f} | {error(each, truths):.4f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/scenes7"))
    parser.add_argument("--frames", type=int, nargs=2, default=(400, 499))
    parser.add_argument("--noise", type=float, default=3.0)
    parser.add_argument("--still", type=int, default=30, help="how often the still is seen")
    given = parser.parse_args()
    first, last = given.frames
    photos = [
        path
        for path in sorted(given.data.glob("frame-*.color.*"))
        if first <= int(path.name.split("-")[1].split(".")[0]) <= last
    ]
    truths = [read_depth(path.with_name(path.name.split(".")[0] + ".depth.png"), 0.001) for path in photos]
    model = pocketvit.load(given.artifact)
    print(f"{model.manifest.name} {model.manifest.version}, {model.target}; frames {first} to {last}, {len(photos)}")
    print("| sequence | depth | flicker, mm | flicker, % | AbsRel |\n|---|---|---|---|---|")
    rng, frame = np.random.default_rng(0), read_image(photos[0]).astype(np.float32)
    noisy = [
        np.clip(np.rint(frame + rng.normal(0, given.noise, frame.shape)), 0, 255).astype(np.uint8)
        for _ in range(given.still)
    ]
    report("still", [model(each).depth for each in noisy], [truths[0]] * len(noisy))
    report("moving", [model(each).depth for each in photos], truths)
    millimetres, percent = flicker(truths)
    print(f"| moving | ground truth | {millimetres:.2f} | {percent:.3f} | |")


if __name__ == "__main__":
    main()
