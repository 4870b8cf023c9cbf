"""``pocketvit report``: a run folder or an artifact as one HTML file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pocketvit.errors import DataError, UsageError, VerificationError
from pocketvit.files import keep_others
from pocketvit.report.data import REPORT_JSON, CandidateRow, ReportData, load_report
from pocketvit.spec.artifact import GOLDEN, Artifact, read_artifact
from pocketvit.spec.golden import Golden, golden_faults, read_golden
from pocketvit.spec.manifest import Manifest, Variant
from pocketvit.spec.split import check_whole
from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.base import Panel

METRICS_CSV, REPORT_HTML = "metrics.csv", "report.html"
MOST_PICTURES = 8
_MARK = " · pocketvit</title>"
"""What the head of every report holds."""


@dataclass(frozen=True)
class ReportResult:
    """Where the report was written and its verdict."""

    path: Path
    headline: str

    def render(self) -> str:
        """Two lines for the terminal."""
        return f"{self.headline}\n{self.path}"

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"path": str(self.path), "headline": self.headline}


def report(run: str, *, out: str | None = None) -> ReportResult:
    """Write the HTML report of a run or an artifact: one file, to be opened in any browser.

    Args:
        run: Run folder, artifact folder, ``.pvit`` file or the name of a shipped artifact.
        out: Where to write it; default ``report.html`` in the run folder, or in the current folder for an artifact.
            An older report there is replaced, nothing else is.

    Raises:
        UsageError: there is neither a run nor an artifact, or ``out`` is no name for a report or is another file.
        DataError: the run's report data is damaged, or the file cannot be written.
        VerificationError: the artifact's manifest or goldens are damaged.
    """
    folder = Path(run)
    has_report = os.path.isfile(folder / REPORT_JSON)
    is_run = has_report or os.path.isfile(folder / METRICS_CSV)
    if has_report:
        data = load_report(folder)
    elif is_run and not os.path.isdir(folder / "artifact"):
        data = ReportData(folder.resolve().name, "training run", "", "", curves=folder / METRICS_CSV)
    else:
        try:
            artifact = read_artifact(run)
        except UsageError as error:
            what = f"{run[:200]}: neither a run with {REPORT_JSON} or {METRICS_CSV} nor an artifact."
            raise UsageError(what, error.todo) from error
        data = replace(artifact_report(artifact), curves=folder / METRICS_CSV if is_run else None)
    destination = Path(out) if out else (folder if is_run else Path()) / REPORT_HTML
    if os.path.isdir(destination):
        destination = destination / REPORT_HTML
    elif destination.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"out {out} does not end in .html.", "Name a folder, or a file ending in .html.")
    keep_others(destination, _MARK)
    from pocketvit.report.html import write_report

    try:
        return ReportResult(write_report(destination, data), data.verdict)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        if not is_run:
            raise
        what = f"{folder / REPORT_JSON}: holds what is no report ({' '.join(str(error).split())[:160]})."
        raise DataError(what, "Delete it, and run the command that made it again.") from error


def artifact_report(artifact: Artifact) -> ReportData:
    """What an artifact says about itself: its variants as candidates, its goldens as pictures.

    Raises:
        VerificationError: the goldens are damaged or do not go with the manifest, or a model file is missing.
    """
    check_whole(artifact.manifest.name, artifact.manifest.split)
    manifest, golden = artifact.manifest, read_golden(artifact)
    if faults := golden_faults(manifest, golden):
        raise VerificationError(f"{artifact.path / GOLDEN}: {faults[0]}.", "Do not use it: export the artifact again.")
    return ReportData(
        title=f"{manifest.name} {manifest.version}",
        task=manifest.task,
        metric_name=manifest.main_metric,
        metric_unit=next((row.unit for row in manifest.metrics if row.name == manifest.main_metric), ""),
        candidates=[_candidate(artifact, variant) for variant in manifest.variants],
        pictures=golden_pictures(manifest, golden),
        environment=manifest.benchmarks[0].environment if manifest.benchmarks else {},
        lineage=[step.model_dump() for step in manifest.lineage],
        notes=_notes(manifest),
        verification=manifest.verification.model_dump() if manifest.verification else None,
    )


def _candidate(artifact: Artifact, variant: Variant) -> CandidateRow:
    manifest, key = artifact.manifest, variant.key
    row = next((row for row in manifest.metrics if (row.variant, row.name) == (key, manifest.main_metric)), None)
    timing = next((row for row in manifest.benchmarks if row.variant == key), None)
    is_default, where = key == manifest.default, ""
    if timing is None:  # timed on a device that is not of the machine that made it
        timing = next((row for row in manifest.benchmarks if row.variant.startswith(f"{key}@")), None)
        where = f" Timed on the {timing.environment.get('device', 'device')}." if timing else ""
    return CandidateRow(
        name=key,
        metric=variant.metrics.get(manifest.main_metric, row.value if row else None),
        p50_ms=timing.p50_ms if timing else None,
        p90_ms=timing.p90_ms if timing else None,
        size_mb=artifact.variant_bytes(variant) / 1e6,
        memory_mb=None,
        verdict="default" if is_default else "fits",
        reason=("The default: what was chosen when the artifact was made." if is_default else "") + where,
        chosen=is_default,
        metric_interval=(row.low, row.high) if row and row.low is not None and row.high is not None else None,
        count=row.count if row else None,
    )


def _notes(manifest: Manifest) -> list[str]:
    notes = [f"Weights: {manifest.licence.weights}. Training data: {manifest.licence.data}."]
    for row in manifest.metrics:
        how = "; ".join(filter(None, (row.protocol, "this data was also used to choose" if row.chosen_on else "")))
        value = f"{row.name} {manifest.text(row, row.count)} of {row.variant}"
        gain = f"; {gain}" if (gain := manifest.gain(row)) else ""
        notes.append(f"{value} on {row.dataset}, {row.split}{f' ({how})' if how else ''}{gain}.")
    return notes


def golden_pictures(manifest: Manifest, golden: Golden) -> list[tuple[str, Sequence[Panel]]]:
    """The first goldens as the task shows them, with the trained model's answers."""
    task, levels = TASKS[manifest.task], manifest.levels
    pictures: list[tuple[str, Sequence[Panel]]] = []
    for i, image in enumerate(golden.inputs[:MOST_PICTURES]):
        result = task.finish({name: value[i : i + 1] for name, value in golden.outputs.items()}, levels)
        pictures.append((f"golden {i + 1}", task.panels(image, result, golden.truth[i], levels)))
    return pictures
