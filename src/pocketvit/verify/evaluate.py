"""Scoring a model on images with ground truth, and the ``eval`` command."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pocketvit.data.cases import eval_cases, main_condition
from pocketvit.data.collections import load_collection
from pocketvit.errors import DataError
from pocketvit.progress import track
from pocketvit.runtimes.model import load
from pocketvit.spec.evaluators import Evaluator, Metric, make_evaluator
from pocketvit.spec.recipe import DataConfig

if TYPE_CHECKING:
    from rich.console import RenderableType

Layout = Literal["clean", "pairs", "classes", "list", "sidd", "gopro"]
DEFAULT_LAYOUT: dict[str, Layout] = {"restore": "clean", "classify": "classes"}


class ScoredCase(Protocol):
    """What is needed of a case: see :class:`pocketvit.data.cases.Case`."""

    @property
    def image(self) -> Any:
        """(H, W, 3) uint8."""
        ...

    @property
    def truth(self) -> Any:
        """Clean (H, W, 3) uint8 image, or (levels,) int64 classes."""
        ...

    @property
    def condition(self) -> str:
        """E.g. ``sigma25``, or empty."""
        ...


def score(
    model: Callable[[Any], Any],
    cases: Iterable[ScoredCase],
    evaluator: Evaluator,
    progress: Callable[[], None] | None = None,
) -> dict[str, float]:
    """Run ``model`` on every case and return all metrics by name.

    Args:
        model: a :class:`pocketvit.runtimes.model.Model` or any callable from an image to a typed result.
        cases: images with ground truth.
        evaluator: a fresh evaluator of the task.
        progress: called after each case.

    Raises:
        DataError: there is no case, or an image and its ground truth do not go together.
    """
    return {name: value for name, value, _ in _run(model, cases, evaluator, progress)[0]}


def _run(
    model: Callable[[Any], Any], cases: Iterable[ScoredCase], evaluator: Evaluator, progress: Callable[[], None] | None
) -> tuple[list[Metric], int]:
    count = 0
    for case in cases:
        evaluator.update(model(case.image), case.truth, case.condition)
        count += 1
        if progress is not None:
            progress()
    if count == 0:
        raise DataError("there are no images to score.", "Check the data path and its layout.")
    return list(evaluator.metrics()), count


@dataclass(frozen=True)
class EvalReport:
    """Metrics of one variant of an artifact on a data set."""

    artifact: str
    variant: str
    dataset: str
    main_metric: str
    rows: tuple[Metric, ...]
    """(name, value, unit)."""
    count: int
    """Answers that were scored: images times noise levels."""
    seconds: float
    notes: tuple[str, ...] = ()
    """What was left out of the data."""
    exit_code: int = 0

    @property
    def metrics(self) -> dict[str, float]:
        """Values by name."""
        return {name: value for name, value, _ in self.rows}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "artifact": self.artifact,
            "variant": self.variant,
            "dataset": self.dataset,
            "main_metric": self.main_metric,
            "metrics": [{"name": name, "value": value, "unit": unit} for name, value, unit in self.rows],
            "count": self.count,
            "seconds": self.seconds,
            "notes": list(self.notes),
        }

    def render(self) -> RenderableType:
        """A table with one row for each metric."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        table.add_column("metric")
        table.add_column("value", justify="right")
        table.add_column("unit")
        for name, value, unit in self.rows:
            style = "bold" if name == self.main_metric else ""
            table.add_row(name, f"{value:.4f}" if unit == "" else f"{value:.2f}", unit, style=style)
        caption = "\n".join((f"{self.count} answers in {self.seconds:.1f} s", *self.notes))
        return Group(Text(f"{self.artifact} ({self.variant}) on {self.dataset}"), table, Text(caption))


def eval(
    artifact: str,
    data: str,
    *,
    layout: Layout | None = None,
    target: str | None = None,
    class_names: str | None = None,
    eval_sigma: tuple[float, ...] = (15.0, 25.0, 50.0),
    limit: int | None = None,
) -> EvalReport:
    """Measure an artifact on a data set, with the very file that would be used.

    Restoration: PSNR and SSIM on 8-bit RGB, per image and then averaged; clean photos get Gaussian noise in the 8-bit
    protocol (noise added, rounded and clipped, the same for every run). Classification: accuracy at each level.

    Args:
        artifact: artifact folder, run folder, .pvit file or the name of a shipped artifact.
        data: folder or list file.
        layout: how it is laid out; by default clean photos (restore) or class folders (classify).
        target: runtime:precision[:threads]; by default the artifact's own.
        class_names: CSV with class names for list files.
        eval_sigma: noise levels for clean photos, 0 to 255.
        limit: at most so many images, evenly spread.

    Raises:
        UsageError: no such artifact or variant, or the layout does not go with its task.
        DataError: the data cannot be used, or names classes that the artifact does not know.
    """
    model = load(artifact, target)
    task = model.manifest.task
    section = DataConfig(layout=layout or DEFAULT_LAYOUT[task], class_names=class_names, eval_sigma=tuple(eval_sigma))
    collection = load_collection([data], section, task, "val", model.manifest.levels)
    images = len(collection.items) if limit is None else min(limit, len(collection.items))
    total = images * (len(section.eval_sigma) if section.layout == "clean" else 1)
    evaluator = make_evaluator(task, model.manifest.levels, main_condition(section, task))
    began = time.perf_counter()
    with track(f"eval {model.manifest.name}", total) as advance:
        rows, count = _run(model, eval_cases(collection, section, limit), evaluator, advance)
    key = f"{model.target.runtime}:{model.target.precision}"
    return EvalReport(
        model.manifest.name,
        key,
        collection.name,
        evaluator.main,
        tuple(rows),
        count,
        time.perf_counter() - began,
        collection.notes,
    )
