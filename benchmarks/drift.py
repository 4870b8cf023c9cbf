"""False alarms and delays of watching, on a classifier and the photos of a list: as docs/drift.md states them.

    python benchmarks/drift.py runs/grocery ../shared/data/grocery/train.txt --other ../shared/data/bsds500/val32

Photos are drawn in another order in each of --turns turns: 200 are the reference, --stream come as they are, and then,
each from the same state, --changed that are changed. What counts as false are changes told in the unchanged part.
Requests that come from real people are not drawn at random: see the document.
"""

import argparse
import copy
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from pocketvit.data.layouts import read_lines
from pocketvit.runtimes.model import Model, load
from pocketvit.serve.drift.monitor import Watch
from pocketvit.serve.drift.statistics import Cloud, distances_apart, photo_statistics, scaled, statistics_of
from pocketvit.spec.images import list_images, read_image
from pocketvit.spec.tasks import TASKS

REFERENCE = 200
RNG = np.random.default_rng(0)
Photo = np.ndarray
CHANGES: dict[str, Callable[[Photo], Photo]] = {
    "light x 0.8": lambda photo: np.round(photo * 0.8).astype(np.uint8),
    "light x 0.5": lambda photo: np.round(photo * 0.5).astype(np.uint8),
    "noise sigma 5": lambda photo: _noisy(photo, 5),
    "noise sigma 25": lambda photo: _noisy(photo, 25),
    "blur sigma 1": lambda photo: np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(1))),
    "blur sigma 2": lambda photo: np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(2))),
}
Rows = tuple[dict[str, np.ndarray], np.ndarray]
"""Each statistic but the distance, (N,), and the embeddings (N, D)."""


def _noisy(photo: Photo, sigma: float) -> Photo:
    return np.clip(np.round(photo + RNG.normal(0, sigma, photo.shape)), 0, 255).astype(np.uint8)


def measured(model: Model, files: Iterable[Path], change: Callable[[Photo], Photo] = lambda photo: photo) -> Rows:
    signs, statistics = TASKS[model.manifest.task].signs, statistics_of(model.manifest.task)
    assert signs is not None
    rows, embeddings = [], []
    for file in files:
        photo = change(read_image(file))
        values, embedding = signs.read(model(photo), photo)
        rows.append(scaled(statistics, photo_statistics(photo) | values))
        embeddings.append(embedding)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}, np.array(embeddings)


def part(rows: Rows, chosen: np.ndarray) -> Rows:
    return {name: values[chosen] for name, values in rows[0].items()}, rows[1][chosen]


def with_distance(rows: Rows, cloud: Cloud) -> dict[str, np.ndarray]:
    return {**rows[0], "distance": np.log10([max(cloud.distance(each), 1e-6) for each in rows[1]])}


def told(watches: dict[str, Watch], values: dict[str, np.ndarray]) -> dict[str, list[int]]:
    """By statistic the requests at which it was told that it drifts, from 1."""
    found = {}
    for name, watch in watches.items():
        changes = [(i, watch.update(float(value))) for i, value in enumerate(values[name], start=1)]
        found[name] = [i for i, change in changes if change is not None and change.detector != "recovered"]
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("artifact")
    options.add_argument("list", type=Path)
    options.add_argument("--other", type=Path, help="folder of photos of something else")
    options.add_argument("--target", default=None)
    options.add_argument("--stream", type=int, default=1000)
    options.add_argument("--changed", type=int, default=200)
    options.add_argument("--turns", type=int, default=10)
    asked = options.parse_args()
    model = load(asked.artifact, asked.target)
    files = [asked.list.parent / columns[0] for _, columns in read_lines(asked.list)]
    files = [files[i] for i in np.random.default_rng(1).permutation(len(files))]
    kept = files[: -asked.changed]
    plain = measured(model, kept)
    changed = {name: measured(model, files[-asked.changed :], how) for name, how in CHANGES.items()}
    if asked.other:
        changed["other photos"] = measured(model, list_images(asked.other))
    false, delays, seen = Counter[str](), dict[tuple[str, str], list[int | None]](), 0
    for turn in range(asked.turns):
        order = np.random.default_rng(turn).permutation(len(kept))
        reference, stream = part(plain, order[:REFERENCE]), part(plain, order[REFERENCE : REFERENCE + asked.stream])
        cloud = Cloud.of(reference[1])
        expected = {**reference[0], "distance": np.log10(distances_apart(reference[1]))}
        watches = {name: Watch(name, values) for name, values in expected.items()}
        false.update({name: len(at) for name, at in told(watches, with_distance(stream, cloud)).items()})
        seen += len(stream[1])
        for name, rows in changed.items():
            mixed = part(rows, np.random.default_rng(turn).permutation(len(rows[1])))
            for statistic, at in told(copy.deepcopy(watches), with_distance(mixed, cloud)).items():
                if not watches[statistic].drifting:
                    delays.setdefault((name, statistic), []).append(at[0] if at else None)
    show(false, seen, delays, list(CHANGES) + ["other photos"] * bool(asked.other))


def show(false: Counter[str], seen: int, delays: dict[tuple[str, str], list[int | None]], names: list[str]) -> None:
    print(f"{seen} unchanged requests in all; changes told: {sum(false.values())} {dict(false)}")
    print("median requests until a change is told (turns in which it is told, of those that could)")
    statistics = list(false)
    print("| change | " + " | ".join(statistics) + " |\n|---|" + "---|" * len(statistics))
    for name in names:
        cells = []
        for statistic in statistics:
            found = delays.get((name, statistic), [])
            hits = [delay for delay in found if delay is not None]
            cells.append(f"{np.median(hits):.0f} ({len(hits)}/{len(found)})" if hits else f"- (0/{len(found)})")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    sys.exit(main())
