"""Step 3 of fit: shrink step by step behind the gain gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pocketvit.bench.timing import speedup
from pocketvit.compress.steps import BY_NAME, LibraryDefaultInt8, StaticInt8, apply
from pocketvit.errors import PocketvitError, UsageError
from pocketvit.export.built import Built
from pocketvit.fit.calibration import Calibration, make_calibration
from pocketvit.fit.candidates import export_float, wanted_runtimes
from pocketvit.fit.gate import Row, floor_of, judge
from pocketvit.fit.measure import Measurer
from pocketvit.runtimes.probe import probe
from pocketvit.spec import recipe as r
from pocketvit.spec.target import Target

DEFAULT_LABEL = "(library default)"


def shrink(bench: Measurer, origin: str, folder: Path, notify: Callable[[str], None]) -> list[Row]:
    """Export the float files, try every step of the recipe on each, and judge each by its own measurements.

    Args:
        bench: the trained model and what it is measured with.
        origin: name of the candidate in tables.
        folder: where the files are written.
        notify: told what is being done.

    Returns:
        One row for each file, float files first. All files of one runtime are timed side by side.
    """
    calibration = make_calibration(bench.trained, bench.splits, bench.recipe)
    rows: list[Row] = []
    for base in export_float(bench.trained, wanted_runtimes(bench.recipe), folder):
        notify(f"{origin}: scoring {base.key}")
        rows += _one_runtime(bench, base, calibration, origin, folder, notify)
    return sorted(rows, key=lambda row: row.precision != "fp32")


def _one_runtime(
    bench: Measurer, base: Built, calibration: Calibration, origin: str, folder: Path, notify: Callable[[str], None]
) -> list[Row]:
    """Build, score and time one runtime's files: the float one, then each step's."""
    settings = bench.recipe.compress
    rows = [
        _scored(
            bench,
            Row(
                f"{origin} {base.key}",
                base.runtime,
                base.precision,
                base,
                kept=True,
                reason="the float file",
                origin=origin,
            ),
        )
    ]
    for label, step in steps_for(base.runtime, bench.recipe):
        notify(f"{origin}: {base.runtime} {label}")
        rows.append(_try(bench, base, label, step, calibration, origin, folder))
    measured = [row for row in rows if row.built is not None]
    timings = dict(
        zip((row.name for row in measured), bench.time([row.built for row in measured if row.built]), strict=True)
    )
    float_time = timings[rows[0].name]
    base_row = replace(rows[0], timing=float_time, speedup=1.0)
    floor = floor_of(bench.trained.task.name, bench.recipe.floor)
    judged = [base_row]
    for row in rows[1:]:
        timed = replace(
            row,
            timing=timings.get(row.name),
            speedup=speedup(float_time, timings[row.name]).p50 if row.name in timings else None,
        )
        verdict = judge(base_row, timed, settings, floor)
        if verdict.kept and DEFAULT_LABEL in row.name:
            verdict = replace(
                verdict, kept=False, reason=f"built to compare with, never handed over ({verdict.reason})"
            )
        judged.append(verdict)
    return judged


def steps_for(runtime: str, recipe: r.Recipe) -> list[tuple[str, Any]]:
    """The recipe's steps that exist in a runtime and lead to the target's precision, with the names that tables show.

    The library's default int8 is added to compare with.
    """
    settings, threads = recipe.compress, recipe.target.threads
    steps: list[tuple[str, Any]] = []
    for name in settings.steps:
        kind = BY_NAME.get((runtime, name))
        if kind is None or recipe.target.precision not in ("any", name):
            continue
        step = kind()
        if isinstance(step, StaticInt8):
            step = replace(step, max_float_layers=settings.max_float_layers, threads=threads)
        steps.append((name, step))
        if isinstance(step, StaticInt8) and settings.library_default:
            steps.append((f"int8 {DEFAULT_LABEL}", LibraryDefaultInt8()))
    return steps


def _try(
    bench: Measurer, base: Built, label: str, step: Any, calibration: Calibration, origin: str, folder: Path
) -> Row:
    """The scored file of one step; a step that this machine cannot do becomes a row with its reason."""
    row = Row(f"{origin} {base.runtime}:{label}", base.runtime, label.split(" ")[0], origin=origin)
    try:
        score = calibration.scorer(base.runtime) if label.startswith("int8") else None
        report = apply(step, base, calibration.inputs, score, folder)
        if base.runtime == "openvino" and score is None:  # scoring has probed the file already
            probe(
                report.built.path,
                Target(base.runtime, report.built.precision, bench.recipe.target.threads),
                bench.trained.preprocess.size,
            )
        scored = _scored(bench, replace(row, built=report.built))
    except (PocketvitError, RuntimeError) as error:
        what = error.what if isinstance(error, PocketvitError) else f"{type(error).__name__}: {error}"
        return replace(row, reason=f"not possible here: {' '.join(what.split())[:200]}")
    return replace(
        scored,
        ranking=tuple(
            (f"{layer.name}{' (kept in float)' if layer.kept_float else ''}", layer.error) for layer in report.ranking
        ),
    )


def _scored(bench: Measurer, row: Row) -> Row:
    if row.built is None:
        return row
    metrics = bench.score(row.built)
    if bench.main_metric not in metrics:
        raise UsageError(
            f"floor.metric {bench.main_metric} is not measured here.", f"Take one of {', '.join(metrics)}."
        )
    return replace(row, metrics=metrics, metric=metrics[bench.main_metric])
