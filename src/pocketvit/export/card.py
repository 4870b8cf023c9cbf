"""The card of an artifact: what it is, what it was measured on and how to run it, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pocketvit.spec.manifest import LineageStep, Manifest

_PURPOSE = {"restore": "restores photographs (removes noise or blur)", "classify": "classifies photographs"}


def write_card(manifest: Manifest) -> str:
    """Markdown of the card; every figure in it comes from the manifest and names the variant and data it was measured with."""
    m = manifest
    parts = [
        f"# {m.name} {m.version}",
        "",
        f"A vision transformer that {_PURPOSE[m.task]}. Default variant: `{m.default}`.",
    ]
    for title, body in (
        ("How to run it", _usage(m)),
        ("Model", _model(m)),
        ("Training", _pairs(m.training)),
        ("Metrics", _metrics(m)),
        ("Speed", _speed(m)),
        ("Steps tried", _lineage(m.lineage)),
        ("Licence", [f"Weights: {m.licence.weights}. Training data: {m.licence.data}."]),
    ):
        if body:
            parts += ["", f"## {title}", *body]
    return "\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines] if lines else []


def _pairs(values: dict[str, Any]) -> list[str]:
    return [f"- {key.replace('_', ' ')}: {_short(value)}" for key, value in values.items()]


def _short(value: Any) -> str:
    return (
        f"{value:.4g}"
        if isinstance(value, float)
        else ", ".join(map(_short, value))
        if isinstance(value, (list, tuple))
        else str(value)
    )


def _number(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:.4g}{unit and ' ' + unit}"


def _usage(m: Manifest) -> list[str]:
    show = (
        "model(image).image  # (H, W, 3) uint8"
        if m.task == "restore"
        else "model(image).path  # labels, coarsest level first"
    )
    code = ["import pocketvit", "", 'model = pocketvit.load("THIS_FOLDER")', 'image = "photo.jpg"', show]
    return ["```python", *code, "```", "", "`pocketvit predict THIS_FOLDER photo.jpg`, `pocketvit verify THIS_FOLDER`"]


def _model(m: Manifest) -> list[str]:
    p = m.preprocess
    how = {
        "tile": f"tiles of {p.size[0]}x{p.size[1]} pixels, overlap {p.overlap}",
        "crop": f"centre crop to {p.size[0]}x{p.size[1]} ({p.interpolation}, {p.crop_pct})",
    }
    lines = _pairs({k: v for k, v in m.architecture.items() if v not in ({}, None)})
    lines += [
        f"- input: {how.get(p.resize, f'stretched to {p.size[0]}x{p.size[1]} ({p.interpolation})')}, {p.color}, mean {_short(p.mean)}, std {_short(p.std)}"
    ]
    lines += [f"- output `{o.name}` {o.shape} {o.dtype}: {o.meaning}" for o in m.outputs]
    return lines + [f"- level {level.name}: {len(level.labels)} classes" for level in m.levels]


def _metrics(m: Manifest) -> list[str]:
    if not m.metrics:
        return ["Not measured yet."]
    rows = [
        (
            f"`{r.variant}`",
            r.name,
            _number(r.value, r.unit),
            f"{r.dataset} ({r.split}, {r.count} images)",
            r.protocol or "-",
        )
        for r in m.metrics
    ]
    return _table(("variant", "metric", "value", "data", "protocol"), rows)


def _speed(m: Manifest) -> list[str]:
    rows = []
    for r in m.benchmarks:
        shape = "x".join(map(str, r.input_shape))
        rows.append(
            (
                f"`{r.variant}`",
                str(r.threads),
                _number(r.p50_ms),
                _number(r.p90_ms),
                str(r.runs),
                shape,
                r.includes,
                str(r.environment.get("cpu", "not recorded")),
            )
        )
    return _table(("variant", "threads", "p50 ms", "p90 ms", "runs", "input", "covers", "processor"), rows)


def _lineage(steps: Sequence[LineageStep]) -> list[str]:
    rows = []
    for s in steps:
        metric = f"{s.metric_name}: {_number(s.metric_before)} -> {_number(s.metric_after)}"
        size = f"{_number(s.bytes_before and s.bytes_before / 1e6)} -> {_number(s.bytes_after and s.bytes_after / 1e6)}"
        rows.append(
            (
                s.step,
                "kept" if s.kept else "rejected",
                metric,
                f"{_number(s.latency_ms_before)} -> {_number(s.latency_ms_after)}",
                size,
                s.reason,
            )
        )
    return _table(("step", "verdict", "metric", "p50 ms", "MB", "why"), rows)
