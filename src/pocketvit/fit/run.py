"""What ``pocketvit fit`` does: images and a budget in, a proven artifact out, or an honest "nothing fits"."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pocketvit.bench.remote import Elsewhere, connect
from pocketvit.data.cases import condition_names, main_condition
from pocketvit.data.collections import Splits, load_splits
from pocketvit.errors import UsageError
from pocketvit.fit.chains import shrink
from pocketvit.fit.decide import decide, refuse, time_finalists, wait_for_quiet
from pocketvit.fit.gate import limits_of
from pocketvit.fit.handover import ONLY_CHOSEN_ON
from pocketvit.fit.measure import Measurer, make_measurer
from pocketvit.fit.plan import (
    Candidate,
    candidates,
    planned_steps,
    recipe_for,
    start_notes,
    surely_fast,
    time_candidates,
    wanted_runtimes,
    within_reach,
)
from pocketvit.fit.present import write_fit_report
from pocketvit.fit.result import FitReport
from pocketvit.fit.rows import Row
from pocketvit.fit.search import search, stopped
from pocketvit.spec.devices import device_of
from pocketvit.spec.recipe import Recipe
from pocketvit.spec.tasks import task_of
from pocketvit.tasks.load import load_checkpoint
from pocketvit.train.checks import check_trainable, teller
from pocketvit.train.runs import check_once, finish_run, run_folder


def run(recipe: Recipe, name: str, runs: str, quiet: bool, said: Sequence[str] = ()) -> FitReport:
    """Check the recipe against its data, open the run and fit; see :func:`pocketvit.fit.command.fit`.

    ``said`` are notes on the recipe, which the terminal, the report and the answer show with those on the data.
    """
    # Which compiler there is concerns nobody here: torch warns of a CUDA_HOME without a GPU when NNCF looks for one.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    splits = load_splits(recipe.data, recipe.task.name)
    check_recipe(recipe, splits)
    notify, notes = teller(quiet), [*said, *splits.notes]
    with run_folder(recipe, name, runs, splits, notify) as folder:
        for note in notes:  # at once, and not only when all is done
            notify(f"note: {note}")
        check_once(folder, splits, quiet)
        with elsewhere_of(recipe, notify) as elsewhere:
            return run_fit(recipe, splits, folder, notify, quiet, notes, elsewhere)


@contextmanager
def elsewhere_of(recipe: Recipe, notify: Callable[[str], None]) -> Iterator[Elsewhere | None]:
    """The connection to the target's device for the whole of the run; ``None`` where it is of this machine."""
    device = device_of(recipe.target.device)
    if device is None:
        yield None
        return
    with connect(device, recipe.contact, notify) as remote:
        yield Elsewhere(device, remote)


def check_recipe(recipe: Recipe, splits: Splits) -> None:
    """Raise ``UsageError`` where nothing could be trained, or the floor's metric or a step is none that there is."""
    check_trainable((recipe_for(recipe, candidate) for candidate in candidates(recipe)), splits)
    for runtime in wanted_runtimes(recipe):
        planned_steps(recipe, runtime)
    wanted = recipe.floor.metric
    if wanted is None:
        return
    names = task_of(recipe.task.name).metric_names(splits.val.levels, condition_names(splits.val, recipe.data))
    if wanted not in names:
        raise UsageError(f"floor.metric {wanted!r} is not measured on this data.", f"Take one of {', '.join(names)}.")


def run_fit(
    recipe: Recipe,
    splits: Splits,
    folder: Path,
    notify: Callable[[str], None],
    quiet: bool,
    said: Sequence[str] = (),
    elsewhere: Elsewhere | None = None,
) -> FitReport:
    """The four steps of DESIGN section 5 in ``folder``; notes begin with what was ``said`` before."""
    notes = [*said, *wait_for_quiet(recipe, notify)]
    survivors, sure, out = plan(recipe, splits, folder, notify, notes, elsewhere)
    for line in start_notes(recipe):
        notes.append(line)
        notify(line)
    task = task_of(recipe.task.name)
    main = task.main(splits.val.levels, main_condition(recipe.data, task.name))
    # Trials report the main metric, whatever the floor is on.
    better = task.metric(main).higher_is_better
    trials = search(survivors, sure, splits, recipe, folder, notify, higher_is_better=better, quiet=quiet)
    metric = recipe.floor.metric or main
    out += [_lost(trial.key, stopped(trial)) for trial in trials if not trial.complete]
    rows: list[Row] = []
    measurers: dict[str, Measurer] = {}
    for trial in trials:
        if trial.complete:
            notes += wait_for_quiet(recipe, notify)
            trained = load_checkpoint(trial.folder / "best")
            measurers[trial.key] = make_measurer(trained, splits, recipe, elsewhere)
            rows += shrink(measurers[trial.key], trial.key, folder / "files" / trial.key, notify, quiet=quiet)
    notes += wait_for_quiet(recipe, notify)
    rows = time_finalists(rows, measurers, limits_of(recipe, metric), notes)
    notes = list(dict.fromkeys(notes))
    if elsewhere is not None:
        notes.append(timed_there(elsewhere))
    rows, artifact, why = decide(rows, measurers, recipe, folder, notes, out)
    chosen = next(row for row in rows if row.chosen)
    measurer = measurers[chosen.origin]
    if splits.test is None:
        notes.append(f"{metric} of {chosen.name}: {ONLY_CHOSEN_ON}")
    for row in artifact.manifest.metrics:
        if (row.split, row.name, row.variant) == ("test", metric, chosen.key):
            notes.append(
                f"{metric} of {chosen.name} on photos that chose nothing: {artifact.manifest.text(row, row.count)}"
            )
    if any("x speed" in row.reason for row in rows):
        notes.append(
            "speed-ups among the reasons were measured side by side as each file was judged, times in a later run"
        )
    report = FitReport(folder, artifact.path, chosen.name, why, metric, measurer.spec.unit, (*rows, *out), tuple(notes))
    write_fit_report(folder, f"fit {recipe.name}", report.rows, measurer, recipe, notes, artifact, why)
    finish_run(folder, report.to_dict())
    return report


def timed_there(elsewhere: Elsewhere) -> str:
    """What a reader of the times must know."""
    where, name = elsewhere.remote.environment, elsewhere.device.name
    files = "every file gave there the answers that it gives here"
    return f"times are of the {name}: {where.get('user_agent', 'unknown')}, {where.get('engine', 'unknown')}; {files}"


def plan(
    recipe: Recipe,
    splits: Splits,
    folder: Path,
    notify: Callable[[str], None],
    notes: list[str],
    elsewhere: Elsewhere | None = None,
) -> tuple[list[Candidate], set[str], list[Row]]:
    """Candidates to train, keys of those that surely meet the latency limit, and rows of those that are left out.

    Raises:
        NothingFitsError: none can meet the budget.
    """
    timed = time_candidates(recipe, splits, folder, notify, elsewhere)
    reachable = [candidate for candidate, rows in timed if within_reach(rows, recipe)]
    out = [
        replace(row, reason=f"too slow or too large before training ({row.reason})") if row.timing else row
        for candidate, rows in timed
        for row in rows
        if candidate not in reachable
    ]
    if not reachable:
        refuse(recipe, folder, [f"{row.name}: {row.reason}" for row in out], out, None, notes)
    trials = recipe.search.trials
    out += [_lost(candidate.key, f"not tried: search.trials is {trials}") for candidate in reachable[trials:]]
    sure = {candidate.key for candidate, rows in timed if surely_fast(rows, recipe)}
    return reachable[:trials], sure, out


def _lost(key: str, reason: str) -> Row:
    """A row for a candidate of which no file was measured."""
    return Row(key, reason=reason, origin=key)
