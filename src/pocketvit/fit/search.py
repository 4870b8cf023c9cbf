"""Step 2 of fit: train the survivors a little and the better ones longer, driven by Optuna (ask and tell).

Trials are stopped by Optuna's asynchronous successive halving (Li et al. 2020), which compares a trial at each rung
with all that reached it: trials may run one after the other or at once, and a study that was killed goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from pocketvit.data.collections import Splits
from pocketvit.errors import DataError, PocketvitError
from pocketvit.files import writing
from pocketvit.fit.plan import Candidate
from pocketvit.fit.trial import TrialRow, load_trial, run_trial
from pocketvit.spec.recipe import Recipe

STUDY, CANDIDATE = "study.db", "candidate"


def search(
    survivors: list[Candidate],
    sure: set[str],
    splits: Splits,
    recipe: Recipe,
    folder: Path,
    notify: Callable[[str], None],
    *,
    higher_is_better: bool = True,
    quiet: bool = True,
) -> list[TrialRow]:
    """Run a trial for each survivor.

    Args:
        survivors: candidates that may meet the budget, the most promising first: the first one is never stopped.
        sure: keys of those that meet the latency limit in float already; the last one of them is never stopped.
        splits: data.
        recipe: ``train`` and ``search`` are used.
        folder: run folder.
        notify: told what is being done.
        higher_is_better: direction of the main metric.
        quiet: no progress bars.

    Returns:
        One row for each, those that were trained to the end first, the best of them first.

    Raises:
        DataError: the study file is damaged.
    """
    study = open_study(folder, recipe, higher_is_better)
    rows: list[TrialRow] = []
    for candidate in survivors:
        safe = [row.key for row in rows if row.complete and row.key in sure]
        left = [c.key for c in survivors[len(rows) :] if c.key in sure]
        last_sure = candidate.key in sure and not safe and left == [candidate.key]
        place = folder / "trials" / candidate.key
        with _usable(folder):
            trial = ask(study, candidate.key)
            finished = study.trials[trial.number].state.is_finished()
        if finished and (known := load_trial(place)):
            rows.append(known)
            continue

        def report(epoch: int, value: float, trial: optuna.Trial = trial, kept: bool = last_sure) -> bool:
            with _usable(folder):
                known = study.trials[trial.number]
                if known.state.is_finished():  # its trial.json was lost: it ends where it ended before
                    return known.state == TrialState.PRUNED and epoch >= max(known.intermediate_values, default=0)
                if epoch not in known.intermediate_values:
                    trial.report(value, epoch)
                return trial.should_prune() and not kept

        notify(f"training {candidate.key}")
        told = report if len(survivors) > 1 else None  # alone there is nothing to compare it with
        row = run_trial(candidate, recipe, recipe.train.seed, place, splits=splits, report=told, quiet=quiet)
        with _usable(folder):
            tell(study, trial, row)
        rows.append(row)
        if not row.complete:
            notify(f"{row.key}: {stopped(row)}")
    sign = -1 if higher_is_better else 1
    return sorted(rows, key=lambda row: (not row.complete, sign * row.value))


def stopped(row: TrialRow) -> str:
    """Why a trial was not trained to the end."""
    return f"stopped by successive halving at epoch {row.epochs} with {row.value:.2f}"


def open_study(folder: Path, recipe: Recipe, higher_is_better: bool) -> optuna.Study:
    """The study in ``folder``, made where there is none; the worse half is stopped at each rung.

    Raises:
        DataError: the study file is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    file = folder / STUDY
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=recipe.search.rung_epochs, reduction_factor=2)
    direction = StudyDirection.MAXIMIZE if higher_is_better else StudyDirection.MINIMIZE
    with _usable(folder):
        return optuna.create_study(
            storage=f"sqlite:///{file}", study_name="fit", direction=direction, load_if_exists=True, pruner=pruner
        )


@contextmanager
def _usable(folder: Path) -> Iterator[None]:
    """What fails within is the fault of the study's file, or of its disk."""
    file = folder / STUDY
    try:
        with writing(file):
            yield
    except PocketvitError:
        raise
    except Exception as error:  # SQLAlchemy's errors have no common public base here
        what = f"{file}: the study cannot be used ({type(error).__name__})."
        raise DataError(what, "Delete the file; trained trials are kept in their folders.") from error


def ask(study: optuna.Study, key: str) -> optuna.Trial:
    """The candidate's trial: taken up again after a kill, or new."""
    for old in study.trials:
        if old.user_attrs.get(CANDIDATE) == key:
            return optuna.Trial(study, old._trial_id)
    study.enqueue_trial({}, user_attrs={CANDIDATE: key})
    return study.ask()


def tell(study: optuna.Study, trial: optuna.Trial, row: TrialRow) -> None:
    """Close a trial that is still open."""
    if study.trials[trial.number].state == TrialState.RUNNING:
        state = TrialState.COMPLETE if row.complete else TrialState.PRUNED
        study.tell(trial, row.value if row.complete else None, state=state)
