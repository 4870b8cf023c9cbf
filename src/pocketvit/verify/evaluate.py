"""Scoring a model on images with ground truth, and the ``eval`` command."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pocketvit.data.cases import condition_names, eval_cases, main_condition
from pocketvit.data.collections import load_collection
from pocketvit.errors import DataError, UsageError
from pocketvit.files import plain
from pocketvit.progress import track
from pocketvit.runtimes.model import load
from pocketvit.spec.degradation import BlurConfig
from pocketvit.spec.recipe import DataConfig
from pocketvit.spec.split import check_whole
from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.base import Case, Evaluator, Measure, Study
from pocketvit.terminal import cell, shown, table

if TYPE_CHECKING:
    from rich.console import RenderableType


def measure(
    model: Callable[[Any], Any],
    cases: Iterable[Case],
    evaluator: Evaluator,
    progress: Callable[[], None] | None = None,
    study: Study | None = None,
) -> tuple[list[Measure], int]:
    """Run ``model`` on every case and return all metrics, and the number of cases.

    Args:
        model: a :class:`pocketvit.runtimes.model.Model` or any callable from an image to a typed result.
        cases: images with ground truth.
        evaluator: a fresh evaluator of the task.
        progress: called after each case.
        study: a fresh study of the task, which gets every case too.

    Raises:
        DataError: there is no case, or an image and its ground truth do not go together.
    """
    count = 0
    for case in cases:
        result = model(case.image)
        evaluator.update(result, case.truth, case.condition)
        if study is not None:
            study.add(case, result)
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
    rows: tuple[Measure, ...]
    count: int
    """Answers that were scored: images times noise levels."""
    seconds: float
    notes: tuple[str, ...] = ()
    """What was left out of the data."""
    details: dict[str, Any] = field(default_factory=dict)
    """What the task shows beside its metrics: input and gain of a restorer, confusions of a classifier."""
    lines: tuple[str, ...] = ()
    """The same for people."""
    exit_code: ClassVar[int] = 0

    @property
    def metrics(self) -> dict[str, float]:
        """Values by name."""
        return {row.name: row.value for row in self.rows}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        document: dict[str, Any] = plain(vars(self))
        return document | {"metrics": document.pop("rows")}

    def render(self) -> RenderableType:
        """A table with one row for each metric."""
        from rich.console import Group
        from rich.table import Column

        made = table(("metric", Column("value", justify="right"), "unit", "95 % interval"))
        for row in self.rows:
            style = "bold" if row.name == self.main_metric else ""
            value, low, high = (f"{x:.2f}" if row.unit else f"{x:.4f}" for x in (row.value, row.low, row.high))
            made.add_row(*map(cell, (row.name, value, row.unit, f"{low} to {high}")), style=style)
        caption = "\n".join((*self.lines, f"{self.count} answers in {self.seconds:.1f} s", *self.notes))
        title = f"{self.artifact} ({self.variant}) on {shown(self.dataset)}{self._headline}"
        return Group(cell(title), made, cell(caption))

    @property
    def _headline(self) -> str:
        """The main metric with its interval and the number of photos."""
        row = next((row for row in self.rows if row.name == self.main_metric), None)
        if row is None:
            return ""
        value, low, high = (f"{x:.2f}" if row.unit else f"{x:.4f}" for x in (row.value, row.low, row.high))
        return f": {row.name} {value} {row.unit} ({low} to {high}, {row.count} photos)".replace("  ", " ")


def check_limit(limit: int | None) -> None:
    """Raise ``UsageError`` unless ``limit`` is a number of images."""
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be at least 1, not {limit}.", "Leave it out to take all images.")


def eval(
    artifact: str,
    data: str,
    *,
    layout: str | None = None,
    target: str | None = None,
    class_names: str | None = None,
    eval_sigma: tuple[float, ...] = (15.0, 25.0, 50.0),
    blur: bool = False,
    limit: int | None = None,
    trust: bool = False,
    protocol: tuple[str, ...] = (),
    depth_unit: float | None = None,
) -> EvalReport:
    """Measure an artifact on a data set, with the very file that would be used.

    Restoration: PSNR and SSIM on 8-bit RGB, per image and then averaged; clean photos get Gaussian noise in the 8-bit
    protocol (noise added, rounded and clipped, the same for every run). Classification: accuracy at each level. Depth:
    errors and shares of near pixels by one or more protocols, which stand behind each name. Boxes: COCO's average
    precision.

    Args:
        artifact: artifact folder, run folder, .pvit file or the name of a shipped artifact.
        data: folder or list file.
        layout: how it is laid out; by default the first layout of its task (clean photos, class folders).
        target: runtime:precision[:threads]; by default the artifact's own.
        class_names: CSV with class names for list files.
        eval_sigma: noise levels for clean photos, 0 to 255.
        blur: blur clean photos before that, by camera shake and by defocus, as data.blur does by default.
        limit: at most so many images, evenly spread.
        trust: also run files that are programs (TorchScript), which may do anything on this machine.
        protocol: how depth is scored: plain, scenes7, nyu, kitti-garg, kitti-eigen, with +median or +least_squares
            behind it where the answer is aligned first; by default what goes with the layout.
        depth_unit: metres of one stored step of the depth maps, where that is not the layout's own.

    Raises:
        UsageError: no such artifact or variant, or the layout or protocol does not go with its task.
        DataError: the data cannot be used, or names classes that the artifact does not know.
    """
    check_limit(limit)
    model = load(artifact, target, trust=trust)
    check_whole(model.manifest.name, model.manifest.split)
    task = TASKS[model.manifest.task]
    section = DataConfig(
        layout=layout or task.layouts[0],
        class_names=class_names,
        eval_sigma=tuple(eval_sigma),
        blur=BlurConfig(probability=float(blur)),
        protocol=(protocol,) if isinstance(protocol, str) else tuple(protocol),
        depth_unit=depth_unit,
    )
    collection = load_collection([os.fspath(data)], section, task.name, "val", model.manifest.levels)
    images = len(collection.items) if limit is None else min(limit, len(collection.items))
    total = images * max(1, len(condition_names(collection, section)))
    evaluator = task.evaluator(model.manifest.levels, main_condition(section, task.name))
    study = task.study(model.manifest.levels) if task.study is not None else None
    began = time.perf_counter()
    with track(f"eval {model.manifest.name}", total) as advance:
        rows, count = measure(model, eval_cases(collection, section, limit), evaluator, advance, study)
    who, seconds = (model.manifest.name, model.target.key, collection.name), time.perf_counter() - began
    shown = (study.to_dict(), tuple(study.lines())) if study is not None else ({}, ())
    return EvalReport(*who, evaluator.main, tuple(rows), count, seconds, collection.notes, *shown)
