"""One self-contained HTML file: no scripts, fonts or outside addresses; light and dark by the reader's setting."""

from __future__ import annotations

import base64
import io
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocketvit import __version__
from pocketvit.files import write_text
from pocketvit.report.data import CandidateRow, ReportData, figure
from pocketvit.report.plots import LIGHT, curves_plot, exits_plot, in_dark, pareto_plot, waterfall_plot
from pocketvit.spec.tasks import TASKS

__all__ = ["CandidateRow", "ReportData", "render_html", "write_report"]
MAX_SIDE, JPEG_QUALITY, EXACT_SIDE, DOUBLED_SIDE = 900, 92, 256, 160
BUDGET_WORDS = {"latency_ms": ("latency", "ms"), "size_mb": ("files", "MB"), "memory_mb": ("peak memory", "MB")}


def write_report(path: Path, data: ReportData) -> Path:
    """Write the report to ``path`` in one step and return it.

    Raises:
        DataError: ``path`` cannot be written.
    """
    write_text(path, render_html(data))
    return path


def render_html(data: ReportData) -> str:
    """The HTML text of ``data``."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"figure": figure, "data_uri": picture_uri, "shown_width": shown_width}
    template = (resources.files("pocketvit.report") / "templates" / "report.html.j2").read_text(encoding="utf-8")
    curves = Path(data.curves) if data.curves else None
    return environment.from_string(template).render(
        data=data,
        chosen=data.chosen,
        rejected=[row for row in data.candidates if not row.chosen and row.reason],
        limits=limits(data),
        pareto=_both_themes(lambda theme: _pareto(data, theme)),
        waterfall=_both_themes(lambda theme: _waterfall(data, theme)),
        exits={
            name: _both_themes(lambda theme, p=points: _exits(data, p, theme)) for name, points in data.exits.items()
        },
        curves=_both_themes(lambda theme: curves_plot(curves, theme=theme)) if curves and curves.is_file() else None,
        rankings={step: _bars(rows) for step, rows in data.rankings.items() if rows},
        environment=_flat(data.environment),
        version=__version__,
    )


def limits(data: ReportData) -> list[str]:
    """The budget and the floor in words, e.g. ``latency p50 at most 33 ms``."""
    words = []
    for key, (name, unit) in BUDGET_WORDS.items():
        if data.budget.get(key) is not None:
            percentile = f" {data.budget.get('percentile', 'p50')}" if key == "latency_ms" else ""
            words.append(f"{name}{percentile} at most {data.budget[key]:g} {unit}")
    name, unit = data.floor.get("metric") or data.metric_name, data.metric_unit
    better = _higher_is_better(data)
    if data.floor.get("value") is not None:
        words.append(f"{name} at {'least' if better else 'most'} {data.floor['value']:g} {unit}".rstrip())
    if data.floor.get("max_drop") is not None:
        drop = f"{data.floor['max_drop']:g} {unit}".rstrip()
        words.append(f"{name} at most {drop} {'below' if better else 'above'} the float model")
    return words


def _higher_is_better(data: ReportData) -> bool:
    try:
        return TASKS[data.task].metric(data.metric_name).higher_is_better
    except KeyError:  # a training run, or a report without figures
        return True


def picture_uri(pixels: NDArray[np.uint8]) -> str:
    """(H, W, 3) uint8 as a data address: PNG up to 256 pixels a side, so that every pixel is what it was.

    Very small ones have each pixel four times. Larger ones are JPEG without chroma subsampling, made smaller where a
    side has more than 900 pixels.
    """
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    longest = max(image.size)
    if longest > MAX_SIDE:
        smaller = (max(1, image.width * MAX_SIDE // longest), max(1, image.height * MAX_SIDE // longest))
        image = image.resize(smaller, Image.Resampling.LANCZOS)
    if longest <= DOUBLED_SIDE:
        image = image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST)
    if longest <= EXACT_SIDE:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    kind = "png" if longest <= EXACT_SIDE else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def shown_width(pixels: NDArray[np.uint8]) -> int | None:
    """Width in the page at which a picture is shown pixel for pixel; None for larger ones, which fill what there is."""
    longest = max(pixels.shape[:2])
    return None if longest > EXACT_SIDE else int(pixels.shape[1]) * (2 if longest <= DOUBLED_SIDE else 1)


def _metric_label(data: ReportData) -> str:
    return ", ".join(filter(None, (data.metric_name, data.metric_unit)))


def _waterfall(data: ReportData, theme: Any) -> str | None:
    if data.chosen is None:
        return None
    return waterfall_plot(data.chosen.name, data.lineage, metric_label=_metric_label(data), theme=theme)


def _exits(data: ReportData, points: Any, theme: Any) -> str | None:
    return exits_plot(points, metric_label=_metric_label(data), theme=theme)


def _pareto(data: ReportData, theme: Any) -> str | None:
    return pareto_plot(
        data.candidates,
        metric_label=_metric_label(data),
        latency_limit=data.budget.get("latency_ms"),
        floor=data.floor.get("value"),
        percentile=data.budget.get("percentile") or "p50",
        higher_is_better=_higher_is_better(data),
        theme=theme,
    )


def _both_themes(draw: Any) -> dict[str, str] | None:
    """The plot as data addresses for a light and a dark page."""
    light = draw(LIGHT)
    if not light:
        return None
    both = {"light": light, "dark": in_dark(light)}
    return {name: f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}" for name, svg in both.items()}


def _bars(rows: Any, most: int = 16) -> list[dict[str, Any]]:
    """The largest values first, with the bar's width in percent."""
    ordered = sorted(rows, key=lambda row: -abs(row[1]))[:most]
    largest = max(abs(value) for _, value in ordered) or 1.0
    return [{"layer": layer, "value": value, "width": 100 * abs(value) / largest} for layer, value in ordered]


def _flat(environment: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as ``(dotted name, text)`` rows."""
    rows = []
    for key, value in environment.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            rows += _flat(value, f"{name}.")
        else:
            rows.append((name, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)))
    return rows
