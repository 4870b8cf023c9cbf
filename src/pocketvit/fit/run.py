"""The command ``pocketvit fit``: images and a budget in, a proven artifact out, or an honest "nothing fits"."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from pocketvit.data.collections import Splits, load_splits
from pocketvit.errors import NothingFitsError
from pocketvit.fit.candidates import time_candidates, within_reach
from pocketvit.fit.gate import Row, budget_misses, choose, floor_of
from pocketvit.fit.handover import hand_over, measure_memory, write_fit_report
from pocketvit.fit.measure import Bench, make_bench
from pocketvit.fit.result import FitReport
from pocketvit.fit.shrink import shrink
from pocketvit.fit.training import train_survivors
from pocketvit.spec import recipe as r
from pocketvit.spec.artifact import Artifact
from pocketvit.spec.budget import Budget, Floor, Target
from pocketvit.spec.preprocess import Preprocess
from pocketvit.train.runs import finish_run, open_run


def fit(
    recipe: str | Path | r.Recipe,
    *,
    name: str | None = None,
    runs: str = "runs",
    quiet: bool = False,
    data: r.Data | None = None,
    model: r.Model | None = None,
    task: r.Task | None = None,
    preprocess: Preprocess | None = None,
    train: r.Train | None = None,
    compress: r.Compress | None = None,
    budget: Budget | None = None,
    floor: Floor | None = None,
    target: Target | None = None,
    search: r.Search | None = None,
    **overrides: Any,
) -> FitReport:
    """Find, train, shrink, prove and hand over the best model within the budget; killed and started again it goes on.

    Args:
        recipe: YAML file, or a recipe made in Python.
        name: run name; the recipe's file name by default.
        runs: folder that holds the runs.
        quiet: no progress on standard error.
        data: fields that override the recipe's.
        model: fields that override the recipe's.
        task: fields that override the recipe's.
        preprocess: fields that override the recipe's.
        train: fields that override the recipe's.
        compress: fields that override the recipe's.
        budget: fields that override the recipe's.
        floor: fields that override the recipe's.
        target: fields that override the recipe's.
        search: fields that override the recipe's.
        overrides: single fields by dotted name, e.g. ``**{"budget.latency_ms": 33}``.

    Raises:
        UsageError: the recipe is wrong, or the run is finished.
        DataError: data that cannot be used.
        NothingFitsError: no candidate meets budget and floor; no artifact is left behind.
    """
    given: dict[str, Any] = {"data": data, "model": model, "task": task, "preprocess": preprocess, "train": train}
    given |= {"compress": compress, "budget": budget, "floor": floor, "target": target, "search": search}
    resolved = r.load_recipe(recipe, {key: value for key, value in given.items() if value is not None} | overrides)
    default_name = Path(recipe).stem if isinstance(recipe, (str, Path)) else resolved.name
    splits = load_splits(resolved.data, resolved.task.name)
    folder = open_run(resolved, name or default_name, runs)
    console = Console(stderr=True, highlight=False, quiet=quiet)
    return run_fit(resolved, splits, folder, lambda line: console.print(line, markup=False), quiet)


def run_fit(recipe: r.Recipe, splits: Splits, folder: Path, notify: Callable[[str], None], quiet: bool) -> FitReport:
    """The four steps of DESIGN section 5 in ``folder``."""
    timed = time_candidates(recipe, splits, folder, notify)
    survivors = [candidate for candidate, rows in timed if within_reach(rows, recipe)]
    dropped = [replace(row, reason=f"too slow or too large before training ({row.reason})") for candidate, rows in timed if candidate not in survivors for row in rows]
    notes = [*splits.notes]
    if not survivors:
        _refuse(recipe, folder, [f"{row.name}: {row.reason}" for row in dropped], dropped, None, notes)
    trained = train_survivors(survivors[: recipe.search.trials], splits, recipe, folder, notify, quiet)
    rows: list[Row] = []
    benches: dict[str, Bench] = {}
    for candidate, model, _ in trained:
        bench = make_bench(model, splits, replace(recipe, preprocess=model.preprocess))
        benches[candidate.key] = bench
        rows += shrink(bench, candidate.key, folder / "files" / candidate.key, notify)
    rows, artifact, why = decide(rows, benches, recipe, folder, notes, dropped)
    chosen = next(row for row in rows if row.chosen)
    report = FitReport(folder, artifact.path, chosen.name, why, benches[chosen.origin].main_metric, (*rows, *dropped))
    notes.append(f"chosen: {why}")
    write_fit_report(folder, f"fit {recipe.name}", report.rows, benches[chosen.origin], recipe.budget, notes, recipe.task.name, artifact)
    finish_run(folder, report.to_dict())
    return report


def decide(rows: Sequence[Row], benches: dict[str, Bench], recipe: r.Recipe, folder: Path, notes: list[str], dropped: Sequence[Row]) -> tuple[list[Row], Artifact, str]:
    """Choose, write and verify; a choice that turns out to need too much memory is struck out and the next one taken."""
    rows = list(rows)
    floor = floor_of(recipe.task.name, recipe.floor)
    reference = max((row.metric for row in rows if row.precision == "fp32" and row.metric is not None), default=0.0)
    while True:
        chosen, why = choose(rows, recipe.budget, floor, reference)
        if chosen is None:
            misses = [f"{row.name}: {'; '.join(budget_misses(row, recipe.budget)) or row.reason}" for row in rows]
            _refuse(recipe, folder, misses, [*rows, *dropped], next(iter(benches.values())), notes)
        artifact = hand_over(chosen, rows, benches[chosen.origin], folder)
        measured = measure_memory(chosen, artifact, benches[chosen.origin])
        index = rows.index(chosen)
        if not (misses := budget_misses(measured, recipe.budget)):
            rows[index] = replace(measured, chosen=True)
            return rows, artifact, why
        rows[index] = replace(measured, kept=False, reason="; ".join(misses))


def _refuse(recipe: r.Recipe, folder: Path, misses: list[str], rows: Sequence[Row], bench: Bench | None, notes: list[str]) -> NoReturn:
    """Write the report and raise: nothing fits, the nearest misses, and what would have to give."""
    shutil.rmtree(folder / "artifact", ignore_errors=True)
    limits = ", ".join(f"{key} {value:g}" for key, value in vars(recipe.budget).items() if isinstance(value, (int, float)))
    write_fit_report(
        folder, f"fit {recipe.name}: nothing fits", rows, bench, recipe.budget, [*notes, "Nothing meets budget and floor; no artifact was written."], recipe.task.name, None
    )
    nearest = "\n".join(f"  {line}" for line in misses[:5])
    raise NothingFitsError(
        f"no candidate meets the budget ({limits or 'none'}) and the floor. Nearest misses:\n{nearest}",
        f"Raise the budget or lower the floor, add smaller models or sizes to search.models and search.sizes, or allow more runtimes; see {folder / 'report.html'}.",
    )
