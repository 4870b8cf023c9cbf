"""What a report is made of, and how a run keeps it (``report.json`` and ``pictures/``) to be drawn again."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocketvit.errors import DataError
from pocketvit.files import plain, write_json, writing
from pocketvit.spec.tasks.base import Panel as Panel

REPORT_JSON, PICTURES = "report.json", "pictures"


@dataclass(frozen=True)
class CandidateRow:
    """One candidate: what it measured and what became of it."""

    name: str
    metric: float | None
    """Main metric of this very file; ``None`` where it was dropped before scoring."""
    p50_ms: float | None
    p90_ms: float | None
    size_mb: float | None
    memory_mb: float | None
    verdict: str
    """A word or two: ``chosen``, ``fits``, ``too slow``, ``rejected``."""
    reason: str = ""
    """One sentence: why."""
    chosen: bool = False
    metric_interval: tuple[float, float] | None = None
    """95 % interval of ``metric``."""
    p50_interval: tuple[float, float] | None = None
    """95 % interval of ``p50_ms``."""
    count: int | None = None
    """Photos that the metric was measured on."""
    image: tuple[int, int] | None = None
    """Height and width of the image that was timed."""

    @property
    def interval(self) -> str:
        """``85.5 to 92.5, 296 photos``, as far as it is known."""
        ends = [" to ".join(figure(x, digits=3) for x in self.metric_interval)] if self.metric_interval else []
        return ", ".join([*ends, f"{self.count} photos"]) if self.count else "".join(ends)


@dataclass(frozen=True)
class ReportData:
    """Everything the report shows, in plain types and arrays."""

    title: str
    task: str
    metric_name: str
    metric_unit: str
    budget: dict[str, Any] = field(default_factory=dict)
    """Limits by name (``latency_ms``, ``percentile``, ``size_mb``, ``memory_mb``); ``None`` is no limit."""
    floor: dict[str, Any] = field(default_factory=dict)
    """The floor that was applied: ``value`` (absolute) and ``max_drop`` of ``metric``; ``None`` is no floor."""
    candidates: Sequence[CandidateRow] = ()
    pictures: Sequence[tuple[str, Sequence[Panel]]] = ()
    """(caption, [(label, (H, W, 3) uint8 RGB), ...]): panels that are shown side by side."""
    environment: dict[str, Any] = field(default_factory=dict)
    lineage: Sequence[dict[str, Any]] = ()
    """Steps in order, in the fields of ``spec.manifest.LineageStep``."""
    rankings: dict[str, Sequence[tuple[str, float]]] = field(default_factory=dict)
    """By step: (layer, loss of the metric or error caused by it alone)."""
    exits: dict[str, Sequence[dict[str, Any]]] = field(default_factory=dict)
    """By file with early exits: for each threshold ``threshold``, ``shares`` of the photos by exit, ``metric``, ``ms``
    (mean; ``None`` where it was not timed), ``chosen``; see :class:`pocketvit.compress.early_exit.Point`."""
    curves: str | Path | None = None
    """CSV of a training run with an ``epoch`` or ``step`` column."""
    notes: Sequence[str] = ()
    headline: str = ""
    """One sentence; made from the chosen candidate where it is empty."""
    verification: dict[str, Any] | None = None
    """``passed`` and ``checks`` (dicts with ``name``, ``passed``, ``detail``)."""

    @property
    def chosen(self) -> CandidateRow | None:
        """The candidate that was handed over, if any."""
        return next((row for row in self.candidates if row.chosen), None)

    @property
    def verdict(self) -> str:
        """The headline, or one made from the chosen candidate."""
        if self.headline:
            return self.headline
        row = self.chosen
        if row is None:
            return "Nothing fits." if self.candidates else self.title
        metric = figure(row.metric, self.metric_unit) + (f" ({row.interval})" if row.interval else "")
        parts = [metric, figure(row.p50_ms, "ms", 3), figure(row.size_mb, "MB", 3)]
        return f"{row.name}: {', '.join(p for p in parts if p != '-')}"


def figure(value: float | None, unit: str = "", digits: int = 4) -> str:
    """``value`` with about ``digits`` significant digits and its unit; ``-`` for None and NaN."""
    if value is None or math.isnan(value):
        return "-"
    if 0 < abs(value) < 1e-3:
        return f"{value:.2g}{' ' if unit else ''}{unit}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value and math.isfinite(value) else 0
    return f"{value:.{min(decimals, 3)}f}{' ' if unit else ''}{unit}"


def save_report(folder: Path, data: ReportData) -> Path:
    """Write ``report.json`` and ``pictures/*.png`` into ``folder``, replacing an older report; return the JSON's path.

    Raises:
        DataError: the folder cannot be written.
    """
    document = {f.name: getattr(data, f.name) for f in fields(data) if f.name != "pictures"}
    # As seen from the folder, so that it can be moved.
    document["curves"] = None if data.curves is None else os.path.relpath(data.curves, folder)
    document["pictures"] = []
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / PICTURES, ignore_errors=True)
        (folder / PICTURES).mkdir()
        for i, (caption, panels) in enumerate(data.pictures):
            rows = [{"label": label, "file": f"{PICTURES}/{i:02d}_{k}.png"} for k, (label, _) in enumerate(panels)]
            for row, (_, pixels) in zip(rows, panels):
                Image.fromarray(pixels).save(folder / row["file"])
            document["pictures"].append({"caption": caption, "panels": rows})
        write_json(folder / REPORT_JSON, plain(document))
    return folder / REPORT_JSON


def load_report(folder: Path) -> ReportData:
    """Read what ``save_report`` wrote.

    Raises:
        DataError: ``report.json`` or a picture is missing or damaged.
    """
    try:
        document = json.loads((folder / REPORT_JSON).read_text(encoding="utf-8"))
        pictures = [
            (p["caption"], [(x["label"], _read_picture(folder, x["file"])) for x in p["panels"]])
            for p in document.pop("pictures")
        ]
        document["candidates"] = [CandidateRow(**row) for row in document["candidates"]]
        document["rankings"] = {step: [(a, b) for a, b in rows] for step, rows in document["rankings"].items()}
        data = ReportData(**document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{folder / REPORT_JSON}: cannot be read ({' '.join(str(error).split())})."
        raise DataError(what, "Run the command that made it again.") from error
    curves = folder / data.curves if data.curves else None
    return replace(data, pictures=pictures, curves=curves)


def _read_picture(folder: Path, name: str) -> NDArray[np.uint8]:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"picture {name!r} lies outside the run folder")
    with Image.open(folder / name) as image:
        return np.asarray(image.convert("RGB"))
