"""Plots as SVG text, one for a light and one for a dark page, drawn with matplotlib without a display."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pocketvit.errors import DataError
from pocketvit.report.data import CandidateRow


@dataclass(frozen=True)
class Theme:
    """Colours of a plot."""

    ink: str
    muted: str
    grid: str
    point: str
    chosen: str
    limit: str
    lines: tuple[str, ...]


_LIGHT_LINES = ("#2459a8", "#c2410c", "#0b7a4b", "#7c3aed", "#a16207")
_DARK_LINES = ("#7fb0ff", "#ff8a5c", "#3ddc97", "#c4a5ff", "#e6c15a")
LIGHT = Theme("#1c2430", "#6b7685", "#e3e7ec", "#7a8fb0", "#0b7a4b", "#c2410c", _LIGHT_LINES)
DARK = Theme("#e7ecf3", "#93a0b2", "#2c3645", "#7f96bb", "#3ddc97", "#ff8a5c", _DARK_LINES)


def in_dark(svg: str) -> str:
    """A plot that was drawn in ``LIGHT``, in the colours of ``DARK``: drawing it again would give the same shapes."""
    light, dark = ((*vars(theme).values(),) for theme in (LIGHT, DARK))
    colours = dict(zip((*light[:-1], *light[-1]), (*dark[:-1], *dark[-1]), strict=True))
    return re.sub("|".join(colours), lambda found: colours[found.group()], svg)


def pareto_plot(
    candidates: Sequence[CandidateRow],
    *,
    metric_label: str,
    latency_limit: float | None = None,
    floor: float | None = None,
    percentile: str = "p50",
    higher_is_better: bool = True,
    theme: Theme = LIGHT,
) -> str | None:
    """Metric against latency as SVG: numbered points in the order of ``candidates``, budget and floor as lines.

    The marker's area grows with the file; the chosen one is highlighted. Points far below the others stand on the lower
    edge with their value, so that one broken candidate does not squash the rest. Candidates without a metric or a
    latency are left out; ``None`` if nothing is left.
    """
    points = [
        _Point(i + 1, x, y, row)
        for i, row in enumerate(candidates)
        if (x := row.p90_ms if percentile == "p90" else row.p50_ms) is not None
        and (y := row.metric) is not None
        and math.isfinite(y)
    ]
    if not points:
        return None
    figure, (axes,) = _figure(theme, 4.2)
    low, high = _visible_range(points, floor)
    sign = 1 if higher_is_better else -1
    front = [(x, sign * y) for x, y in pareto_front([(p.x, sign * p.y) for p in points]) if sign * y >= low]
    line = {"color": theme.muted, "linewidth": 1.2, "linestyle": ":", "drawstyle": "steps-post"}
    axes.plot([x for x, _ in front], [y for _, y in front], zorder=1, **line)
    for point in points:
        _draw_point(axes, point, low, high, theme)
    xs = [p.x for p in points] + ([latency_limit] if latency_limit else [])
    axes.set_xlim(0, max(xs) * 1.15)
    axes.set_ylim(low - 0.14 * (high - low), high + 0.12 * (high - low))
    line = {"color": theme.limit, "linewidth": 1.4, "linestyle": "--", "zorder": 1}
    text = {"color": theme.limit, "fontsize": 9, "va": "bottom"}
    if latency_limit:
        axes.axvline(latency_limit, **line)
        place, words = axes.get_xaxis_transform(), f"budget {latency_limit:g} ms"
        axes.text(latency_limit, 1.01, words, ha="center", transform=place, **text)
    if floor is not None:
        axes.axhline(floor, **line)
        axes.text(0.01, floor, f"floor {floor:.4g}", ha="left", transform=axes.get_yaxis_transform(), **text)
    axes.set_xlabel(f"latency {percentile}, ms (left is better)")
    axes.set_ylabel(f"{metric_label} ({'up' if higher_is_better else 'down'} is better)")
    return _svg(figure)


@dataclass(frozen=True)
class _Point:
    number: int
    x: float
    y: float
    row: CandidateRow


def _visible_range(points: Sequence[_Point], floor: float | None) -> tuple[float, float]:
    """Metric range to show: down to the worst candidate, but not much below where floor and chosen point lie."""
    ys = [p.y for p in points]
    best = max(ys)
    anchors = [p.y for p in points if p.row.chosen] + ([] if floor is None else [floor])
    reach = max([4 * (best - a) for a in anchors] + [0.03 * abs(best)])
    shown = [y for y in ys if y >= best - reach] + [a for a in anchors if a <= best]
    return (min(shown), max(best, *anchors)) if min(shown) < best else (best - 0.5, best + 0.5)


def _draw_point(axes: Any, point: _Point, low: float, high: float, theme: Theme) -> None:
    chosen, below = point.row.chosen, point.y < low
    y = low - 0.1 * (high - low) if below else point.y
    color, alpha, width, order = (theme.chosen, 1.0, 1.4, 3) if chosen else (theme.point, 0.6, 0.0, 2)
    marker, size = ("v", 70) if below else ("o", 70 + 14 * (point.row.size_mb or 0))
    axes.scatter([point.x], [y], size, color, marker, alpha=alpha, linewidths=width, edgecolors=theme.ink, zorder=order)
    text, offset, ha, va = str(point.number), (0, 8), "center", "bottom"
    if below:
        text, offset, ha, va = f"{point.number} ({point.y:.4g})", (8, 0), "left", "center"
    font = {"fontsize": 9.5, "color": theme.ink, "fontweight": "bold" if chosen else "normal"}
    axes.annotate(text, (point.x, y), xytext=offset, textcoords="offset points", ha=ha, va=va, zorder=4, **font)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (latency, metric) points that no other point beats in both, from the fastest on."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front


def chain_of(chosen: str, lineage: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The kept steps that led to the candidate ``chosen``, in order: ``... int8`` before ``... int8 > graph``."""
    steps = [step for step in lineage if step["kept"] and f"{chosen} > ".startswith(f"{step['step']} > ")]
    return sorted(steps, key=lambda step: len(step["step"]))


def waterfall_plot(
    chosen: str, lineage: Sequence[Mapping[str, Any]], *, metric_label: str, theme: Theme = LIGHT
) -> str | None:
    """From the float file to the chosen one, step by step, as SVG: milliseconds above, megabytes below, with the metric
    behind each step. Each bar hangs where the one before ended. ``None`` where no step led there."""
    chain = chain_of(chosen, lineage)
    if not chain:
        return None
    names = ["float", *(step["step"].rpartition(" > ")[2].rpartition(":")[2] for step in chain), "handed over"]
    metrics = [chain[0].get("metric_before"), *(step.get("metric_after") for step in chain)]
    figure, both = _figure(theme, 4.6, rows=2)
    for axes, key, unit, scale in zip(both, ("latency_ms", "bytes"), ("ms (p50)", "MB"), (1.0, 1e-6), strict=True):
        found = [chain[0].get(f"{key}_before"), *(step.get(f"{key}_after") for step in chain)]
        values = [value * scale for value in found if value is not None]
        if len(values) < len(found):
            axes.set_visible(False)
            continue
        tops = [values[0], *(max(pair) for pair in itertools.pairwise(values)), values[-1]]
        feet = [0.0, *(min(pair) for pair in itertools.pairwise(values)), 0.0]
        colors = [theme.point, *(theme.chosen if b < a else theme.limit for a, b in itertools.pairwise(values))]
        axes.bar(range(len(tops)), [t - f for t, f in zip(tops, feet)], 0.62, feet, color=[*colors, theme.point])
        for x, top in enumerate(tops):
            text = f"{values[min(x, len(values) - 1)]:.3g}"
            font = {"ha": "center", "va": "bottom", "fontsize": 9, "color": theme.ink}
            axes.annotate(text, (x, top), xytext=(0, 2), textcoords="offset points", **font)
        axes.set_ylabel(unit)
        axes.set_ylim(0, max(tops) * 1.18)
        said = [*metrics, metrics[-1]]
        lines = [n if m is None else f"{n}\n{m:.4g}" for n, m in zip(names, said, strict=True)]
        axes.set_xticks(range(len(names)), lines)
    both[-1].set_xlabel(f"step, and {metric_label} behind it")
    return _svg(figure)


def exits_plot(points: Sequence[Mapping[str, Any]], *, metric_label: str, theme: Theme = LIGHT) -> str | None:
    """Above the metric against mean milliseconds (left out where nothing was timed), below the share of photos by exit.

    ``points`` are those of ``ReportData.exits``. ``None`` where there are none.
    """
    if not points:
        return None
    timed = [point for point in points if point["ms"] is not None]
    figure, axes = _figure(theme, 5.6 if timed else 2.8, rows=2 if timed else 1)
    if timed:
        _draw_curve(axes[0], sorted(timed, key=lambda point: point["threshold"]), metric_label, theme)
    _draw_shares(axes[-1], points, theme)
    return _svg(figure)


def _draw_curve(axes: Any, points: Sequence[Mapping[str, Any]], metric_label: str, theme: Theme) -> None:
    axes.plot([p["ms"] for p in points], [p["metric"] for p in points], color=theme.muted, linewidth=1.2, zorder=1)
    for point in points:
        chosen = point["chosen"]
        color, size = (theme.chosen, 90) if chosen else (theme.point, 45)
        axes.scatter([point["ms"]], [point["metric"]], size, color, zorder=3 if chosen else 2)
        font = {"fontsize": 8.5, "color": theme.ink, "fontweight": "bold" if chosen else "normal"}
        place = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
        axes.annotate(f"{point['threshold']:.3g}", (point["ms"], point["metric"]), **place, **font)
    axes.margins(x=0.08, y=0.2)
    axes.set_xlabel("mean ms (left is better), by threshold")
    axes.set_ylabel(metric_label)


def _draw_shares(axes: Any, points: Sequence[Mapping[str, Any]], theme: Theme) -> None:
    exits = len(points[0]["shares"])
    feet = [0.0] * len(points)
    for number in range(exits):
        heights = [100 * point["shares"][number] for point in points]
        label = f"exit {number + 1}" if number + 1 < exits else "to the end"
        axes.bar(range(len(points)), heights, 0.62, feet, color=theme.lines[number % len(theme.lines)], label=label)
        feet = [foot + height for foot, height in zip(feet, heights, strict=True)]
    axes.set_xticks(range(len(points)), [f"{p['threshold']:.3g}{' *' if p['chosen'] else ''}" for p in points])
    axes.set_xlabel("threshold (* chosen)")
    axes.set_ylabel("photos, %")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=theme.ink, ncols=exits, loc="lower left", bbox_to_anchor=(0, 1))


def read_curves(path: Path) -> tuple[str, dict[str, tuple[list[float], list[float]]]]:
    """Name of the x column and, for each other numeric column, its (x, y) points; empty cells are skipped.

    Raises:
        DataError: no such file, no ``epoch`` or ``step`` column, a cell that is no number in it.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}).", "Name the metrics.csv of a training run.") from error
    columns = list(rows[0]) if rows else []
    x_name = next((name for name in ("epoch", "step") if name in columns), None)
    if x_name is None:
        raise DataError(f"{path}: has no rows with an epoch or step column.", "Name the metrics.csv of a training run.")
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for name in columns:
        found = [(_number(row[x_name]), _number(row[name])) for row in rows]
        points = [(x, y) for x, y in found if x is not None and y is not None]
        if name not in ("epoch", "step") and points:
            curves[name] = ([x for x, _ in points], [y for _, y in points])
    return x_name, curves


def curves_plot(path: Path, *, theme: Theme = LIGHT) -> str | None:
    """Training curves of a CSV as SVG, losses above, metrics below; ``None`` if there is nothing to draw."""
    x_name, curves = read_curves(path)
    skip = ("loss", "lr", "seconds", "minutes", "images", "time", "rate")
    losses = {name: xy for name, xy in curves.items() if "loss" in name.lower()}
    metrics = {name: xy for name, xy in curves.items() if not any(word in name.lower() for word in skip)}
    panels = [group for group in (losses, metrics) if group]
    if not panels:
        return None
    figure, all_axes = _figure(theme, 2.7 * len(panels), rows=len(panels))
    for axes, group in zip(all_axes, panels):
        for i, (name, (x, y)) in enumerate(group.items()):
            color, marker = theme.lines[i % len(theme.lines)], "o" if len(x) < 25 else ""
            axes.plot(x, y, color=color, linewidth=1.6, marker=marker, markersize=3.5, label=name)
        axes.set_xlabel(x_name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize=8.5, labelcolor=theme.ink)
    return _svg(figure)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _figure(theme: Theme, height: float, rows: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(7.2, height), layout="constrained")
    all_axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for axes in all_axes:
        axes.patch.set_alpha(0)
        axes.grid(color=theme.grid, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=theme.muted, labelsize=9, length=0)
        axes.xaxis.label.set_color(theme.muted)
        axes.yaxis.label.set_color(theme.muted)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(theme.grid)
    return figure, all_axes


def _svg(figure: Figure) -> str:
    """SVG text, the same for the same figure."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "pocketvit", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()
