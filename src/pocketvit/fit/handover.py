"""Step 4 of fit: put the chosen point and the Pareto set into an artifact, verify it, and write the report."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from pocketvit.bench.memory import peak_rss_mb
from pocketvit.data.cases import Case, condition_name, eval_cases
from pocketvit.export.artifact import create_artifact, make_golden
from pocketvit.fit.gate import Row, budget_misses, floor_of, pareto, usable_rows
from pocketvit.fit.measure import Measurer
from pocketvit.report.data import CandidateRow, Panel, ReportData, save_report
from pocketvit.report.html import write_report
from pocketvit.spec.artifact import Artifact, read_artifact
from pocketvit.spec.budget import Budget
from pocketvit.spec.environment import environment
from pocketvit.spec.manifest import BenchRow, Licence, LineageStep, MetricRow
from pocketvit.spec.target import Target
from pocketvit.verify.command import verify

UNITS = {"psnr": "dB", "ssim": "", "mistake_distance": "levels"}
PROTOCOL = {
    "restore": "8-bit RGB, input and output rounded, mean over images",
    "classify": "one view, consistent path over the levels",
}
PICTURES = 4


def unit_of(metric: str) -> str:
    """Unit of a metric by its name: ``psnr@sigma25`` is in dB, ``fine.top1`` in %."""
    return UNITS.get(metric.split("@")[0], "%")


def metric_rows(rows: Sequence[Row], bench: Measurer) -> list[MetricRow]:
    """Every metric of every row, with the data it was measured on."""
    val, limit = bench.splits.val, bench.recipe.search.eval_images
    count = len(val.items) if limit is None else min(limit, len(val.items))
    return [
        MetricRow(
            variant=row.key,
            name=name,
            value=value,
            unit=unit_of(name),
            dataset=val.name,
            split=val.split,
            count=count,
            protocol=PROTOCOL[bench.trained.task.name],
        )
        for row in rows
        for name, value in (row.metrics or {}).items()
    ]


def bench_rows(rows: Sequence[Row], bench: Measurer) -> list[BenchRow]:
    """Timings of the files with their environment."""
    machine = environment()
    return [
        BenchRow(
            variant=row.key, threads=bench.recipe.target.threads, p50_ms=row.timing.p50, p90_ms=row.timing.p90, runs=len(row.timing.times_ms),
            input_shape=list(bench.image.shape), includes="preprocessing + inference + postprocessing of one decoded image", environment=machine,
        )
        for row in rows
        if row.timing is not None
    ]  # fmt: skip


def lineage(rows: Sequence[Row], bench: Measurer) -> list[LineageStep]:
    """Each step behind the gain gate, kept or rejected, beside the float file of its runtime."""
    floats = {row.runtime: row for row in rows if row.precision == "fp32"}
    steps = []
    for row in rows:
        base = floats.get(row.runtime)
        if row.precision == "fp32" or base is None:
            continue
        steps.append(
            LineageStep(
                step=row.name,
                kept=row.kept,
                reason=row.reason,
                metric_name=bench.main_metric,
                metric_before=base.metric,
                metric_after=row.metric,
                latency_ms_before=base.timing.p50 if base.timing else None,
                latency_ms_after=row.timing.p50 if row.timing else None,
                bytes_before=base.bytes,
                bytes_after=row.bytes,
            )
        )
    return steps


def hand_over(chosen: Row, rows: Sequence[Row], bench: Measurer, folder: Path) -> tuple[Row, Artifact]:
    """Write ``folder/artifact`` with the chosen variant as default and the rest of the Pareto set that meets budget and floor.

    It is written, verified and measured under another name and renamed last, so that what lies at ``artifact`` is proven.

    Returns:
        The chosen row with its peak memory, and the artifact.

    Raises:
        VerificationError: an exported file does not do what the trained model does.
        OverBudget: the chosen variant needs more memory than the budget allows.
    """
    recipe, trained = bench.recipe, bench.trained
    mine = [row for row in rows if row.origin == chosen.origin]
    usable = usable_rows(mine, recipe.budget, floor_of(trained.task.name, recipe.floor))
    kept = [chosen, *(row for row in pareto(usable, recipe.budget.percentile) if row.key != chosen.key)]
    candidate, destination = folder / ".artifact.candidate", folder / "artifact"
    count = 32 if trained.task.name == "classify" else 6
    try:
        create_artifact(
            trained, candidate, name=recipe.name, golden=make_golden(trained, golden_cases(bench, count), count), built=[row.built for row in kept if row.built],
            default=chosen.key, main_metric=bench.main_metric, lineage=lineage(mine, bench), metrics=metric_rows(kept, bench), benchmarks=bench_rows(kept, bench),
            licence=Licence(data=recipe.licence_data), training={"recipe": recipe.name, **trained.info}, replace=True,
        )  # fmt: skip
        verify(str(candidate))
        target = Target(chosen.runtime, chosen.precision, recipe.target.threads)
        measured = replace(chosen, memory_mb=peak_rss_mb(candidate, target, bench.image))
        if misses := budget_misses(measured, recipe.budget):
            raise OverBudget(measured, misses)
        shutil.rmtree(destination, ignore_errors=True)
        os.replace(candidate, destination)
    finally:
        shutil.rmtree(candidate, ignore_errors=True)
    return measured, read_artifact(destination)


class OverBudget(Exception):
    """The chosen variant misses a limit that only the finished artifact could be measured against."""

    def __init__(self, row: Row, misses: list[str]) -> None:
        super().__init__("; ".join(misses))
        self.row, self.misses = row, tuple(misses)


def golden_cases(bench: Measurer, count: int) -> list[Case]:
    """Validation cases spread over the whole set (all classes, not the first ones), at the main noise level."""
    data = bench.recipe.data
    sigmas = [sigma for sigma in data.eval_sigma if f"@{condition_name(data, sigma)}" in bench.main_metric]
    return list(eval_cases(bench.splits.val, replace(data, eval_sigma=tuple(sigmas) or data.eval_sigma), limit=count))


def verdict(row: Row) -> str:
    """A word for the table."""
    if row.chosen:
        return "chosen"
    if row.metric is None:
        return "dropped"
    if not row.kept:
        return "rejected"
    return "too slow or large" if row.misses else "fits"


def candidate_rows(rows: Sequence[Row]) -> list[CandidateRow]:
    """Rows as tables and reports show them."""
    return [
        CandidateRow(
            name=row.name,
            metric=row.metric,
            p50_ms=row.latency("p50"),
            p90_ms=row.latency("p90"),
            size_mb=row.bytes / 1e6 if row.bytes else None,
            memory_mb=row.memory_mb,
            verdict=verdict(row),
            reason="; ".join(row.misses) or row.reason,
            chosen=row.chosen,
        )
        for row in rows
    ]


def write_fit_report(
    folder: Path,
    title: str,
    rows: Sequence[Row],
    bench: Measurer | None,
    budget: Budget,
    notes: Sequence[str],
    task: str,
    artifact: Artifact | None,
) -> Path:
    """Write ``report.html`` (and what it is drawn from) into the run folder."""
    metric = bench.main_metric if bench else "metric"
    chosen = next((row for row in rows if row.chosen), None)
    trained_at = folder / "trials" / chosen.origin / "metrics.csv" if chosen else None
    data = ReportData(
        title=title,
        task=task,
        metric_name=metric,
        metric_unit=unit_of(metric) if bench else "",
        budget=vars(budget),
        floor=vars(bench.recipe.floor) if bench else {},
        candidates=candidate_rows(rows),
        pictures=_pictures(bench, artifact) if bench and artifact else (),
        environment=environment(),
        lineage=[step.model_dump() for step in artifact.manifest.lineage] if artifact else (),
        rankings={row.name: row.ranking for row in rows if row.ranking},
        curves=trained_at if trained_at and trained_at.exists() else None,
        notes=notes,
        verification=artifact.manifest.verification.model_dump()
        if artifact and artifact.manifest.verification
        else None,
    )
    save_report(folder, data)
    return write_report(folder / "report.html", data)


def _pictures(bench: Measurer, artifact: Artifact) -> list[tuple[str, list[Panel]]]:
    """What the handed-over file answers on the first validation images."""
    from pocketvit.runtimes.model import load

    model = load(artifact.path)
    middle = bench.main_metric.partition("@")[2]
    shown = []
    for case in islice((c for c in bench.cases() if not middle or c.condition == middle), PICTURES):
        result = model(case.image)
        if bench.trained.task.name == "restore":
            panels: list[Panel] = [
                ("input", case.image),
                ("restored", result.draw(case.image)),
                ("ground truth", case.truth.astype(np.uint8)),
            ]
        else:
            truth = " > ".join(level.labels[int(k)] for level, k in zip(bench.trained.levels, case.truth, strict=True))
            panels = [(f"truth: {truth}", result.draw(case.image))]
        shown.append((f"{case.path.name} {case.condition}".strip(), panels))
    return shown
