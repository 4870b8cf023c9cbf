"""Rows as the manifest, the report and the terminal hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pocketvit.bench.timing import INCLUDES
from pocketvit.data.collections import Collection
from pocketvit.fit.measure import Measurer
from pocketvit.fit.rows import Row
from pocketvit.report.data import CandidateRow, figure
from pocketvit.spec.environment import environment
from pocketvit.spec.manifest import BenchRow, CalibrationSet, LineageStep, MetricRow
from pocketvit.spec.target import variant_key
from pocketvit.spec.tasks.base import Measure


def metric_rows(rows: Sequence[Row], measurer: Measurer, trivial: Measure | None = None) -> list[MetricRow]:
    """Every metric of every row on the validation data, which was also used to choose among them.

    ``trivial`` is what an answer without a model reaches there.
    """
    part, limit = measurer.splits.val, measurer.recipe.search.eval_images
    count = len(part.items) if limit is None else min(limit, len(part.items))
    found = [_metric_row(row.key, m, part, count, measurer, chosen_on=True) for row in rows for m in row.measures]
    known = trivial.name if trivial else ""
    return [
        row.model_copy(update={"baseline": trivial.value}) if trivial and row.name == known else row for row in found
    ]


def test_rows(key: str, measures: Sequence[Measure], part: Collection, measurer: Measurer) -> list[MetricRow]:
    """Metrics of the chosen file on data that was used for nothing else."""
    return [_metric_row(key, m, part, len(part.items), measurer, chosen_on=False) for m in measures]


def _metric_row(
    key: str, measure: Measure, part: Collection, count: int, measurer: Measurer, *, chosen_on: bool
) -> MetricRow:
    return MetricRow(
        variant=key,
        name=measure.name,
        value=measure.value,
        low=measure.low,
        high=measure.high,
        unit=measure.unit,
        dataset=part.name,
        split=part.split,
        count=count,
        protocol=measurer.task.protocol,
        chosen_on=chosen_on,
    )


def bench_rows(rows: Sequence[Row], measurer: Measurer) -> list[BenchRow]:
    """Timings of the files with their intervals and environment."""
    away, target, found = measurer.elsewhere, measurer.recipe.target, []
    machine = environment() if away is None else dict(away.remote.environment)
    for row in rows:
        if row.timing is None:
            continue
        (low, high), (_, slow) = row.timing.interval(50), row.timing.interval(90)
        found.append(
            BenchRow(
                variant=variant_key(row.runtime, row.precision, target.device) if away else row.key,
                threads=machine.get("threads", target.threads),
                p50_ms=row.timing.p50,
                p90_ms=row.timing.p90,
                p50_low_ms=low,
                p50_high_ms=high,
                p90_high_ms=slow,
                runs=len(row.timing.times_ms),
                input_shape=list(measurer.image.shape),
                includes=INCLUDES
                if row.photos == 1
                else f"{INCLUDES}; mean over {row.photos} validation photos in turn",
                environment=machine,
            )
        )
    return found


ADAPTED = "adapted"
"""What a model's notes call its training on corrections (:mod:`pocketvit.fit.adapt`)."""


def lineage(rows: Sequence[Row], adapted: Mapping[str, Any] | None = None) -> list[LineageStep]:
    """Each step behind the gain gate, kept or rejected, beside the file it started from.

    ``adapted`` are notes on training on corrections, which then comes first.
    """
    known, steps = {row.name: row for row in rows}, []
    if adapted:
        figures = {key: adapted[key] for key in ("metric_name", "metric_before", "metric_after")}
        settings = {key: value for key, value in adapted.items() if key not in figures}
        steps.append(
            LineageStep(step=ADAPTED, stage="model", kept=True, reason="corrections", settings=settings, **figures)
        )
    for row in rows:
        before = known.get(row.before)
        if before is None:
            continue
        steps.append(
            LineageStep(
                step=row.name,
                kept=row.kept,
                reason=row.reason,
                metric_name=row.main,
                metric_before=before.metric,
                metric_after=row.metric,
                latency_ms_before=before.latency(50),
                latency_ms_after=row.latency(50),
                bytes_before=before.bytes,
                bytes_after=row.bytes,
                settings=row.settings,
                calibration=_calibration(row),
            )
        )
    return steps


def _calibration(row: Row) -> CalibrationSet | None:
    return CalibrationSet(images=row.calibration[0], sha256=row.calibration[1]) if row.calibration else None


def verdict(row: Row) -> str:
    """A word for the table."""
    if row.chosen:
        return "chosen"
    if row.metric is None:
        return "dropped"
    if not row.kept:
        return "rejected"
    return "misses" if row.misses else "fits"


def against(row: Row, chosen: Row | None) -> str:
    """A file that fits beside the chosen one, in the figures that the choice was made by."""
    if chosen is None:
        return row.reason
    unit = row.measure.unit if row.measure else ""
    sides = [
        (row.metric, chosen.metric, unit),
        (row.latency(50), chosen.latency(50), "ms"),
        (row.bytes and row.bytes / 1e6, chosen.bytes and chosen.bytes / 1e6, "MB"),
    ]
    return ", ".join(f"{figure(a)} against {figure(b)} {what}".rstrip() for a, b, what in sides)


def why_of(row: Row, chosen: Row | None, why: str) -> str:
    """Why a row was chosen (``why``), or was not."""
    if row.chosen:
        return f"{why}. Against the file it was made from: {row.reason}" if row.step and row.reason else why
    if verdict(row) == "fits":
        return against(row, chosen)
    return "; ".join(row.misses) or row.reason


def candidate_rows(rows: Sequence[Row], why: str = "") -> list[CandidateRow]:
    """Rows as tables and reports show them; ``why`` says why the chosen one was chosen."""
    found, chosen = [], next((row for row in rows if row.chosen), None)
    for row in rows:
        measure, timing = row.measure, row.timing
        found.append(
            CandidateRow(
                name=row.name,
                metric=row.metric,
                p50_ms=row.latency(50),
                p90_ms=row.latency(90),
                size_mb=row.bytes / 1e6 if row.bytes else None,
                memory_mb=row.memory_mb,
                verdict=verdict(row),
                reason=why_of(row, chosen, why),
                chosen=row.chosen,
                metric_interval=(measure.low, measure.high) if measure else None,
                p50_interval=timing.interval(50) if timing else None,
                image=row.image,
                count=measure.count if measure else None,
            )
        )
    return found
