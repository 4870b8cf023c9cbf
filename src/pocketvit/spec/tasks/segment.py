"""A class for every pixel of a photograph, scored by the mean overlap of answer and truth (mIoU).

K classes; h, w the size of the answer, the model's over ``stride``; H, W that of the photo or its mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocketvit.errors import DataError, UsageError
from pocketvit.spec.hierarchy import LevelSpec
from pocketvit.spec.mask_files import IGNORED, MOST_CLASSES, read_mask, unknown_class
from pocketvit.spec.mask_pictures import Classes, classes_at, painted, with_legend
from pocketvit.spec.mask_stream import MaskStream
from pocketvit.spec.preprocess import Pixels, Preprocess, nearest
from pocketvit.spec.tasks import base
from pocketvit.spec.tasks.segment_scores import PIXELS_RIGHT, Overlaps, class_metric
from pocketvit.spec.tasks.segment_study import SegmentStudy
from pocketvit.spec.typed import Range, check_ranges

OUTPUT = "probs"
MIOU = base.MetricSpec("miou", "%", default_drop=1.0, tie=0.2)
ACCURACY = base.MetricSpec(PIXELS_RIGHT, "%", default_drop=0.5, tie=0.1)
IOU = base.MetricSpec("iou", "%", default_drop=2.0, tie=0.4)
MOST_NAMED = 24
"""Of so many classes each overlap is a metric of its own; of more they would hide the mean."""
MOST_TRUTH = 160
"""Rows of a mask that :func:`_baseline` keeps at most: it holds all of them at once."""


@dataclass(frozen=True)
class SegmentConfig(base.TaskConfig):
    """How classes are learnt and answered. Their names come with the data: ``classes.txt``, or ``data.class_names``."""

    name: str = "segment"
    stride: int = 2
    """Pixels of the model's input, along each side, to one value of its answer; the photo gets it interpolated."""
    class_weights: Literal["none", "balanced"] = "none"
    """``balanced`` weighs pixels by the inverse of their class's share in the training masks, at most twenty times."""
    dice_weight: float = 0.0
    """Weight of the Dice loss beside cross-entropy: classes count alike there, however few pixels they have."""

    def __post_init__(self) -> None:
        check_ranges("task", self, {"stride": Range(1, 32), "dice_weight": Range(0, 1e4)})


@dataclass(frozen=True, repr=False)
class Segmentation:
    """The class of every pixel."""

    probs: NDArray[np.float32] = field(repr=False)
    """(K, h, w) float32: the probability of each class, h and w those of the model's answer."""
    labels: tuple[str, ...]
    """Names of the classes."""

    def __repr__(self) -> str:
        return f"<Segmentation {self.line}>"

    @property
    def classes(self) -> Classes:
        """(h, w) uint8: the most probable class."""
        return np.asarray(self.probs.argmax(axis=0), np.uint8)

    @property
    def shares(self) -> NDArray[np.float64]:
        """(K,) float64: the share of the picture that each class takes, 0 to 1."""
        found = self.classes
        return np.bincount(found.ravel(), minlength=len(self.labels)) / found.size

    def resized(self, height: int, width: int) -> Classes:
        """(height, width) uint8: the class of each pixel of a photo of that size."""
        return classes_at(self.probs, (height, width))

    def tinted(self, source: Pixels) -> Pixels:
        """``source`` in the colours of the classes, with lines between them."""
        return painted(source, self.resized(*source.shape[:2]), len(self.labels))

    def draw(self, source: Pixels) -> Pixels:
        """The same with a legend in the upper left corner."""
        return with_legend(self.tinted(source), self.labels, self.shares)

    def ranked(self) -> list[tuple[str, float]]:
        """Classes that are there with their shares, the largest first."""
        shares = self.shares
        order = np.argsort(-shares, kind="stable")
        return [(self.labels[k], float(shares[k])) for k in order if shares[k]]

    def to_dict(self, top: int = 5) -> dict[str, Any]:
        """JSON summary: size of the answer, and the share of each class that is there (the pixels go to a file)."""
        size = {"height": int(self.probs.shape[1]), "width": int(self.probs.shape[2])}
        classes = [{"label": label, "share": share} for label, share in self.ranked()]
        return {"task": "segment", **size, "confidence": float(self.probs.max(axis=0).mean()), "classes": classes}

    def cells(self, top: int = 5) -> dict[str, str]:
        """The share of every class."""
        return {label: f"{share:.4f}" for label, share in zip(self.labels, self.shares, strict=True)}

    @property
    def line(self) -> str:
        """The three largest classes."""
        return ", ".join(f"{label} {100 * share:.1f} %" for label, share in self.ranked()[:3])


class SegmentEvaluator:
    """``miou``, ``pixel_accuracy``, and of up to 24 classes the overlap of each (``road.iou``), in percent.

    Counted over the pixels of all images together, as data sets report it; ignored pixels are left out. Answers are
    brought to the size of their mask.
    """

    def __init__(self, levels: Sequence[LevelSpec]) -> None:
        self.main = MIOU.name
        self._labels = levels[-1].labels
        self._overlaps = Overlaps(len(self._labels))

    def update(self, result: Segmentation, truth: Any, condition: str = "") -> None:
        """``truth`` is (H, W) uint8, 255 where nothing is known.

        Raises:
            DataError: it holds a class that does not exist.
        """
        mask = np.asarray(truth)
        if fault := unknown_class(mask, len(self._labels)):
            raise DataError(f"a mask {fault}.", "Score with the masks and classes that the model was made for.")
        self._overlaps.add(result.resized(*mask.shape), mask)

    def metrics(self) -> Iterator[base.Measure]:
        """Figures with 95 % intervals, images being independent; classes that are nowhere have none.

        Raises:
            DataError: all pixels of all masks are ignored.
        """
        if not self._overlaps.images:
            return
        if not self._overlaps.pixels:
            raise DataError(f"all pixels of all masks are ignored ({IGNORED}).", "Name data with masks to score with.")
        yield self._overlaps.mean(MIOU.name)
        yield self._overlaps.right(ACCURACY.name)
        if len(self._labels) <= MOST_NAMED:
            yield from self._overlaps.each([class_metric(label, IOU.name) for label in self._labels])


def _names(levels: Sequence[LevelSpec]) -> list[str]:
    """As :meth:`SegmentEvaluator.metrics` yields them where every class is there."""
    labels = levels[-1].labels
    each = [class_metric(label, IOU.name) for label in labels] if len(labels) <= MOST_NAMED else []
    return [MIOU.name, ACCURACY.name, *each]


def _check(preprocess: Preprocess) -> None:
    if preprocess.resize != "stretch":
        what = f"segment needs preprocess.resize stretch, not {preprocess.resize}."
        raise UsageError(what, "Every pixel of the photo gets a class: set preprocess.resize: stretch.")


def answer_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """(h, w) of the answer for a model's input of ``size``: over the stride, rounded up."""
    return -(-size[0] // stride), -(-size[1] // stride)


def _outputs(levels: Sequence[LevelSpec], preprocess: Preprocess, config: Any) -> list[base.TensorSpec]:
    if len(levels) != 1 or not 2 <= len(levels[0].labels) <= MOST_CLASSES:
        counts = ", ".join(str(len(level.labels)) for level in levels)
        raise UsageError(f"masks have one level of 2 to {MOST_CLASSES} classes, not {counts}.", "Correct the classes.")
    stride = getattr(config, "stride", SegmentConfig.stride)
    shape = [1, len(levels[-1].labels), *answer_size(preprocess.size, stride)]
    return [base.TensorSpec(name=OUTPUT, shape=shape, dtype="float32", meaning="probability of each class, by pixel")]


def _finish(raw: base.Raw, levels: Sequence[LevelSpec]) -> Segmentation:
    return Segmentation(np.asarray(raw[OUTPUT][0], np.float32), tuple(levels[-1].labels))


def _truth(image: Pixels, mask: base.Truth | None, labels: tuple[int, ...]) -> Classes:
    """Classes; of a photo without a mask nothing is known."""
    return np.full(image.shape[:2], IGNORED, np.uint8) if mask is None else mask


def _kept(truth: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    return nearest(truth, size)


def _fault(truths: NDArray[Any], inputs: Pixels) -> str:
    if truths.dtype == np.uint8 and truths.shape == inputs.shape[:3]:
        return "" if (truths != IGNORED).any() else f"all pixels of the golden masks are ignored ({IGNORED})"
    return f"the ground truth is {truths.dtype} {truths.shape}, not classes {inputs.shape[:3]} as the inputs"


def _baseline(cases: Iterable[base.Case], evaluator: base.Evaluator) -> base.Measure:
    """Everywhere the class that most pixels have."""
    kept = []
    for case in cases:
        step = max(1, case.truth.shape[0] // MOST_TRUTH)
        kept.append(case.truth[::step, ::step])
    counts = sum(np.bincount(truth.ravel(), minlength=256)[:IGNORED] for truth in kept)
    common = int(np.argmax(counts))
    labels = tuple(str(k) for k in range(common + 1))
    probs = (np.arange(len(labels)) == common).astype(np.float32)[:, None, None]
    for truth in kept:
        evaluator.update(Segmentation(probs, labels), truth)
    return next(measure for measure in evaluator.metrics() if measure.name == evaluator.main)


def _change(outputs: Sequence[NDArray[np.float32]], reference: Sequence[NDArray[np.float32]]) -> float:
    """Sum of the absolute changes of a pixel's probabilities, mean over the pixels; 2 where all is changed."""
    moved = [np.abs(a.astype(np.float64) - b).sum(axis=-3).mean() for a, b in zip(outputs, reference, strict=True)]
    return float(np.mean(moved))


def _agreement(outputs: base.Raw, reference: base.Raw) -> float:
    """Share of pixels of equal class in %."""
    return float(100 * np.mean(outputs[OUTPUT].argmax(axis=1) == reference[OUTPUT].argmax(axis=1)))


def _panels(image: Pixels, result: base.Result, truth: NDArray[Any], levels: Sequence[LevelSpec]) -> list[base.Panel]:
    """Photo, answer and truth, in the same colours."""
    wanted = painted(image, nearest(truth, (image.shape[0], image.shape[1])), len(levels[-1].labels))
    return [("photo", image), ("classes", result.draw(image)), ("truth", wanted)]


def _extras(wishes: base.Wishes, config: Any) -> Mapping[str, base.Extra]:
    """Class indices as an 8-bit PNG at the photo's size; or the probabilities as they are."""
    asked = {name: value for name, value in vars(wishes).items() if name != "npy"}
    base.no_extras(base.Wishes(**asked), config)
    return {".probs.npy": _save} if wishes.npy else {".classes.png": _save_png}


def _save(path: Path, result: Segmentation, photo: Pixels) -> str:
    np.save(path, result.probs)
    return ""


def _save_png(path: Path, result: Segmentation, photo: Pixels) -> str:
    Image.fromarray(result.resized(*photo.shape[:2])).save(path)
    return ""


def _signs(result: Segmentation, photo: Pixels) -> tuple[dict[str, float], NDArray[np.float64]]:
    best = result.probs.max(axis=0)
    values = {"confidence": float(best.mean()), "unsure": float((best < 0.5).mean())}
    logs = np.log(np.maximum(result.probs.mean(axis=(1, 2)).astype(np.float64), 1e-4))
    return values, logs - logs.mean()


_PLAIN = """\
classes = outputs[0][0].argmax(axis=0)  # (h, w): the class of each pixel of the stretched photo
for index, label in enumerate(json.loads(about["labels"])["label"]):
    print(label, (classes == index).mean())
"""
SIGNS = base.Signs(
    {
        "confidence": "mean probability of each pixel's best class",
        "unsure": "share of pixels without a class above 0.5",
    },
    "the logarithms of the classes' mean probabilities",
    _signs,
)
SEGMENT = base.Task(
    name="segment",
    purpose="gives each pixel of a photograph a class",
    config=SegmentConfig,
    layouts=("masks",),
    geometry="maps",
    degrades=False,
    labelled=False,
    names_parts=True,
    metrics=(MIOU, ACCURACY, IOU),
    names=_names,
    # Probabilities of many pixels, of which some always lie at a border; metric_drop in points of mIoU.
    tolerances={
        "fp32": {"max_abs": 0.05, "mean_abs": 1e-3, "min_cosine": 0.9999, "metric_drop": 0.2, "min_agreement": 99.5},
        "fp16": {"max_abs": 0.3, "mean_abs": 5e-3, "min_cosine": 0.999, "metric_drop": 0.5, "min_agreement": 98.5},
        "bf16": {"mean_abs": 0.03, "min_cosine": 0.99, "metric_drop": 2.0, "min_agreement": 96.0},
        "int8": {"mean_cosine": 0.97, "metric_drop": 4.0, "min_agreement": 92.0},
    },
    # A photo packs to about 0.9 of its 8 bits, a mask to less than 1, rounded probabilities at a quarter to about 2.
    golden=base.GoldenPolicy(
        count=4, max_bytes=4_000_000, bytes_per_pixel=3 * 0.9 + 3.0, round_to=1 / 4096, kept=_kept, fault=_fault
    ),
    protocol="answers resized to the masks, counted over all pixels but ignored ones",
    check_preprocess=_check,
    outputs=_outputs,
    finish=_finish,
    evaluator=lambda levels, condition: SegmentEvaluator(levels),
    truth=_truth,
    baseline=_baseline,
    change=_change,
    change_limits=(0.1, 1.0),
    panels=_panels,
    writes="picture",
    extras=_extras,
    example="model(image).classes  # (h, w) uint8 at the answer's size; .resized(height, width), .labels, .draw(photo)",
    plain=_PLAIN,
    partner=base.Partner(
        "mask",
        read_mask,
        fault=lambda mask, levels: unknown_class(mask, len(levels[-1].labels)) if levels else "",
        doctor=" --masks",
    ),
    study=SegmentStudy,
    agreement=_agreement,
    follow=MaskStream,
    signs=SIGNS,
    start={
        "model": {"name": "pocketdepth"},
        "preprocess": {"resize": "stretch", "size": [240, 320]},
        "train": {"minutes": 60.0, "epochs": 200, "lr": 5e-4, "batch_size": 8, "ema": 0.99},
    },
)
