"""What a task is on the device side, as one record without torch: outputs, answers, metrics, tolerances, pictures.

The other half, of the same name, is in :mod:`pocketvit.tasks`. Nothing outside these two folders names a task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pocketvit.errors import UsageError
from pocketvit.spec.hierarchy import LevelSpec
from pocketvit.spec.images import read_image
from pocketvit.spec.preprocess import Pixels, Preprocess
from pocketvit.spec.target import JUDGED_AS
from pocketvit.spec.tasks.strength import Strength

Raw = Mapping[str, NDArray[Any]]
"""Outputs by name, with a batch dimension: float32, or uint8 where tiles were blended to pixels."""
Panel = tuple[str, Pixels]
"""A label and an (H, W, 3) uint8 RGB picture."""


class TensorSpec(BaseModel):
    """An input or output of the model files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    shape: list[int]
    dtype: str
    meaning: str = Field(description="Layout, range, unit and colour order in words.")


@dataclass(frozen=True)
class TaskConfig:
    """What the model must do. Each task has a subclass with fields of its own: the keys of the recipe's ``task``."""

    name: str = ""
    """A row of the table of tasks (``pocketvit.spec.tasks.TASKS``)."""


@dataclass(frozen=True)
class MetricSpec:
    """A metric and how its values are compared."""

    name: str
    """Base name: ``top1`` of ``fine.top1``, ``psnr`` of ``psnr@sigma25``."""
    unit: str
    default_drop: float
    """Largest accepted loss against the float model where the recipe states no floor, in ``unit``."""
    tie: float = 0.0
    """Values that differ by no more than this are equal, in ``unit``."""
    higher_is_better: bool = True
    rate: bool = False
    """A percentage of counted answers: one image is a tie too, and intervals are Wilson's."""

    def tie_of(self, count: int) -> float:
        """The tie on ``count`` answers: for a rate at least one image."""
        return max(self.tie, 100.0 / count) if self.rate and count else self.tie

    def text(self, value: float, low: float | None = None, high: float | None = None, count: int = 0) -> str:
        """The value for people, with unit, interval and photos where known: ``89.5 % (85.5 to 92.5, 296 photos)``."""
        digits = 1 if self.rate else max(2, math.ceil(-math.log10(self.tie or 1)))
        interval = [] if low is None or high is None else [f"{low:.{digits}f} to {high:.{digits}f}"]
        inside = ", ".join([*interval, *([f"{count} photos"] if count else [])])
        return f"{value:.{digits}f} {self.unit}".rstrip() + (f" ({inside})" if inside else "")

    def loss(self, value: float, reference: float) -> float:
        """By how much ``value`` is worse than ``reference`` (negative where it is better), in ``unit``."""
        return reference - value if self.higher_is_better else value - reference


@dataclass(frozen=True)
class Measure:
    """A measured value with its 95 % interval."""

    name: str
    value: float
    unit: str
    count: int
    """Answers that it is the mean of."""
    low: float
    high: float


def mean_measure(name: str, values: Sequence[float], unit: str) -> Measure:
    """The mean of independent values with the normal 95 % interval of a mean (1.96 standard errors)."""
    mean = float(np.mean(values))
    half = 1.96 * float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Measure(name, mean, unit, len(values), mean - half, mean + half)


def rate_measure(name: str, hits: Sequence[bool] | NDArray[np.bool_]) -> Measure:
    """A share of hits in percent with Wilson's 95 % interval (Wilson 1927): 265 of 296 is 85.5 to 92.5 %."""
    n, p, z = len(hits), float(np.mean(hits)), 1.959964
    centre, spread = (p + z * z / (2 * n)) / (1 + z * z / n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    half = spread / (1 + z * z / n)
    return Measure(name, 100 * p, "%", n, 100 * max(0.0, centre - half), 100 * min(1.0, centre + half))


class Evaluator(Protocol):
    """Collects answers one by one."""

    main: str
    """Name of the main metric."""

    def update(self, result: Any, truth: Any, condition: str = "") -> None:
        """Add one answer with its ground truth; ``condition`` (e.g. ``sigma25``) keeps averages apart."""

    def metrics(self) -> Iterator[Measure]:
        """All averages so far; nothing where there were no answers."""


class Result(Protocol):
    """A typed, drawable answer."""

    def to_dict(self, top: int = 5) -> dict[str, Any]:
        """JSON form; of a ranking the ``top`` best."""

    def cells(self, top: int = 5) -> dict[str, str]:
        """One row of a table of answers: column to text."""

    @property
    def line(self) -> str:
        """The answer in a few words."""

    def draw(self, source: Pixels) -> Pixels:
        """The picture to look at."""


class Follower(Protocol):
    """Answers of one stream, each in view of those before it."""

    def steady(self, result: Any) -> Any:
        """The answer, steadied by those before it."""

    def draw(self, result: Any, source: Pixels) -> Pixels:
        """The picture of a steadied answer, in colours that do not jump."""

    def reset(self) -> None:
        """Begin anew, where the stream was broken."""

    def to_dict(self) -> dict[str, Any]:
        """Settings and what was measured."""

    @property
    def line(self) -> str:
        """What was measured, in words; empty where there is nothing."""


@dataclass(frozen=True)
class GoldenPolicy:
    """How many goldens an artifact keeps and how."""

    count: int
    max_bytes: int
    """Estimated limit of ``golden.npz``; there is at least one golden."""
    bytes_per_pixel: float
    """Estimated packed bytes of one pixel of an input, its truth and its output together."""
    round_to: float | None = None
    """Outputs are rounded to multiples of this, so that they pack."""
    kept: Callable[[NDArray[Any], tuple[int, int]], NDArray[Any]] = lambda truth, size: truth
    """Ground truth as goldens keep it, all of one shape, from that of a case and the model's height and width."""
    fault: Callable[[NDArray[Any], NDArray[np.uint8]], str] = lambda truths, inputs: ""
    """What is wrong with kept truths (N, ...) for inputs (N, H, W, 3), in a phrase; empty where nothing is."""


Truth = NDArray[Any]
"""What the file beside a photo holds: (H, W, 3) uint8; or a map (H, W): float32 where 0 is no value, or uint8; or boxes
(N, 5) float32: class, then left, top, right, bottom in shares of the photo, 0 to 1."""


def _same_size(photo: tuple[int, int], partner: tuple[int, int]) -> bool:
    return photo == partner


@dataclass(frozen=True)
class Partner:
    """The file beside a photo that holds its ground truth, pixel by pixel."""

    name: str = "clean partner"
    """For people: "its clean partner"."""
    read: Callable[[Path, float], Truth] = lambda path, unit: read_image(path)
    """(file, what one stored step stands for) to its content; ``DataError`` where it cannot be used."""
    fits: Callable[[tuple[int, int], tuple[int, int]], bool] = _same_size
    """Whether a photo and a partner of these heights and widths go together."""
    enlarged: Callable[[Truth, float], Truth] = lambda truth, factor: truth
    """The truth of a part of the photo that is shown larger by this factor, as a longer lens would show it."""
    fault: Callable[[Truth, Sequence[LevelSpec]], str] = lambda truth, levels: ""
    """What is wrong with its content for these classes, in a phrase; empty where nothing is."""
    doctor: str = ""
    """Options of ``pocketvit doctor`` that look at these files too; ``{layout}`` is that of the data."""


def no_protocols(asked: Sequence[str], layout: str) -> tuple[str, ...]:
    """Of tasks whose answers are scored in one way alone.

    Raises:
        UsageError: a protocol is asked for.
    """
    if asked:
        what = f"data.protocol {', '.join(asked)[:80]} does not go with this task: it is scored in one way alone."
        raise UsageError(what, "Leave it out.")
    return ()


class Case(Protocol):
    """A question with its answer: see :class:`pocketvit.data.cases.Case`."""

    @property
    def image(self) -> Pixels:
        """(H, W, 3) uint8 RGB, as the model's user has it."""

    @property
    def truth(self) -> NDArray[Any]:
        """Ground truth of the task."""

    @property
    def condition(self) -> str:
        """Which averages it belongs to."""


class Study(Protocol):
    """What an evaluation shows beside its metrics; it collects case by case."""

    def add(self, case: Case, result: Any) -> None:
        """Take in one case with its answer."""

    def lines(self) -> list[str]:
        """Sentences for people; warnings begin with ``Warning:``."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""

    def pictures(self) -> list[tuple[str, list[Panel]]]:
        """Captions and the panels that are shown side by side."""


@dataclass(frozen=True)
class Wishes:
    """What ``predict`` is asked to write beside the picture of each answer."""

    npy: bool = False
    """The values as they are, as a NumPy file."""
    ply: bool = False
    """A cloud of points, in metres."""
    fov: float | None = None
    """Of the camera, horizontally, in degrees."""
    intrinsics: tuple[float, float, float, float] | None = None
    """Of the camera, in the photo's pixels: focal lengths fx and fy, centre cx and cy."""


Extra = Callable[[Path, Any, Pixels], str]
"""(file, result, photo): write what is there beside the picture of an answer; what a reader must know of it, if
anything."""


def no_extras(wishes: Wishes, config: TaskConfig) -> dict[str, Extra]:
    """Of tasks whose answers are written in one way alone.

    Raises:
        UsageError: something else is asked for.
    """
    asked = [name for name, value in vars(wishes).items() if value]
    if asked:
        raise UsageError(f"{asked[0]} does not go with the answers of this artifact.", "Leave it out.")
    return {}


@dataclass(frozen=True)
class Signs:
    """What is watched of the answers of a served model, so that one notices when its photos change."""

    statistics: Mapping[str, str]
    """Name of each number to what it is."""
    embedding: str
    """What the vector is, for people."""
    read: Callable[[Any, Pixels], tuple[dict[str, float], NDArray[np.float64]]]
    """(result, photo) to the numbers and the vector (D,), D the same for all answers of a model; neither may hold a
    picture."""


@dataclass(frozen=True)
class Task:
    """One task on the device side."""

    name: str
    purpose: str
    """For people, after "a vision transformer that": ``classifies photographs``."""
    config: type[TaskConfig]
    """The recipe's ``task`` section."""
    layouts: tuple[str, ...]
    """Data layouts it can read, the default one first."""
    geometry: Literal["image", "pixels", "maps", "boxes"]
    """``image``: a photo is resized to the model's input and has one answer; ``pixels``: it keeps its resolution, is
    covered with tiles, and crops of photo and truth go together; ``maps``: it is resized to the model's input, and so
    is the map (H, W) that is its truth; ``boxes``: it is resized, and its truth are boxes in shares of the photo, which
    go with what is cut and flipped."""
    degrades: bool
    """Clean photos (layout ``clean``) get synthetic noise, and are their own ground truth."""
    labelled: bool
    """Samples carry classes of a label hierarchy."""
    metrics: tuple[MetricSpec, ...]
    tolerances: Mapping[str, Mapping[str, float]]
    """By precision: how far an exported file may be from the trained model on the goldens. ``max_abs`` and ``mean_abs``
    are in the outputs' own unit, or where ``relative`` shares of a golden's mean absolute value. A precision that is
    not stated and is judged as another (``spec.target.JUDGED_AS``) has the limits of that."""
    golden: GoldenPolicy
    protocol: str
    """How the metric is computed, for tables."""
    check_preprocess: Callable[[Preprocess], None]
    """Raise ``UsageError`` where the preprocessing does not suit the task."""
    outputs: Callable[[Sequence[LevelSpec], Preprocess, Any], list[TensorSpec]]
    """What every file answers, in order, for a label hierarchy, preprocessing and the recipe's ``task``; of a task with
    ``pixels`` the first has the input's height and width."""
    finish: Callable[[Raw, Sequence[LevelSpec]], Result]
    """Raw outputs, each with a batch dimension of 1, to the typed answer."""
    evaluator: Callable[[Sequence[LevelSpec], str], Evaluator]
    """For a label hierarchy and the main condition (``sigma25``, or empty)."""
    truth: Callable[[Pixels, Truth | None, tuple[int, ...]], NDArray[Any]]
    """Ground truth of a sample from its image, what its partner holds and its classes."""
    baseline: Callable[[Iterable[Case], Evaluator], Measure]
    """The main metric of the best answer that needs no learning: the input itself, the most frequent class."""
    change: Callable[[Sequence[NDArray[np.float32]], Sequence[NDArray[np.float32]]], float]
    """How far the outputs of one image moved from a reference: what sensitivity rankings sum up."""
    change_limits: tuple[float, float]
    """Largest mean ``change`` and largest loss of the main metric that a shrunk file may show on calibration images."""
    panels: Callable[[Pixels, Result, NDArray[Any], Sequence[LevelSpec]], list[Panel]]
    """(input, answer, truth, levels) to pictures that are shown side by side."""
    writes: Literal["picture", "table"]
    """What ``predict`` writes: a picture for each image (``Result.draw``), or a table of answers (``Result.cells``)."""
    example: str
    """A line of Python for the card: ``model(image)`` and what to take of it."""
    extras: Callable[[Wishes, Any], Mapping[str, Extra]] = no_extras
    """(what is asked for, the recipe's ``task``) to the files that are written beside each picture, by the end of their
    names (``.points.ply``); ``UsageError`` where that does not go together."""
    plain: str = ""
    """Python for the card, behind the code that runs a file without pocketvit: from ``outputs`` (arrays with a batch
    dimension of 1; where the geometry is ``pixels`` from ``answer``, one blended image) to what a reader wants."""
    relative: bool = False
    """Differences from goldens are shares of each golden's mean: the range of answers differs between photos."""
    partner: Partner = Partner()
    """How the files are read that lie beside photos."""
    conditions: Callable[[Sequence[str], str], Sequence[str]] = no_protocols
    """(the recipe's ``data.protocol``, layout) to the conditions under which every case is scored, the main one first;
    ``UsageError`` where there are none of these names. Empty where there is one way alone; where photos are degraded
    (``degrades``), how they are is the condition."""
    names_parts: bool = False
    """Parts of a photo have a class, of one level; samples carry none. Layout or ``data.class_names`` name them."""
    names: Callable[[Sequence[LevelSpec]], list[str]] | None = None
    """Full names of the metrics, where they are not those of ``metrics`` for each condition."""
    study: Callable[[Sequence[LevelSpec]], Study] | None = None
    """Collects what is shown beside the metrics."""
    agreement: Callable[[Raw, Raw], float] | None = None
    """Share in % of (N, ...) answers that decide as a reference does; None where they decide nothing."""
    strength: Strength | None = None
    """How strongly it may work, where that can be chosen for each image; needs ``adjust``."""
    adjust: Callable[[Pixels, Callable[[Pixels], Result], float], Result] | None = None
    """(image, how to answer for an image, strength) to the answer of that strength; 1 is the plain answer."""
    follow: Callable[[float | None], Follower] | None = None
    """How strongly a stream is smoothed (0 to below 1, None as the task likes) to what does it; None where each answer
    stands alone."""
    signs: Signs | None = None
    """What a server watches of its answers."""
    stack: Callable[[Sequence[NDArray[Any]]], NDArray[Any]] = np.stack
    """The truths of several photos as one array (B, ...)."""
    start: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Sections of a first recipe for photos without one: small, and trained in minutes on a processor."""

    def __post_init__(self) -> None:
        like = {name: self.tolerances[other] for name, other in JUDGED_AS.items() if other in self.tolerances}
        object.__setattr__(self, "tolerances", {**like, **self.tolerances})

    def metric(self, name: str) -> MetricSpec:
        """How values of a metric are compared, by its full name (``fine.top1``, ``psnr@sigma25``).

        Raises:
            KeyError: the task has no such metric.
        """
        base = name.partition("@")[0].rpartition(".")[2]
        return {spec.name: spec for spec in self.metrics}[base]

    def metric_names(self, levels: Sequence[LevelSpec], conditions: Sequence[str]) -> list[str]:
        """Full names of all metrics that the evaluator yields for a label hierarchy and conditions (``sigma25``)."""
        if self.names is not None:
            return self.names(levels)
        suffixes = [f"@{condition}" if condition else "" for condition in conditions or [""]]
        return [f"{spec.name}{suffix}" for suffix in suffixes for spec in self.metrics]

    def main(self, levels: Sequence[LevelSpec] = (), condition: str = "") -> str:
        """Name of the main metric."""
        return self.evaluator(levels, condition).main
