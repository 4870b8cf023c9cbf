"""From measured rows to an artifact: time the finalists once more, choose, hand over; or say that nothing fits."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from pocketvit.bench.load import quiet
from pocketvit.bench.timing import speedup
from pocketvit.errors import NothingFitsError
from pocketvit.files import sweep
from pocketvit.fit.choose import choose, goodness, nearest_misses, pareto
from pocketvit.fit.gate import Limits, limits_of, shortfalls, usable_rows
from pocketvit.fit.handover import OverBudget, hand_over, handed_over
from pocketvit.fit.measure import Measurer, time_together
from pocketvit.fit.present import write_fit_report
from pocketvit.fit.rows import Row
from pocketvit.spec.artifact import Artifact
from pocketvit.spec.devices import device_of
from pocketvit.spec.recipe import Recipe
from pocketvit.verify.command import ChecksFailed

MOST_FINALISTS = 10
"""Files that are timed in one run; more of them would only lengthen the rounds."""

Measurers = Mapping[str, Measurer]


def wait_for_quiet(recipe: Recipe, notify: Callable[[str], None]) -> list[str]:
    """Wait for a busy machine; a sentence to report where it stays busy."""
    if device_of(recipe.target.device) is not None:
        return []  # what this machine does meanwhile is no matter there
    busy = quiet(recipe.search.quiet_seconds, notify)
    return [f"times were taken on a busy machine: {busy}"] if busy else []


def time_finalists(known: Sequence[Row], measurers: Measurers, limits: Limits, notes: list[str]) -> list[Row]:
    """Time the kept files of all engines once more, in turns in one run; wide spreads are noted.

    The float files are among them, so that every ratio is of one run.
    """
    able = usable_rows(known, limits)
    usable, front = ({row.name for row in some} for some in (able, pareto(able, limits)))
    ranked = sorted(
        (r for r in known if r.kept),
        key=lambda r: (r.name not in usable, bool(r.step), r.name not in front, -goodness(r, limits)),
    )
    rows, ranked = _refused(known, ranked, measurers)
    finalists = ranked[:MOST_FINALISTS]
    if not finalists:
        return list(rows)
    pairs = [(measurers[row.origin], row.built) for row in finalists if row.built is not None]
    timings = dict(zip((row.name for row in finalists), time_together(pairs), strict=True))
    photos = len(pairs[0][0].timed_on([built for _, built in pairs]))
    wide = [name for name, timing in timings.items() if timing.wide]
    if wide:
        notes.append(f"times scatter widely and small differences mean nothing: {', '.join(wide)}")
    floats = {(row.origin, row.runtime): timings[row.name] for row in finalists if not row.step}
    timed = []
    for row in rows:
        if row.name not in timings:
            out = f"not among the {MOST_FINALISTS} files that were timed once more"
            timed.append(replace(row, kept=False, reason=out) if row.kept else row)
            continue
        base = floats.get((row.origin, row.runtime))
        faster = speedup(base, timings[row.name]).p50 if base else row.speedup
        timed.append(replace(row, timing=timings[row.name], speedup=faster, photos=photos))
    return timed


def _refused(rows: Sequence[Row], ranked: Sequence[Row], measurers: Measurers) -> tuple[list[Row], list[Row]]:
    """Rows, and those of ``ranked`` that can be timed: what fails on a device elsewhere is struck out by name."""
    able, struck = list[Row](), dict[str, Row]()
    for row in ranked:
        if row.built is None:
            continue
        if refused := measurers[row.origin].refusal(row.built):
            struck[row.name] = replace(row, kept=False, reason=refused)
        else:
            able.append(row)
    return [struck.get(row.name, row) for row in rows], able


def decide(
    rows: Sequence[Row], measurers: Measurers, recipe: Recipe, folder: Path, notes: list[str], out: Sequence[Row]
) -> tuple[list[Row], Artifact, str]:
    """Choose, write and verify; what fails verification or needs too much memory is struck out and the next one taken.

    Raises:
        NothingFitsError: no row is left that meets budget and floor.
    """
    first = next(iter(measurers.values()))
    rows, limits = list(rows), limits_of(recipe, first.main_metric)
    while True:
        chosen, why = choose(rows, limits, recipe.search.prefer)
        if chosen is None:
            rows = _with_misses(rows, limits)
            refuse(recipe, folder, nearest_misses(rows, limits), [*rows, *out], first, notes)
        try:
            measured, artifact = hand_over(chosen, rows, measurers[chosen.origin], limits, folder)
        except OverBudget as error:
            struck = replace(error.row, kept=False, reason="; ".join(error.misses))
            rows = [struck if row.name == struck.name else row for row in rows]
            continue
        except ChecksFailed as error:
            failed = {check.variant: check.detail for check in error.report.failures}
            if "" in failed:
                raise  # not a matter of one variant
            there = {row.name for row in handed_over(chosen, rows, limits)}
            left = [_strike(row, failed) if row.name in there else row for row in rows]
            if left == rows:
                raise  # nothing was struck out: the next round would be the same
            rows = left
            continue
        known = {row.name: row for row in measured}
        rows = [replace(known.get(row.name, row), chosen=row.name == chosen.name) for row in rows]
        return _with_misses(rows, limits), artifact, why


def _strike(row: Row, failed: dict[str, str]) -> Row:
    """The row, no longer kept if its variant failed verification."""
    struck = row.kept and row.key in failed
    return replace(row, kept=False, reason=f"verification failed: {failed[row.key]}") if struck else row


def _with_misses(rows: Sequence[Row], limits: Limits) -> list[Row]:
    """Rows with every limit that they miss, for tables and reports."""
    return [
        replace(row, misses=tuple(shortfalls(row, rows, limits))) if row.kept and not row.chosen else row
        for row in rows
    ]


def refuse(
    recipe: Recipe, folder: Path, misses: list[str], rows: Sequence[Row], measurer: Measurer | None, notes: list[str]
) -> NoReturn:
    """Write the report and raise: nothing fits, the nearest misses, and what would have to give."""
    shutil.rmtree(folder / "artifact", ignore_errors=True)
    sweep(folder)
    limits = ", ".join(
        f"{key} {value:g}" for key, value in vars(recipe.budget).items() if isinstance(value, (int, float))
    )
    said = [*notes, "Nothing meets budget and floor; no artifact was written."]
    write_fit_report(folder, f"fit {recipe.name}: nothing fits", rows, measurer, recipe, said)
    nearest = "\n".join(f"  {line}" for line in misses[:5])
    raise NothingFitsError(
        f"no candidate meets the budget ({limits or 'none'}) and the floor. Nearest misses:\n{nearest}",
        "Raise the budget or lower the floor, train longer or from pretrained weights, add smaller models or sizes to "
        f"search.models and search.sizes, or allow more runtimes; see {folder / 'report.html'}.",
    )
