"""Step 2 of fit: train the survivors a little and the better half longer (successive halving), recorded in an Optuna study.

The study is an SQLite file in the run folder and each trial has a folder of its own, so a killed fit goes on where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.trial import TrialState

from pocketvit.data.collections import Splits
from pocketvit.errors import DataError
from pocketvit.fit.candidates import Candidate, recipe_for
from pocketvit.spec.recipe import Recipe
from pocketvit.train.checkpoint import Trained
from pocketvit.train.loop import train_model
from pocketvit.train.progress import Reporter
from pocketvit.train.setup import new_model


def rungs(recipe: Recipe, count: int) -> list[int]:
    """Epochs at which the worse half is dropped; the last is ``train.epochs``."""
    epochs = recipe.train.epochs
    ends, rung = [], recipe.search.rung_epochs
    while count > 1 and rung < epochs:
        ends.append(rung)
        rung, count = rung * 2, -(-count // 2)
    return [*ends, epochs]


def train_survivors(survivors: list[Candidate], splits: Splits, recipe: Recipe, folder: Path, notify: Callable[[str], None], quiet: bool) -> list[tuple[Candidate, Trained, float]]:
    """Train by successive halving and return the finished models with their validation metric, best first.

    Raises:
        DataError: the study file is damaged.
    """
    study = _open_study(folder)
    trials = {candidate.key: _trial(study, candidate.key) for candidate in survivors}
    alive = [candidate for candidate in survivors if study.trials[trials[candidate.key].number].state != TrialState.PRUNED]
    finished: dict[str, tuple[Candidate, Trained, float]] = {}
    for end in rungs(recipe, len(survivors)):
        for candidate in alive:
            notify(f"training {candidate.key} to epoch {end} of {recipe.train.epochs}")
            own = recipe_for(recipe, candidate)
            reporter = Reporter(quiet=quiet, label=candidate.key)
            best = train_model(new_model(own, splits.train.levels), splits, own, folder / "trials" / candidate.key, stop_epoch=end or None, reporter=reporter)
            value = _main_value(best)
            finished[candidate.key] = (candidate, best, value)
            if study.trials[trials[candidate.key].number].state == TrialState.RUNNING:
                trials[candidate.key].report(value, end)
        if end < recipe.train.epochs:
            ranked = sorted(alive, key=lambda c: -finished[c.key][2])
            for loser in ranked[-(-len(ranked) // 2) :]:
                notify(f"{loser.key} dropped at epoch {end}: {finished.pop(loser.key)[2]:.2f}")
                _tell(study, trials[loser.key], TrialState.PRUNED)
            alive = ranked[: -(-len(ranked) // 2)]
    for candidate in alive:
        _tell(study, trials[candidate.key], TrialState.COMPLETE, finished[candidate.key][2])
    return sorted((finished[c.key] for c in alive), key=lambda item: -item[2])


def _main_value(trained: Trained) -> float:
    """The best validation value that the training loop recorded (its main metric decided which checkpoint is best)."""
    return float(trained.info.get("best_value", 0.0))


def _open_study(folder: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        return optuna.create_study(storage=f"sqlite:///{folder / 'study.db'}", study_name="fit", direction="maximize", load_if_exists=True)
    except Exception as error:  # SQLAlchemy's errors have no common public base here
        raise DataError(f"{folder / 'study.db'}: the study cannot be opened ({type(error).__name__}).", "Delete the file; trained trials are kept in their folders.") from error


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
