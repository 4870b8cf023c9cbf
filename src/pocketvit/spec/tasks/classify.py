"""Classify a photograph, flat or in a hierarchy of labels: one path that is consistent from level to level."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pocketvit.errors import UsageError
from pocketvit.spec.hierarchy import LevelSpec, decide, leaf_paths, mistake_distance
from pocketvit.spec.preprocess import Pixels, Preprocess
from pocketvit.spec.tasks import base
from pocketvit.spec.tasks.confusion import ClassifyStudy
from pocketvit.spec.typed import Range, check_ranges

TOP1 = base.MetricSpec("top1", "%", default_drop=1.0, rate=True)
TOP5 = base.MetricSpec("top5", "%", default_drop=1.0, rate=True)
FEWEST_FOR_TOP5 = 10
MISTAKE = base.MetricSpec("mistake_distance", "levels", default_drop=0.02, tie=0.005, higher_is_better=False)


@dataclass(frozen=True)
class ClassifyConfig(base.TaskConfig):
    """How a classifier is trained."""

    name: str = "classify"
    loss: Literal["auto", "cross_entropy"] = "auto"
    """``auto`` is cross_entropy."""
    label_smoothing: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    level_weights: tuple[float, ...] = ()
    """Weight of each level's loss, coarsest first; empty weighs all alike."""

    def __post_init__(self) -> None:
        check_ranges("task", self, {"label_smoothing": Range(0, 1, below=True), "level_weights": Range(0, 1e6)})
        if self.level_weights and not sum(self.level_weights) > 0:
            what = f"task.level_weights must have a positive sum, not {self.level_weights}."
            raise UsageError(what, "Correct the recipe or the option.")


@dataclass(frozen=True)
class Level:
    """The answer at one level of the label hierarchy (flat classification has one level)."""

    name: str
    """Level name, e.g. ``fine``."""
    labels: tuple[str, ...] = field(repr=False)
    """All class names of the level."""
    scores: NDArray[np.float32] = field(repr=False)
    """(classes,) float32 probabilities."""
    index: int
    """Class chosen at this level; consistent with the levels above and below."""

    @property
    def label(self) -> str:
        """Name of the chosen class."""
        return self.labels[self.index]

    @property
    def score(self) -> float:
        """Probability of the chosen class, 0 to 1."""
        return float(self.scores[self.index])

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The ``k`` most probable classes of this level as ``(label, score)``, best first."""
        order = np.argsort(-self.scores, kind="stable")[: max(k, 0)]
        return [(self.labels[i], float(self.scores[i])) for i in order]

    def to_dict(self, top: int) -> dict[str, Any]:
        """JSON form with the chosen class and the ``top`` best."""
        best = [{"label": label, "score": score} for label, score in self.top(top)]
        return {"name": self.name, "label": self.label, "score": self.score, "top": best}


@dataclass(frozen=True, repr=False)
class Classification:
    """A path through the label hierarchy, coarsest level first."""

    levels: tuple[Level, ...]

    def __repr__(self) -> str:
        return f"<Classification {self.line}>"

    @property
    def path(self) -> tuple[str, ...]:
        """Labels from the coarsest to the finest level."""
        return tuple(level.label for level in self.levels)

    def to_dict(self, top: int = 5) -> dict[str, Any]:
        """JSON form with the chosen class and the ``top`` best of each level."""
        return {"task": "classify", "path": list(self.path), "levels": [level.to_dict(top) for level in self.levels]}

    def cells(self, top: int = 5) -> dict[str, str]:
        """Label and score of every level, then the most probable classes of the finest one."""
        row: dict[str, str] = {}
        for level in self.levels:
            row |= {level.name: level.label, f"{level.name}_score": f"{level.score:.6f}"}
        for rank, (label, score) in enumerate(self.levels[-1].top(top), start=1):
            row |= {f"top{rank}": label, f"top{rank}_score": f"{score:.6f}"}
        return row

    @property
    def line(self) -> str:
        """The path with the probability of each step."""
        return " > ".join(f"{level.label} {100 * level.score:.1f} %" for level in self.levels)

    def draw(self, source: Pixels) -> Pixels:
        """``source`` with the path and score written on a bar below it."""
        picture = Image.fromarray(source)
        canvas = Image.new("RGB", (max(picture.width, 160), picture.height + 24), (20, 20, 20))
        canvas.paste(picture, (0, 0))
        text = f"{' > '.join(self.path)}  {100 * self.levels[-1].score:.0f} %"
        ImageDraw.Draw(canvas).text((6, picture.height + 6), text, fill=(240, 240, 240))
        return np.asarray(canvas)


class ClassifyEvaluator:
    """Top-1 (``fine.top1``) of each level along the consistent path, top-5 of the finest, mean mistake distance.

    There is no top-5 of fewer than ten classes.
    """

    def __init__(self, levels: Sequence[LevelSpec]) -> None:
        self.levels = [level.name for level in levels]
        self.main = f"{self.levels[-1]}.{TOP1.name}"
        self._paths: list[tuple[list[int], list[int]]] = []
        self._top5: list[bool] = []
        self._with_top5 = _with_top5(levels)

    def update(self, result: Classification, truth: Any, condition: str = "") -> None:
        """``truth`` holds one class per level, coarsest first."""
        self._paths.append(([level.index for level in result.levels], [int(x) for x in truth]))
        self._top5.append(int(truth[-1]) in np.argsort(-result.levels[-1].scores)[:5])

    def metrics(self) -> Iterator[base.Measure]:
        """Percentages and the mean mistake distance."""
        if not self._paths:
            return
        predicted, truth = np.array(self._paths, np.int64).transpose(1, 0, 2)
        hits = predicted == truth
        for k, name in enumerate(self.levels):
            yield base.rate_measure(f"{name}.{TOP1.name}", hits[:, k])
        if self._with_top5:
            yield base.rate_measure(f"{self.levels[-1]}.{TOP5.name}", self._top5)
        if len(self.levels) > 1:
            yield base.mean_measure(MISTAKE.name, mistake_distance(predicted, truth).tolist(), MISTAKE.unit)


def _names(levels: Sequence[LevelSpec]) -> list[str]:
    """As :meth:`ClassifyEvaluator.metrics` yields them."""
    finest = [f"{levels[-1].name}.{TOP5.name}"] if _with_top5(levels) else []
    finest += [MISTAKE.name] if len(levels) > 1 else []
    return [*(f"{level.name}.{TOP1.name}" for level in levels), *finest]


def _with_top5(levels: Sequence[LevelSpec]) -> bool:
    """Of few classes five answers are most of them: the figure would flatter."""
    return len(levels[-1].labels) >= FEWEST_FOR_TOP5


def output_name(level: str) -> str:
    """Name of the output that holds the probabilities of a label level."""
    return f"probs_{level}"


def _check(preprocess: Preprocess) -> None:
    if preprocess.resize == "tile":
        raise UsageError("classify needs preprocess.resize crop or stretch, not tile.", "Set preprocess.resize: crop.")


def _outputs(levels: Sequence[LevelSpec], preprocess: Preprocess, config: base.TaskConfig) -> list[base.TensorSpec]:
    what = "probability of each class of level "
    return [
        base.TensorSpec(name=output_name(x.name), shape=[1, len(x.labels)], dtype="float32", meaning=what + x.name)
        for x in levels
    ]


def _finish(raw: base.Raw, levels: Sequence[LevelSpec]) -> Classification:
    scores = [raw[output_name(level.name)] for level in levels]
    chosen = decide(scores, leaf_paths(levels))[0]
    parts = zip(levels, scores, chosen, strict=True)
    return Classification(tuple(Level(x.name, tuple(x.labels), score[0], int(index)) for x, score, index in parts))


def _baseline(cases: Iterable[base.Case], evaluator: base.Evaluator) -> base.Measure:
    """Always the most frequent finest class."""
    classes = [int(case.truth[-1]) for case in cases]
    common = Counter(classes).most_common(1)[0][0]
    return base.rate_measure(evaluator.main, [one == common for one in classes])


def _change(outputs: Sequence[NDArray[np.float32]], reference: Sequence[NDArray[np.float32]]) -> float:
    """Sum of the absolute changes of all probabilities, mean over the levels."""
    return float(np.mean([np.abs(a.astype(np.float64) - b).sum(axis=-1).mean() for a, b in zip(outputs, reference)]))


def _agreement(outputs: base.Raw, reference: base.Raw) -> float:
    """Share of equal finest classes in %."""
    finest = list(reference)[-1]
    return float(100 * np.mean(outputs[finest].argmax(axis=1) == reference[finest].argmax(axis=1)))


def _panels(image: Pixels, result: base.Result, truth: NDArray[Any], levels: Sequence[LevelSpec]) -> list[base.Panel]:
    path = " > ".join(level.labels[int(k)] for level, k in zip(levels, truth, strict=True))
    return [(f"truth: {path}", result.draw(image))]


_PLAIN = """\
labels, parents = json.loads(about["labels"]), json.loads(about["parents"])  # levels, coarsest first
path, total = np.arange(outputs[-1].shape[1]), 0
for level, scores in reversed(list(zip(labels, outputs))):  # one path that is consistent over the levels
    total = total + np.log(np.maximum(scores[0].astype(float), 1e-12))[path]
    path = np.array(parents[level])[path] if level in parents else path
best = int(total.argmax())
print(list(labels.values())[-1][best], outputs[-1][0][best])
"""


def _signs(result: Classification, photo: Pixels) -> tuple[dict[str, float], NDArray[np.float64]]:
    """The centred logits of all levels: logarithms of probabilities are logits but for a constant."""
    logs = [np.log(np.maximum(level.scores.astype(np.float64), 1e-6)) for level in result.levels]
    second, best = np.sort(result.levels[-1].scores)[-2:] if len(result.levels[-1].scores) > 1 else (0.0, 1.0)
    values = {"confidence": float(best), "margin": float(best - second)}
    return values, np.concatenate([each - each.mean() for each in logs])


SIGNS = base.Signs(
    {"confidence": "probability of the best class", "margin": "its lead over the second class"},
    "the model's logits",
    _signs,
)
CLASSIFY = base.Task(
    name="classify",
    purpose="classifies photographs",
    config=ClassifyConfig,
    layouts=("classes", "list"),
    geometry="image",
    degrades=False,
    labelled=True,
    metrics=(TOP1, TOP5, MISTAKE),
    names=_names,
    # Probabilities; metric_drop and agreement in percentage points, of which one of 32 goldens is 3.1.
    tolerances={
        "fp32": {"max_abs": 2e-3, "mean_abs": 2e-4, "min_cosine": 0.9999, "metric_drop": 0.0, "min_agreement": 100.0},
        "fp16": {"max_abs": 0.05, "mean_abs": 5e-3, "min_cosine": 0.99, "metric_drop": 4.0, "min_agreement": 93.0},
        "bf16": {"max_abs": 0.3, "mean_abs": 0.02, "min_cosine": 0.95, "metric_drop": 7.0, "min_agreement": 87.0},
        "int8": {"mean_cosine": 0.95, "metric_drop": 7.0, "min_agreement": 84.0},
    },
    golden=base.GoldenPolicy(count=32, max_bytes=6_000_000, bytes_per_pixel=3 * 0.9),
    protocol="one view, consistent path over the levels",
    check_preprocess=_check,
    outputs=_outputs,
    finish=_finish,
    evaluator=lambda levels, condition: ClassifyEvaluator(levels),
    truth=lambda image, clean, labels: np.asarray(labels, np.int64),
    baseline=_baseline,
    change=_change,
    # Answers near a tie flip for any change: on a few images hits tell nothing, how far probabilities move does.
    change_limits=(0.03, math.inf),
    panels=_panels,
    writes="table",
    example="model(image).path  # labels, coarsest level first",
    plain=_PLAIN,
    study=ClassifyStudy,
    agreement=_agreement,
    signs=SIGNS,
    start={
        "model": {"name": "vit_micro_patch16_224"},
        "preprocess": {"size": [128, 128], "resize": "crop"},
        "train": {"minutes": 20.0, "epochs": 100, "lr": 5e-4, "ema": 0.99},
    },
)
