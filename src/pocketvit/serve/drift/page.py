"""The page with plots: HTML that is well-formed XML, inline SVG, no script, nothing from elsewhere."""

from __future__ import annotations

import html
from typing import Any

import numpy as np

from pocketvit.serve.drift.monitor import Watch
from pocketvit.serve.drift.statistics import Statistic
from pocketvit.serve.drift.store import Reader
from pocketvit.serve.drift.watcher import Watched, Watcher

MOST_POINTS = 500
WIDTH, HEIGHT, EDGE, LEFT, BOTTOM = 640, 140, 8, 64, 20
"""Of a plot; left of it and below are the axes' figures."""
REFRESH_S = 30
_STYLE = (
    ":root{--ink:#1a1a1a;--ground:#fff;--soft:#5a5a5a;--line:#1f5fa8;--band:#1f5fa826;--bad:#b3261e;--good:#1b6e3c}"
    "@media(prefers-color-scheme:dark){:root{--ink:#eee;--ground:#111;--soft:#aaa;--line:#8cc0ff;--band:#8cc0ff2e;"
    "--bad:#ff8a80;--good:#7ddba3}}"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:46em;margin:2em auto;padding:0 1em;color:var(--ink);"
    "background:var(--ground)}h2{margin-top:2em}h3{margin:1.2em 0 0;font-size:1em}p{margin:.2em 0}"
    "svg{width:100%;height:auto;display:block}.soft{color:var(--soft);font-size:.9em}.drift{color:var(--bad)}"
    ".ok{color:var(--good)}table{border-collapse:collapse;font-size:.9em}td,th{padding:.15em .8em .15em 0;"
    "text-align:left}polyline{fill:none;stroke:var(--line);stroke-width:1.5}rect{fill:var(--band)}"
    "line{stroke:var(--bad);stroke-dasharray:4 3}circle{fill:var(--line)}text{fill:var(--soft);font-size:11px}"
    ".axis{fill:none;stroke:var(--soft);stroke-width:1}"
)
_WORDS = {"ok": "as the reference", "drift": "drifts", "learning": "reference is being learnt"}


def page(watcher: Watcher, document: dict[str, Any]) -> str:
    """The page of a :func:`~pocketvit.serve.drift.report.report`, with the last requests drawn."""
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"/>',
        '<meta name="viewport" content="width=device-width,initial-scale=1"/>',
        f'<meta http-equiv="refresh" content="{REFRESH_S}"/><title>pocketvit: drift</title>',
        f"<style>{_STYLE}</style></head><body><h1>Drift</h1>",
        '<p class="soft">Numbers only: photos are not kept. The same for programs: <a href="../drift">JSON</a>. ',
        f"{document['dropped']} requests were not watched because the watching was behind.</p>",
    ]
    with watcher.lock:
        watched = {each.key: each for each in watcher.watched.values()}
    with Reader(watcher.path) as reader:
        for model, each in zip(document["models"], watched.values(), strict=False):
            if (model["version"], model["digest"]) == (each.who.version, each.who.digest):  # not let go meanwhile
                parts += _model(model, each, reader)
    if not document["models"]:
        parts.append("<p>No request has come yet.</p>")
    return "".join([*parts, "</body></html>"])


def _model(model: dict[str, Any], watched: Watched, reader: Reader) -> list[str]:
    rows = reader.requests(watched.key, MOST_POINTS)
    places = {at: i for i, (at, _) in enumerate(rows)}
    changes = reader.changes(watched.key, MOST_POINTS)
    parts = [f"<h2>{html.escape(model['model'])} {html.escape(model['version'])}: {_status(model['status'])}</h2>"]
    parts.append(f'<p class="soft">{model["requests"]} requests kept; plots show the last {len(rows)}.</p>')
    for row, statistic in zip(model["statistics"], watched.statistics, strict=True):
        values = [values.get(statistic.name) for _, values in rows]
        marks = [
            places[each["time"]] for each in changes if each["statistic"] == statistic.name and each["time"] in places
        ]
        parts += [f"<h3>{statistic.name}: {_status(row['status'])}</h3>", _said(row)]
        parts.append(_plot(statistic, values, watched.watches.get(statistic.name), sorted(marks)))
    return parts + _events(model["events"])


def _status(status: str) -> str:
    return f'<span class="{status}">{_WORDS[status]}</span>'


def _said(row: dict[str, Any]) -> str:
    text = html.escape(row["meaning"])
    if row["reference"] is None:
        return f'<p class="soft">{text}; {row["learnt"]} of {row["wanted"]} requests</p>'
    now = "too few requests" if row["current"] is None else _span(row["current"], row["unit"])
    reference = f"{row['reference']['count']} {row['reference']['source']}"
    return f'<p class="soft">{text}. Now {now}; {reference}: {_span(row["reference"], row["unit"])}</p>'


def _span(summary: dict[str, Any], unit: str) -> str:
    text = f"{summary['p50']:.3g} ({summary['p10']:.3g} to {summary['p90']:.3g})"
    return html.escape(f"{text} {unit}".strip())


def _plot(statistic: Statistic, values: list[float | None], watch: Watch | None, changes: list[int]) -> str:
    """The values in turn, over the band that holds four fifths of the reference, and a line at each change."""
    points = [(i, value) for i, value in enumerate(values) if value is not None]
    band = () if watch is None else tuple(float(x) for x in np.percentile(watch.reference, (10, 90)))
    if not points:
        return ""
    low, high = min([*band, *(v for _, v in points)]), max([*band, *(v for _, v in points)])
    wide = max(high - low, 1e-9)

    def x(i: float) -> float:
        return LEFT + i / max(len(values) - 1, 1) * (WIDTH - LEFT - EDGE)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / wide * (HEIGHT - BOTTOM - EDGE)

    name = html.escape(f"{statistic.name} of the last {len(points)} requests")
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{name}</title>']
    if band:
        tall = max(y(band[0]) - y(band[1]), 1)
        parts.append(f'<rect x="{LEFT}" y="{y(band[1]):.1f}" width="{WIDTH - LEFT - EDGE}" height="{tall:.1f}"/>')
    line = " ".join(f"{x(i):.1f},{y(value):.1f}" for i, value in points)
    only = f'<circle cx="{x(points[0][0]):.1f}" cy="{y(points[0][1]):.1f}" r="3"/>'
    parts.append(f'<polyline points="{line}"/>' if len(points) > 1 else only)
    parts += [f'<line x1="{x(i):.1f}" x2="{x(i):.1f}" y1="0" y2="{HEIGHT - BOTTOM}"/>' for i in changes]
    return "".join([*parts, *_axes(statistic, low, high, len(values)), "</svg>"])


def _axes(statistic: Statistic, low: float, high: float, count: int) -> list[str]:
    """Lines and figures: the values' ends in the statistic's own unit, and how many requests ago each end is."""
    floor = HEIGHT - BOTTOM
    ends = ((high, EDGE), (low, floor)) if high > low else ((low, floor),)
    parts = [f'<path class="axis" d="M{LEFT} {EDGE}V{floor}H{WIDTH - EDGE}"/>']
    for value, at in ends:
        figure = html.escape(f"{statistic.plain(value):.3g} {statistic.unit}".strip())
        parts.append(f'<text x="{LEFT - 4}" y="{at + 4}" text-anchor="end">{figure}</text>')
    if count > 1:
        parts.append(f'<text x="{LEFT}" y="{HEIGHT - 6}">{count - 1} requests ago</text>')
    return [*parts, f'<text x="{WIDTH - EDGE}" y="{HEIGHT - 6}" text-anchor="end">the last request</text>']


def _events(events: list[dict[str, Any]]) -> list[str]:
    if not events:
        return []
    parts = ["<h3>Changes</h3><table><tr><th>time</th><th>statistic</th><th>before</th><th>after</th><th>by</th></tr>"]
    for event in events:
        cells = (
            event["time"],
            event["statistic"],
            f"{event['before']:.3g}",
            f"{event['after']:.3g}",
            event["detector"],
        )
        parts.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    return [*parts, "</table>"]
