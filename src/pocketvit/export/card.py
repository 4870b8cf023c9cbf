"""The card of an artifact: what it is, what it was measured on and how to run it, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pocketvit.export.plain import plain_code
from pocketvit.spec.manifest import LineageStep, Manifest, MetricRow
from pocketvit.spec.split import Split
from pocketvit.spec.tasks import TASKS


def write_card(manifest: Manifest) -> str:
    """Markdown of the card; figures come from the manifest and name the variant and data they were measured with."""
    m = manifest
    purpose = f"A vision transformer that {TASKS[m.task].purpose}. Default variant: `{m.default}`.{_tried_on(m)}"
    bodies = {
        "How to run it": _usage(m),
        "Model": _model(m),
        "Training": _pairs(m.training),
        "Metrics": _metrics(m),
        "Speed": _speed(m),
        "Steps tried": _lineage(m.lineage),
        "Licence": [f"Weights: {m.licence.weights}. Training data: {m.licence.data}."],
    }
    bodies = {title: list(map(_safe, body)) for title, body in bodies.items()}
    bodies["How to run it"] += _without_pocketvit(m)
    parts = [line for title, body in bodies.items() if body for line in ("", f"## {title}", *body)]
    return "\n".join([f"# {m.name} {m.version}", "", _safe(purpose), *parts]) + "\n"


def _safe(line: str) -> str:
    """One line whose names, terms and settings, which anybody may have written, are neither HTML, links nor blocks."""
    return " ".join(line.split()).replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(")


def _without_pocketvit(m: Manifest) -> list[str]:
    code, about = plain_code(m) if m.split is None else ([], [])
    return ["", *map(_safe, about), "", "```python", *code, "```"] if code else []


def _tried_on(m: Manifest) -> str:
    """What a reader must know of photos that got synthetic noise: the metric's name holds the condition then."""
    synthetic = TASKS[m.task].degrades and m.metrics and all("@" in row.name for row in m.metrics)
    text = " Measured on photographs with added (synthetic) noise; camera noise was not tried."
    return text if synthetic else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines] if lines else []


def _pairs(values: dict[str, Any]) -> list[str]:
    return [f"- {key.replace('_', ' ')}: {_short(value)}" for key, value in values.items()]


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _usage(m: Manifest) -> list[str]:
    if m.split is not None:
        return _half(m.split)
    opening = ["import pocketvit", "", 'model = pocketvit.load("THIS_FOLDER")', 'image = "photo.jpg"']
    code = ["```python", *opening, TASKS[m.task].example, "```"]
    return [*code, "", "`pocketvit predict THIS_FOLDER photo.jpg`, `pocketvit verify THIS_FOLDER`"]


def _half(split: Split) -> list[str]:
    """How one half is run, and what it is half of."""
    where = f"behind block {split.after} of {split.blocks}; split `{split.id}`"
    if split.is_head:
        how = ["The head of a split model, which runs where the photo is and sends features:", ""]
        how += ["`pocketvit predict THIS_FOLDER photo.jpg --server URL`, where URL is a server of its tail."]
    else:
        how = ["The tail of a split model, which answers to the features of its head:", ""]
        how += ["`pocketvit serve THIS_FOLDER`"]
    tokens, width = split.shape
    return [
        *how,
        "",
        f"- cut {where}",
        f"- between the halves: {tokens} x {width} values of {split.bits} bits, deflated",
    ]


def _model(m: Manifest) -> list[str]:
    p = m.preprocess
    size = f"{p.size[0]}x{p.size[1]}"
    how = {
        "tile": f"tiles of {size} pixels, overlap {p.overlap}",
        "whole": f"any height and width, padded inside to multiples of {p.multiple}; in overlapping tiles if too large",
        "stretch": f"stretched to {size} ({p.interpolation})",
    }
    crop = f"centre crop to {size} ({p.interpolation}, {p.crop_pct})"
    lines = _pairs({k: v for k, v in m.architecture.items() if v not in ({}, None)})
    taken = how.get("whole" if p.multiple else p.resize, crop)
    if m.split is not None and not m.is_head:
        return lines + [f"- output `{o.name}` {o.shape} {o.dtype}: {o.meaning}" for o in m.outputs]
    lines.append(f"- input: {taken}, {p.color}, mean {_short(p.mean)}, std {_short(p.std)}")
    lines += [f"- output `{o.name}` {o.shape} {o.dtype}: {o.meaning}" for o in m.outputs]
    return lines + [f"- level {level.name}: {len(level.labels)} classes" for level in m.levels]


def _metrics(m: Manifest) -> list[str]:
    if not m.metrics:
        return ["Not measured yet."]
    rows = [(f"`{r.variant}`", r.name, m.text(r), _measured_on(r), r.protocol or "-") for r in m.metrics]
    flattered = any(r.chosen_on for r in m.metrics)
    notes = ["Figures on data that was also used to choose the model flatter it."] if flattered else []
    notes += [
        f"{r.name} of `{r.variant}`: {gain}." for r in m.metrics if r.variant == m.default and (gain := m.gain(r))
    ]
    table = _table(("variant", "metric", "value (95 % interval)", "data", "protocol"), rows)
    return [*table, *(line for note in notes for line in ("", note))]


def _measured_on(row: MetricRow) -> str:
    return f"{row.dataset} ({row.split}, {row.count} images{', also used to choose' if row.chosen_on else ''})"


def _speed(m: Manifest) -> list[str]:
    rows = [
        (
            f"`{r.variant}`",
            str(r.threads),
            _number(r.p50_ms)
            + ("" if r.p50_high_ms is None else f" ({_number(r.p50_low_ms)} to {_number(r.p50_high_ms)})"),
            _number(r.p90_ms),
            str(r.runs),
            "x".join(map(str, r.input_shape)),
            r.includes,
            str(r.environment.get("cpu") or r.environment.get("user_agent", "not recorded")),
        )
        for r in m.benchmarks
    ]
    return _table(("variant", "threads", "p50 ms", "p90 ms", "runs", "input", "covers", "processor"), rows)


def _lineage(steps: Sequence[LineageStep]) -> list[str]:
    rows = []
    for s in steps:
        metric = f"{s.metric_name}: {_number(s.metric_before)} -> {_number(s.metric_after)}"
        size = " -> ".join(_number(x and x / 1e6) for x in (s.bytes_before, s.bytes_after))
        speed = f"{_number(s.latency_ms_before)} -> {_number(s.latency_ms_after)}"
        settings = ", ".join(
            f"{key} {_short(value)}" for key, value in s.settings.items() if value not in (None, [], ())
        )
        rows.append((s.step, settings or "-", "kept" if s.kept else "rejected", metric, speed, size, s.reason))
    return _table(("step", "settings", "verdict", "metric", "p50 ms", "MB", "why"), rows)
