from pathlib import Path
from typing import Any

import pytest

from pocketvit.errors import DataError
from pocketvit.files import write_json
from pocketvit.fit import search as module
from pocketvit.fit.plan import Candidate
from pocketvit.fit.search import open_study, search
from pocketvit.fit.trial import TrialRow, rungs
from pocketvit.spec.recipe import load_recipe

CANDIDATES = [Candidate(name, (8, 8)) for name in "abc"]
KEYS = [c.key for c in CANDIDATES]


@pytest.mark.parametrize(
    ("epochs", "first", "expected"), [(8, 1, [1, 2, 4, 8]), (6, 2, [2, 4, 6]), (1, 1, [1]), (0, 1, [0])]
)
def test_rungs_double_until_the_end(epochs: int, first: int, expected: list[int]) -> None:
    assert rungs(load_recipe(None, {"train.epochs": epochs, "search.rung_epochs": first})) == expected


class Trials:
    """Stands in for training: each candidate has a value for each epoch."""

    def __init__(self, values: dict[str, list[float]], dies_at: str = "") -> None:
        self.values, self.dies_at, self.ran = values, dies_at, []

    def __call__(self, candidate: Candidate, recipe: Any, seed: int, folder: Path, **options: Any) -> TrialRow:
        self.ran.append(candidate.key)
        if candidate.key == self.dies_at:
            raise KeyboardInterrupt
        ends = rungs(recipe)
        for end, value in zip(ends, self.values[candidate.model], strict=True):
            row = TrialRow(candidate.key, value, end, end == ends[-1], folder)
            if options["report"](end, value) and not row.complete:
                break
        write_json(folder / "trial.json", {**vars(row), "folder": folder.name})
        return row


def run(
    folder: Path, trials: Trials, monkeypatch: pytest.MonkeyPatch, sure: set[str] | None = None, **options: Any
) -> list[TrialRow]:
    monkeypatch.setattr(module, "run_trial", trials)
    recipe = load_recipe(None, {"train.epochs": 4})
    return search(CANDIDATES, sure or set(), None, recipe, folder, lambda line: None, **options)


def test_the_worse_half_is_stopped_at_a_rung_and_the_best_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = run(tmp_path, Trials({"a": [50, 60, 70], "b": [40, 80, 90], "c": [55, 70, 80]}), monkeypatch)
    assert [(r.key[0], r.epochs, r.complete) for r in rows] == [("c", 4, True), ("a", 4, True), ("b", 1, False)]


def test_of_a_metric_of_which_less_is_better_the_higher_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"a": [0.5, 0.4, 0.3], "b": [0.6, 0.1, 0.1], "c": [0.4, 0.3, 0.2]}
    rows = run(tmp_path, Trials(values), monkeypatch, higher_is_better=False)
    assert [(r.key[0], r.complete) for r in rows] == [("c", True), ("a", True), ("b", False)]


def test_the_last_one_that_surely_meets_the_latency_is_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"a": [50, 60, 70], "b": [40, 45, 50], "c": [10, 11, 12]}
    rows = run(tmp_path, Trials(values), monkeypatch, {KEYS[2]})
    assert {r.key[0]: r.complete for r in rows} == {"a": True, "b": False, "c": True}


def test_a_study_that_was_killed_goes_on_with_the_same_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"a": [50, 60, 70], "b": [40, 80, 90], "c": [55, 70, 80]}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Trials(values, dies_at=KEYS[1]), monkeypatch)
    again = Trials(values)
    rows = run(tmp_path, again, monkeypatch)
    assert again.ran == KEYS[1:]  # what is done is read from its folder
    assert [(r.key[0], r.complete) for r in rows] == [("c", True), ("a", True), ("b", False)]
    study = open_study(tmp_path, load_recipe(None, {}), True)
    assert [t.user_attrs["candidate"] for t in study.trials] == KEYS
    assert [t.state.name for t in study.trials] == ["COMPLETE", "PRUNED", "COMPLETE"]


def test_a_run_killed_behind_a_stopped_trial_takes_it_over_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"a": [50, 60, 70], "b": [40, 80, 90], "c": [55, 70, 80]}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Trials(values, dies_at=KEYS[2]), monkeypatch)
    again = Trials(values)
    rows = run(tmp_path, again, monkeypatch)
    assert again.ran == [KEYS[2]]
    assert [(r.key[0], r.epochs, r.complete) for r in rows] == [("c", 4, True), ("a", 4, True), ("b", 1, False)]


def test_a_damaged_study_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(DataError, match=r"study.db: the study cannot be used"):
        open_study(tmp_path, load_recipe(None, {}), True)
