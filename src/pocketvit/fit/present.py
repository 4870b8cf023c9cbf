"""The report of a fit: what is drawn, and on which pictures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from pocketvit.fit.gate import limits_of
from pocketvit.fit.measure import Measurer
from pocketvit.fit.rows import Row
from pocketvit.fit.tables import candidate_rows
from pocketvit.report.data import Panel, ReportData, save_report
from pocketvit.report.html import write_report
from pocketvit.runtimes.model import default_target, open_variant
from pocketvit.spec.artifact import Artifact
from pocketvit.spec.environment import environment
from pocketvit.spec.recipe import Recipe
from pocketvit.spec.tasks import task_of
from pocketvit.verify.evaluate import measure

PICTURES = 4


def write_fit_report(
    folder: Path,
    title: str,
    rows: Sequence[Row],
    measurer: Measurer | None,
    recipe: Recipe,
    notes: Sequence[str],
    artifact: Artifact | None = None,
    why: str = "",
) -> Path:
    """Write ``report.html`` (and what it is drawn from) into the run folder; ``why`` is why the chosen row was."""
    metric = measurer.main_metric if measurer else task_of(recipe.task.name).metrics[0].name
    chosen = next((row for row in rows if row.chosen), None)
    curves = folder / "trials" / chosen.origin / "metrics.csv" if chosen else None
    verification = artifact.manifest.verification if artifact else None
    shown, lines = _pictures(measurer, artifact) if measurer and artifact else ([], [])
    data = ReportData(
        title=title,
        task=recipe.task.name,
        metric_name=metric,
        metric_unit=measurer.spec.unit if measurer else "",
        budget=vars(recipe.budget),
        floor=vars(limits_of(recipe, metric).floor) if measurer else {},
        candidates=candidate_rows(rows, why),
        pictures=shown,
        environment=environment(),
        lineage=[step.model_dump() for step in artifact.manifest.lineage] if artifact else (),
        exits={row.name: row.exits for row in rows if row.exits},
        rankings={row.name: row.ranking for row in rows if row.ranking},
        curves=curves if curves and curves.exists() else None,
        notes=[*lines, *notes],
        verification=verification.model_dump() if verification else None,
    )
    save_report(folder, data)
    return write_report(folder / "report.html", data)


def _pictures(measurer: Measurer, artifact: Artifact) -> tuple[list[tuple[str, list[Panel]]], list[str]]:
    """What the handed-over file answers on the first validation images, and what the task shows of all of them."""
    chosen = default_target(artifact.manifest, artifact.variant())
    model, condition = open_variant(artifact, chosen, trust=True), measurer.main_metric.partition("@")[2]
    cases = (case for case in measurer.cases() if not condition or case.condition == condition)
    shown = []
    for case in islice(cases, PICTURES):
        panels = measurer.task.panels(case.image, model(case.image), case.truth, measurer.trained.levels)
        shown.append((f"{case.path.name} {case.condition}".strip(), panels))
    if measurer.task.study is None:
        return shown, []
    study = measurer.task.study(measurer.trained.levels)
    measure(model, measurer.cases(), measurer.evaluator(), study=study)
    return [*shown, *study.pictures()], study.lines()
