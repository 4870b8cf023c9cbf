"""Step 4 of fit: the chosen file and the rest of the Pareto set in an artifact, verified and measured there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pocketvit.bench.memory import peak_rss_mb
from pocketvit.data.cases import Case, condition_names, eval_cases
from pocketvit.export.artifact import create_artifact, make_golden, measure_memory
from pocketvit.fit.choose import pareto
from pocketvit.fit.gate import Limits, usable_rows
from pocketvit.fit.measure import Measurer
from pocketvit.fit.rows import Row
from pocketvit.fit.tables import ADAPTED, bench_rows, lineage, metric_rows, test_rows
from pocketvit.models.trained import Trained
from pocketvit.runtimes import RUNTIMES
from pocketvit.spec.artifact import CANDIDATE, Artifact, read_artifact
from pocketvit.spec.manifest import Licence, Memory, MetricRow
from pocketvit.spec.target import Target
from pocketvit.tasks.load import load_checkpoint
from pocketvit.verify.command import verify

ONLY_CHOSEN_ON = (
    "these photos were also used to choose the file, which flatters its figure; name data.test for a fair one"
)


class OverBudget(Exception):
    """A variant misses a limit that only the finished artifact could be measured against."""

    def __init__(self, row: Row, misses: Sequence[str]) -> None:
        super().__init__("; ".join(misses))
        self.row, self.misses = row, tuple(misses)


def handed_over(chosen: Row, rows: Sequence[Row], limits: Limits) -> list[Row]:
    """The chosen row, then those of the Pareto set that meet budget and floor and come from the same network.

    There is always a file among them that the base install runs, where one holds the floor, be it too slow: a machine
    without the chosen engine can run nothing else.
    """
    same = [row for row in rows if row.origin == chosen.origin and row.model == chosen.model]
    others = pareto(usable_rows(same, replace(limits, precision="any")), limits)
    # Of two rows with one key the one further down the chain is the better one.
    found = [chosen, *({row.key: row for row in others if row.key != chosen.key}).values()]
    if any(_in_base_install(row) for row in found):
        return found
    patient = replace(limits, precision="any", budget=replace(limits.budget, latency_ms=None))
    able = [row for row in usable_rows(same, patient) if _in_base_install(row)]
    return [*found, *sorted(able, key=lambda row: row.latency(limits.budget.percent) or 0.0)[:1]]


def _in_base_install(row: Row) -> bool:
    return not RUNTIMES[row.runtime].extra


def hand_over(
    chosen: Row, rows: Sequence[Row], measurer: Measurer, limits: Limits, folder: Path
) -> tuple[list[Row], Artifact]:
    """Write ``folder/artifact`` with the chosen file as default.

    It is written, verified and measured under another name and renamed last: what lies at ``artifact`` is proven.

    Returns:
        The rows in the artifact with their peak memory, the chosen one first; and the artifact.

    Raises:
        VerificationError: an exported file does not do what the trained model does.
        OverBudget: a variant needs more memory than the budget allows.
    """
    trained = load_checkpoint(chosen.model) if chosen.model else measurer.trained
    kept, split = handed_over(chosen, rows, limits), measurer.splits.test
    candidate, destination = folder / CANDIDATE, folder / "artifact"
    shutil.rmtree(candidate, ignore_errors=True)  # of a killed process; the name is ours alone
    metrics = metric_rows(kept, measurer, measurer.trivial())
    try:
        memory = measure_memory(trained, [row.built for row in kept if row.built], measurer.recipe.target.threads)
        _write(candidate, trained, kept, rows, measurer, metrics, memory)
        _check_sizes(kept, read_artifact(candidate), limits)
        # Every variant must meet a limit; without one the chosen file's figure is enough.
        many = kept if limits.budget.memory_mb is not None else kept[:1]
        measured = [*(_with_memory(row, candidate, measurer, limits) for row in many), *kept[len(many) :]]
        if split is not None and chosen.built is not None:  # only now it is sure that this file is handed over
            tested = test_rows(chosen.key, measurer.score(chosen.built, split), split, measurer)
            _write(candidate, trained, kept, rows, measurer, [*metrics, *tested], memory)
        shutil.rmtree(destination, ignore_errors=True)
        os.replace(candidate, destination)
    finally:
        shutil.rmtree(candidate, ignore_errors=True)
    return measured, read_artifact(destination)


def _write(
    folder: Path,
    trained: Trained,
    kept: Sequence[Row],
    rows: Sequence[Row],
    measurer: Measurer,
    metrics: Sequence[MetricRow],
    memory: Mapping[str, Memory],
) -> None:
    """Write and verify the artifact of the rows ``kept``, of which the first is the default."""
    recipe, count = measurer.recipe, measurer.task.golden.count
    adapted = measurer.trained.info.get(ADAPTED, {})
    create_artifact(
        trained,
        folder,
        name=recipe.name,
        version=adapted.get("version", "0.1.0"),
        golden=make_golden(trained, golden_cases(measurer, count), count),
        built=[replace(row.built, device=row.device) for row in kept if row.built],
        default=kept[0].key,
        main_metric=measurer.main_metric,
        lineage=lineage([row for row in rows if row.origin == kept[0].origin], adapted),
        metrics=metrics,
        benchmarks=bench_rows(kept, measurer),
        licence=Licence(data=recipe.licence_data),
        training={"recipe": recipe.name, **trained.info, **({ADAPTED: adapted} if adapted else {})},
        memory=memory,
        replace=True,
    )
    verify(str(folder), trust=True)  # this run wrote all of it


def _check_sizes(kept: Sequence[Row], artifact: Artifact, limits: Limits) -> None:
    """Hold the files as they lie in the artifact, with the labels written into them, against the budget."""
    for row in kept:
        size_mb = artifact.variant_bytes(artifact.variant(row.key)) / 1e6
        if misses := limits.budget.misses(latency_ms=None, size_mb=size_mb, memory_mb=None):
            raise OverBudget(row, misses)


def _with_memory(row: Row, artifact: Path, measurer: Measurer, limits: Limits) -> Row:
    """The row with its peak memory in a fresh process, held against the budget; no device elsewhere tells its own."""
    if measurer.elsewhere is not None:
        return row
    target = Target(row.runtime, row.precision, measurer.recipe.target.threads, measurer.recipe.target.device)
    peak = peak_rss_mb(artifact, target, measurer.image, trust=True)
    if misses := limits.budget.misses(latency_ms=None, size_mb=0.0, memory_mb=peak):
        raise OverBudget(replace(row, memory_mb=peak), misses)
    return replace(row, memory_mb=peak)


def golden_cases(measurer: Measurer, count: int) -> list[Case]:
    """Validation cases spread over the whole set (all classes, not the first ones), of the main metric's condition."""
    data = measurer.recipe.data
    names = condition_names(measurer.splits.val, data)
    only = next((name for name in names if measurer.main_metric.endswith(f"@{name}")), None)
    return list(eval_cases(measurer.splits.val, data, limit=count, only=only))
