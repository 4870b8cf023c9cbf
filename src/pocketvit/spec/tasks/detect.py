"""Find things in a photograph: boxes with classes, from a dense map of centres without anchors.

The answer is one heat map for each class, whose peaks are the centres of boxes (Zhou et al. 2019, CenterNet), and for
each cell the distances to the four sides of the box around it (Tian et al. 2019, FCOS). Everything has a fixed shape;
peaks and suppression of doubles are done here, on the processor.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import UsageError
from pocketvit.spec import boxes as shapes
from pocketvit.spec import detect_metrics
from pocketvit.spec.hierarchy import LevelSpec
from pocketvit.spec.preprocess import Pixels, Preprocess
from pocketvit.spec.tasks import base
from pocketvit.spec.typed import Range, check_ranges

HEAT, SIDES = "heat", "sides"
"""Names of the two outputs."""
MOST, LEAST, OVERLAP = 100, 0.01, 0.6
"""Boxes of an answer; the lowest score of one; of one class, how far a box may overlap a better one."""
SHOWN = 0.3
"""Score from which a box is drawn and told; those below it count in the metric, which sets no threshold."""
AP = base.MetricSpec("ap", "%", default_drop=1.0, tie=0.1)
AP50 = base.MetricSpec("ap50", "%", default_drop=2.0, tie=0.2)
AP75 = base.MetricSpec("ap75", "%", default_drop=2.0, tie=0.2)
METRICS = (AP, AP50, AP75)
"""AP is the mean over overlaps of 0.50, 0.55 ... 0.95."""
NO_BOX = -1.0
"""Class of a row that fills up an array of boxes."""


@dataclass(frozen=True)
class DetectConfig(base.TaskConfig):
    """How boxes are found and how that is trained."""

    name: str = "detect"
    cell: int = 8
    """Side of a cell of the answer in pixels of the model's input: the patch, or a half or a quarter of it. One cell
    holds one centre of each class."""
    head_width: int = 96
    """Channels of the head."""
    head_blocks: int = 1
    """Residual pairs of 3x3 convolutions in the head."""
    spread: float = 0.54
    """Share of a box, around its centre, whose cells learn its sides (TTFNet's beta, Liu et al. 2019)."""
    box_weight: float = 5.0
    """Weight of the loss of the sides beside that of the heat map."""

    def __post_init__(self) -> None:
        whole = {"cell": Range(2, 64), "head_width": Range(8, 1024), "head_blocks": Range(0, 8)}
        check_ranges("task", self, {**whole, "spread": Range(0, 1, above=True), "box_weight": Range(0, 1e4)})


@dataclass(frozen=True, repr=False)
class Detections:
    """The boxes of one photo, the surest first, at most ``MOST``."""

    labels: tuple[str, ...] = field(repr=False)
    """All class names."""
    boxes: NDArray[np.float32]
    """(N, 4): left, top, right, bottom in shares of the photo, 0 to 1."""
    classes: NDArray[np.int64]
    """(N,)."""
    scores: NDArray[np.float32]
    """(N,) 0 to 1, falling."""

    def __repr__(self) -> str:
        return f"<Detections {self.line}>"

    def __len__(self) -> int:
        return len(self.boxes)

    def above(self, score: float) -> Detections:
        """Those boxes that are at least so sure."""
        keep = self.scores >= score
        return Detections(self.labels, self.boxes[keep], self.classes[keep], self.scores[keep])

    def pixels(self, height: int, width: int) -> NDArray[np.float32]:
        """(N, 4) in pixels of a photo of that size."""
        return self.boxes * np.array([width, height, width, height], np.float32)

    def to_dict(self, top: int = 5) -> dict[str, Any]:
        """JSON form of the boxes from a score of ``SHOWN``, all of them: they are no ranking."""
        rows = zip(self.classes, self.scores, self.boxes, strict=True)
        found = [
            {"label": self.labels[k], "score": float(score), "box": [float(x) for x in box]}
            for k, score, box in rows
            if score >= SHOWN
        ]
        return {"task": "detect", "unit": "shares of the photo: left, top, right, bottom", "boxes": found}

    def cells(self, top: int = 5) -> dict[str, str]:
        """How many boxes, and of which classes."""
        return {"boxes": str(len(self.above(SHOWN))), "found": self.line}

    @property
    def line(self) -> str:
        """The boxes counted by class, most first: ``2 Car, 1 Pedestrian``."""
        counts = Counter(self.labels[k] for k in self.above(SHOWN).classes)
        return ", ".join(f"{count} {label}" for label, count in counts.most_common()) or "nothing"

    def draw(self, source: Pixels) -> Pixels:
        """``source`` with the boxes from a score of ``SHOWN``, each with label and score, in its class's colour."""
        shown = self.above(SHOWN)
        texts = [f"{self.labels[k]} {100 * score:.0f} %" for k, score in zip(shown.classes, shown.scores, strict=True)]
        return shapes.drawn(source, shown.boxes, texts, shown.classes.tolist())


class DetectEvaluator:
    """COCO's average precision over all photos, by :mod:`pocketvit.spec.detect_metrics`, in %.

    It is no mean of values of photos: intervals are 1.96 standard deviations of 100 bootstrap draws of photos. Where no
    photo has a box it is 0.
    """

    def __init__(self, levels: Sequence[LevelSpec]) -> None:
        self.main = AP.name
        self._classes = len(levels[-1].labels)
        self._rows: list[list[tuple[int, NDArray[np.float64], NDArray[np.bool_]]]] = [[] for _ in range(self._classes)]
        self._truths: list[NDArray[np.int64]] = []

    def update(self, result: Detections, truth: Any, condition: str = "") -> None:
        """``truth`` is (N, 5) as :data:`DETECT` has it; rows of class ``NO_BOX`` are none."""
        truth = np.asarray(truth, np.float64).reshape(-1, 5)
        wanted = truth[:, 0].astype(np.int64)
        for k in np.unique(result.classes):
            mine = result.classes == k
            row = detect_metrics.matches(result.boxes[mine], result.scores[mine], truth[wanted == k, 1:])
            self._rows[k].append((len(self._truths), *row))
        inside = wanted[(wanted >= 0) & (wanted < self._classes)]
        self._truths.append(np.bincount(inside, minlength=self._classes))

    def metrics(self) -> Iterator[base.Measure]:
        """AP, AP at 0.5, AP at 0.75."""
        if not self._truths:
            return
        counts, photos = np.stack(self._truths), len(self._truths)
        found = [detect_metrics.gathered(rows, counts[:, k]) for k, rows in enumerate(self._rows)]
        values, halves = detect_metrics.average(found), 1.96 * detect_metrics.spread(found, photos)
        for spec, value, half in zip(METRICS, values.tolist(), halves.tolist(), strict=True):
            yield base.Measure(spec.name, value, spec.unit, photos, max(0.0, value - half), min(100.0, value + half))


def _check(preprocess: Preprocess) -> None:
    if preprocess.resize != "stretch":
        what = f"detect needs preprocess.resize stretch, not {preprocess.resize}."
        raise UsageError(what, "Boxes may lie anywhere in the photo: set preprocess.resize: stretch.")


def grid(size: tuple[int, int], cell: int) -> tuple[int, int]:
    """Rows and columns of the answer for an input of that height and width."""
    return -(-size[0] // cell), -(-size[1] // cell)


def _outputs(levels: Sequence[LevelSpec], preprocess: Preprocess, config: base.TaskConfig) -> list[base.TensorSpec]:
    rows, columns = grid(preprocess.size, getattr(config, "cell", DetectConfig.cell))
    heat = "how sure it is that a box of each class has its centre in the cell, 0 to 1"
    sides = "from the cell's centre to the left, upper, right and lower side, in shares of the photo's width or height"
    return [
        base.TensorSpec(name=HEAT, shape=[1, len(levels[-1].labels), rows, columns], dtype="float32", meaning=heat),
        base.TensorSpec(name=SIDES, shape=[1, 4, rows, columns], dtype="float32", meaning=sides),
    ]


def _finish(raw: base.Raw, levels: Sequence[LevelSpec]) -> Detections:
    heat, sides = np.asarray(raw[HEAT][0], np.float64), np.asarray(raw[SIDES][0], np.float64)
    classes, rows, columns = shapes.peaks(heat, LEAST, MOST)
    x, y = (columns + 0.5) / heat.shape[2], (rows + 0.5) / heat.shape[1]
    left, top, right, bottom = sides[:, rows, columns]
    found = np.clip(np.stack([x - left, y - top, x + right, y + bottom], axis=1), 0.0, 1.0)
    kept = shapes.suppressed(found, classes, OVERLAP)
    scores = heat[classes, rows, columns]
    labels = tuple(levels[-1].labels)
    return Detections(labels, found[kept].astype(np.float32), classes[kept], scores[kept].astype(np.float32))


def _truth(image: Pixels, found: base.Truth | None, labels: tuple[int, ...]) -> NDArray[np.float32]:
    return np.zeros((0, 5), np.float32) if found is None else found.astype(np.float32)


def stacked(truths: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """(N_i, 5) of several photos as (B, N, 5), filled up with rows of class ``NO_BOX``."""
    most = max((len(truth) for truth in truths), default=0)
    filled = np.full((len(truths), max(1, most), 5), NO_BOX, np.float32)
    for row, truth in zip(filled, truths, strict=True):
        row[: len(truth)] = truth
    return filled


def _fault(truths: NDArray[Any], inputs: Pixels) -> str:
    shaped = truths.dtype.kind == "f" and truths.ndim == 3 and truths.shape[2] == 5
    known = truths[truths[..., 0] != NO_BOX] if shaped else np.zeros((0, 5))
    order = (known[:, 1:3] <= known[:, 3:]).all() and (known[:, 1:] >= 0).all() and (known[:, 1:] <= 1).all()
    if shaped and order and (known[:, 0] >= 0).all() and (known[:, 0] % 1 == 0).all():
        return ""
    return f"the ground truth is {truths.dtype} {truths.shape}, not rows of a class and a box from 0 to 1"


def _unknown(truth: NDArray[Any], levels: Sequence[LevelSpec]) -> str:
    count = len(levels[-1].labels) if levels else np.inf
    return f"holds class {truth[..., 0].max():g}, of {count} classes" if (truth[..., 0] >= count).any() else ""


def _answer(labels: tuple[str, ...], row: NDArray[Any]) -> Detections:
    """One box, (class, left, top, right, bottom), as an answer that is sure."""
    return Detections(labels, row[None, 1:].astype(np.float32), row[:1].astype(np.int64), np.ones(1, np.float32))


def _baseline(cases: Iterable[base.Case], evaluator: base.Evaluator) -> base.Measure:
    """In each photo one box of the class that there is most of: the mean of its boxes."""
    truths = [np.asarray(case.truth, np.float64).reshape(-1, 5) for case in cases]
    rows = np.concatenate([np.zeros((0, 5)), *truths])
    rows = rows[rows[:, 0] >= 0]
    common = Counter(rows[:, 0].tolist()).most_common(1)
    mean = rows[rows[:, 0] == common[0][0]].mean(axis=0) if common else np.zeros(5)
    for truth in truths:
        evaluator.update(_answer((), mean), truth)
    return next(measure for measure in evaluator.metrics() if measure.name == evaluator.main)


def _change(outputs: Sequence[NDArray[np.float32]], reference: Sequence[NDArray[np.float32]]) -> float:
    """Half of each: the change of the heat as a share of all heat, and that of the sides where there is heat."""
    (heat, sides), (sure, right) = (tuple(np.asarray(x, np.float64) for x in each) for each in (outputs, reference))
    where = sure.max(axis=-3, keepdims=True)
    shares = [
        np.abs(heat - sure).sum() / max(float(sure.sum()), 1e-12),
        (where * np.abs(sides - right)).sum() / max(float((where * np.abs(right)).sum()), 1e-12),
    ]
    return float(np.mean(shares))


def _panels(image: Pixels, result: base.Result, truth: NDArray[Any], levels: Sequence[LevelSpec]) -> list[base.Panel]:
    known = np.asarray(truth, np.float64).reshape(-1, 5)
    known = known[known[:, 0] >= 0]
    classes = known[:, 0].astype(int).tolist()
    wanted = shapes.drawn(image, known[:, 1:], [levels[-1].labels[k] for k in classes], classes)
    return [("boxes", result.draw(image)), ("truth", wanted)]


def _extras(wishes: base.Wishes, config: base.TaskConfig) -> Mapping[str, base.Extra]:
    base.no_extras(wishes, config)
    return {".boxes.json": _save}


def _save(path: Path, result: Detections, photo: Pixels) -> str:
    """The boxes in pixels of the photo."""
    height, width = photo.shape[:2]
    document = result.to_dict()
    for row in document["boxes"]:
        row["box"] = [round(x * side, 2) for x, side in zip(row["box"], (width, height, width, height), strict=True)]
    sizes = {"unit": "pixels of the photo: left, top, right, bottom", "height": height, "width": width}
    path.write_text(json.dumps(document | sizes, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return ""


def _signs(result: Detections, photo: Pixels) -> tuple[dict[str, float], NDArray[np.float64]]:
    """Sums of scores by class say how much of what is seen; they have one length for all photos of a model."""
    shown = result.above(SHOWN)
    sums = np.bincount(result.classes, result.scores, minlength=len(result.labels)).astype(np.float64)
    best = float(result.scores[0]) if len(result) else 0.0
    return {"boxes": float(len(shown)), "confidence": best}, np.log1p(sums)


_PLAIN = """\
heat, sides = outputs[0][0], outputs[1][0]  # (classes, rows, columns), (4, rows, columns)
k, y, x = np.unravel_index(heat.argmax(), heat.shape)  # the surest box; the others are the other peaks
cx, cy = (x + 0.5) / heat.shape[2], (y + 0.5) / heat.shape[1]
left, top, right, bottom = sides[:, y, x]  # in shares of the photo, as the box is
print(next(iter(json.loads(about["labels"]).values()))[k], heat[k, y, x])
print([float(value) for value in (cx - left, cy - top, cx + right, cy + bottom)])
"""
SIGNS = base.Signs(
    {"boxes": "boxes that are shown", "confidence": "score of the best box"}, "the sums of scores by class", _signs
)
DETECT = base.Task(
    name="detect",
    purpose="finds things in photographs and draws boxes around them",
    config=DetectConfig,
    layouts=("coco", "yolo", "kitti-objects"),
    geometry="boxes",
    degrades=False,
    labelled=False,
    names_parts=True,
    metrics=METRICS,
    # Probabilities, and shares of the photo; metric_drop in points of AP, of few goldens.
    tolerances={
        "fp32": {"max_abs": 2e-3, "mean_abs": 2e-4, "min_cosine": 0.9999, "metric_drop": 0.5},
        "fp16": {"max_abs": 0.1, "mean_abs": 5e-3, "min_cosine": 0.99, "metric_drop": 4.0},
        "bf16": {"max_abs": 0.4, "mean_abs": 0.02, "min_cosine": 0.95, "metric_drop": 8.0},
        "int8": {"mean_cosine": 0.9, "metric_drop": 10.0},
    },
    golden=base.GoldenPolicy(count=12, max_bytes=3_000_000, bytes_per_pixel=3 * 0.9 + 0.5, fault=_fault),
    protocol="AP of COCO at overlaps of 0.50 to 0.95, at most 100 boxes a photo, bootstrap over photos",
    check_preprocess=_check,
    outputs=_outputs,
    finish=_finish,
    evaluator=lambda levels, condition: DetectEvaluator(levels),
    truth=_truth,
    stack=stacked,
    partner=base.Partner("list of boxes", fault=_unknown),
    baseline=_baseline,
    change=_change,
    change_limits=(0.15, 3.0),
    panels=_panels,
    writes="picture",
    extras=_extras,
    example="model(image).above(0.5).boxes  # (N, 4) in shares of the photo; .classes, .scores, .pixels(height, width)",
    plain=_PLAIN,
    signs=SIGNS,
    start={
        "model": {"name": "vit_micro_patch16_224"},
        "preprocess": {"resize": "stretch", "size": [224, 224]},
        "train": {"minutes": 30.0, "epochs": 200, "lr": 5e-4, "batch_size": 16, "ema": 0.99},
    },
)
