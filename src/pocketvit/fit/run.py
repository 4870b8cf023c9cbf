"""The command ``pocketvit fit``: images and a budget in, a proven artifact out, or an honest "nothing fits"."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from pocketvit.data.cases import condition_name, main_condition
from pocketvit.data.collections import Splits, load_splits
from pocketvit.errors import NothingFitsError, UsageError
from pocketvit.fit.candidates import Candidate, surely_fast, time_candidates, within_reach
from pocketvit.fit.gate import Row, choose, floor_of, nearest_misses, shortfalls
from pocketvit.fit.handover import OverBudget, hand_over, write_fit_report
from pocketvit.fit.measure import Measurer, make_bench
from pocketvit.fit.result import FitReport
from pocketvit.fit.shrink import shrink
from pocketvit.fit.training import train_survivors
from pocketvit.spec import recipe as r
from pocketvit.spec.artifact import Artifact
from pocketvit.spec.budget import Budget, Floor
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.target import Target
from pocketvit.train.runs import finish_run, open_run
from pocketvit.verify.command import ChecksFailed


def fit(
    recipe: str | Path | r.Recipe,
    *,
    name: str | None = None,
    runs: str = "runs",
    quiet: bool = False,
    data: r.DataConfig | None = None,
    model: r.ModelConfig | None = None,
    task: r.TaskConfig | None = None,
    preprocess: Preprocess | None = None,
    train: r.TrainConfig | None = None,
    compress: r.CompressConfig | None = None,
    budget: Budget | None = None,
    floor: Floor | None = None,
    target: Target | None = None,
    search: r.SearchConfig | None = None,
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
    check_metric(resolved, splits)
    folder = open_run(resolved, name or default_name, runs)
    console = Console(stderr=True, highlight=False, quiet=quiet, soft_wrap=True)
    return run_fit(resolved, splits, folder, lambda line: console.print(line, markup=False), quiet)


def check_metric(recipe: r.Recipe, splits: Splits) -> None:
    """Raise ``UsageError`` where ``floor.metric`` is none that this data gives, or one of which less is better."""
    if recipe.floor.metric is None:
        return
    if recipe.task.name == "classify":
        names = [f"{level.name}.top1" for level in splits.val.levels] + [f"{splits.val.levels[-1].name}.top5"]
    else:
        middle = main_condition(recipe.data, recipe.task.name)
        conditions = [f"@{condition_name(recipe.data, sigma)}" for sigma in recipe.data.eval_sigma] if middle else [""]
        names = [f"{kind}{condition}" for condition in conditions for kind in ("psnr", "ssim")]
    if recipe.floor.metric not in names:
        raise UsageError(
            f"floor.metric {recipe.floor.metric!r} is not measured on this data.", f"Take one of {', '.join(names)}."
        )


def run_fit(recipe: r.Recipe, splits: Splits, folder: Path, notify: Callable[[str], None], quiet: bool) -> FitReport:
    """The four steps of DESIGN section 5 in ``folder``."""
    notes = [*splits.notes]
    timed = time_candidates(recipe, splits, folder, notify)
    reachable = [candidate for candidate, rows in timed if within_reach(rows, recipe)]
    out = [
        replace(row, reason=f"too slow or too large before training ({row.reason})")
        for candidate, rows in timed
        if candidate not in reachable
        for row in rows
    ]
    if not reachable:
        _refuse(recipe, folder, [f"{row.name}: {row.reason}" for row in out], out, None, notes)
    if recipe.model.weights is None:
        notes.append("training starts from random weights: model.weights is not set")
        notify(notes[-1])
    survivors = reachable[: recipe.search.trials]
    out += [
        _lost(candidate, f"not tried: search.trials is {recipe.search.trials}")
        for candidate in reachable[recipe.search.trials :]
    ]
    sure = {candidate.key for candidate, rows in timed if surely_fast(rows, recipe)}
    finished, dropped = train_survivors(survivors, sure, splits, recipe, folder, notify, quiet)
    out += [_lost(candidate, reason) for candidate, reason in dropped]
    rows: list[Row] = []
    benches: dict[str, Measurer] = {}
    for item in finished:
        bench = make_bench(item.trained, splits, replace(recipe, preprocess=item.trained.preprocess))
        benches[item.candidate.key] = bench
        rows += shrink(bench, item.candidate.key, folder / "files" / item.candidate.key, notify)
    rows, artifact, why = decide(rows, benches, recipe, folder, notes, out)
    chosen = next(row for row in rows if row.chosen)
    report = FitReport(folder, artifact.path, chosen.name, why, benches[chosen.origin].main_metric, (*rows, *out))
    notes.append(f"chosen: {why}")
    write_fit_report(
        folder,
        f"fit {recipe.name}",
        report.rows,
        benches[chosen.origin],
        recipe.budget,
        notes,
        recipe.task.name,
        artifact,
    )
    finish_run(folder, report.to_dict())
    return report


def _lost(candidate: Candidate, reason: str) -> Row:
    """A row for a candidate of which no file was measured."""
    return Row(candidate.key, "", "", reason=reason, origin=candidate.key)


def decide(
    rows: Sequence[Row],
    benches: dict[str, Measurer],
    recipe: r.Recipe,
    folder: Path,
    notes: list[str],
    out: Sequence[Row],
) -> tuple[list[Row], Artifact, str]:
    """Choose, write and verify; what fails verification or needs too much memory is struck out and the next one taken."""
    rows = list(rows)
    floor = floor_of(recipe.task.name, recipe.floor)
    while True:
        chosen, why = choose(rows, recipe.budget, floor, recipe.target.precision)
        if chosen is None:
            rows = _with_misses(rows, recipe.budget, floor)
            _refuse(
                recipe,
                folder,
                nearest_misses(rows, recipe.budget, floor),
                [*rows, *out],
                next(iter(benches.values())),
                notes,
            )
        try:
            measured, artifact = hand_over(chosen, rows, benches[chosen.origin], folder)
        except OverBudget as error:
            rows[rows.index(chosen)] = replace(error.row, kept=False, reason="; ".join(error.misses))
            continue
        except ChecksFailed as error:
            failed = {check.variant: check.detail for check in error.report.failures}
            if "" in failed:
                raise  # not a matter of one variant
            rows = [_strike(row, failed) if row.origin == chosen.origin else row for row in rows]
            continue
        rows[rows.index(chosen)] = replace(measured, chosen=True)
        return _with_misses(rows, recipe.budget, floor), artifact, why


def _strike(row: Row, failed: dict[str, str]) -> Row:
    """The row, no longer kept if its variant failed verification."""
    return (
        replace(row, kept=False, reason=f"verification failed: {failed[row.key]}")
        if row.kept and row.key in failed
        else row
    )


def _with_misses(rows: Sequence[Row], budget: Budget, floor: Floor) -> list[Row]:
    """Rows with every limit that they miss, for tables and reports."""
    return [
        replace(row, misses=tuple(shortfalls(row, rows, budget, floor))) if row.kept and not row.chosen else row
        for row in rows
    ]


def _refuse(
    recipe: r.Recipe, folder: Path, misses: list[str], rows: Sequence[Row], bench: Measurer | None, notes: list[str]
) -> NoReturn:
    """Write the report and raise: nothing fits, the nearest misses, and what would have to give."""
    shutil.rmtree(folder / "artifact", ignore_errors=True)
    limits = ", ".join(
        f"{key} {value:g}" for key, value in vars(recipe.budget).items() if isinstance(value, (int, float))
    )
    write_fit_report(
        folder,
        f"fit {recipe.name}: nothing fits",
        rows,
        bench,
        recipe.budget,
        [*notes, "Nothing meets budget and floor; no artifact was written."],
        recipe.task.name,
        None,
    )
    nearest = "\n".join(f"  {line}" for line in misses[:5])
    raise NothingFitsError(
        f"no candidate meets the budget ({limits or 'none'}) and the floor. Nearest misses:\n{nearest}",
        f"Raise the budget or lower the floor, add smaller models or sizes to search.models and search.sizes, or allow more runtimes; see {folder / 'report.html'}.",
    )
