"""Step 2 of fit: train the survivors a little and the better half longer (successive halving), recorded in an Optuna study.

The study is an SQLite file in the run folder and each trial has a folder of its own, so a killed fit goes on where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import TrialState

from pocketvit.data.collections import Splits
from pocketvit.errors import DataError
from pocketvit.fit.candidates import Candidate, recipe_for
from pocketvit.models.trained import Trained
from pocketvit.spec.recipe import Recipe
from pocketvit.tasks.start import new_model
from pocketvit.train.loop import train_model
from pocketvit.train.progress import Reporter


def rungs(recipe: Recipe, count: int) -> list[int]:
    """Epochs at which the worse half is dropped; the last is ``train.epochs``."""
    epochs = recipe.train.epochs
    ends, rung = [], recipe.search.rung_epochs
    while count > 1 and rung < epochs:
        ends.append(rung)
        rung, count = rung * 2, -(-count // 2)
    return [*ends, epochs]


@dataclass(frozen=True)
class Finished:
    """A model trained to the end, with its best validation value."""

    candidate: Candidate
    trained: Trained
    value: float


def train_survivors(
    survivors: list[Candidate],
    sure: set[str],
    splits: Splits,
    recipe: Recipe,
    folder: Path,
    notify: Callable[[str], None],
    quiet: bool,
) -> tuple[list[Finished], list[tuple[Candidate, str]]]:
    """Train by successive halving.

    Args:
        survivors: candidates that may meet the budget.
        sure: keys of those that meet the latency limit in float already; one of them always stays in the race.
        splits: data.
        recipe: ``train`` and ``search`` are used.
        folder: run folder.
        notify: told what is being done.
        quiet: no progress bars.

    Returns:
        The finished models, best first, and the candidates that were dropped with the reason.

    Raises:
        DataError: the study file is damaged.
    """
    study = _open_study(folder)
    trials = {candidate.key: _trial(study, candidate.key) for candidate in survivors}
    alive, dropped = list(survivors), []
    finished: dict[str, Finished] = {}
    for end in rungs(recipe, len(survivors)):
        values: dict[str, float] = {}
        for candidate in alive:
            known = study.trials[trials[candidate.key].number].intermediate_values
            if end in known and end < recipe.train.epochs:
                values[candidate.key] = known[end]  # reached before the run was killed
                continue
            notify(f"training {candidate.key} to epoch {end} of {recipe.train.epochs}")
            best = _train_to(candidate, end, splits, recipe, folder, quiet)
            values[candidate.key] = _main_value(best)
            finished[candidate.key] = Finished(candidate, best, values[candidate.key])
            if study.trials[trials[candidate.key].number].state == TrialState.RUNNING:
                trials[candidate.key].report(values[candidate.key], end)
        if end < recipe.train.epochs:
            kept = halve(alive, values, sure)
            for loser in (c for c in alive if c not in kept):
                reason = f"dropped by successive halving at epoch {end} with {values[loser.key]:.2f}"
                notify(f"{loser.key}: {reason}")
                dropped.append((loser, reason))
                _tell(study, trials[loser.key], TrialState.PRUNED)
            alive = kept
    for candidate in alive:
        _tell(study, trials[candidate.key], TrialState.COMPLETE, finished[candidate.key].value)
    return sorted((finished[c.key] for c in alive), key=lambda item: -item.value), dropped


def halve(alive: list[Candidate], values: dict[str, float], sure: set[str]) -> list[Candidate]:
    """The better half; if nobody in it surely meets the latency limit, its last place goes to the best who does."""
    ranked = sorted(alive, key=lambda c: -values[c.key])
    kept = ranked[: -(-len(ranked) // 2)]
    safe = [c for c in ranked if c.key in sure]
    return kept if not safe or any(c in safe for c in kept) else [*kept[:-1], safe[0]]


def _train_to(candidate: Candidate, end: int, splits: Splits, recipe: Recipe, folder: Path, quiet: bool) -> Trained:
    own = recipe_for(recipe, candidate)
    reporter = Reporter(quiet=quiet, label=candidate.key)
    return train_model(
        new_model(own, splits.train.levels),
        splits,
        own,
        folder / "trials" / candidate.key,
        stop_epoch=end or None,
        reporter=reporter,
    )


def _main_value(trained: Trained) -> float:
    """The best validation value that the training loop recorded (its main metric decided which checkpoint is best)."""
    return float(trained.info.get("best_value", 0.0))


def _open_study(folder: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        return optuna.create_study(
            storage=f"sqlite:///{folder / 'study.db'}", study_name="fit", direction="maximize", load_if_exists=True
        )
    except Exception as error:  # SQLAlchemy's errors have no common public base here
        raise DataError(
            f"{folder / 'study.db'}: the study cannot be opened ({type(error).__name__}).",
            "Delete the file; trained trials are kept in their folders.",
        ) from error


def _trial(study: optuna.Study, key: str) -> optuna.Trial:
    """The candidate's trial: taken up again after a kill, or new."""
    for old in study.trials:
        if old.user_attrs.get("candidate") == key:
            return optuna.Trial(study, old._trial_id)
    trial = study.ask()
    trial.set_user_attr("candidate", key)
    return trial


def _tell(study: optuna.Study, trial: optuna.Trial, state: TrialState, value: float | None = None) -> None:
    if study.trials[trial.number].state == TrialState.RUNNING:
        study.tell(trial, value, state=state)
