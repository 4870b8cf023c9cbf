"""Runs that are asked to end, or lose a loader process, save what has been done and go on as if nothing had been."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch

from pocketvit.data.collections import load_splits
from pocketvit.errors import DataError
from pocketvit.interrupts import Interrupted
from pocketvit.spec.recipe import Recipe, load_recipe
from pocketvit.tasks.load import load_checkpoint
from pocketvit.tasks.start import new_model
from pocketvit.train import loop
from pocketvit.train.history import read_rows
from pocketvit.train.loop import train_model
from pocketvit.train.progress import Advance, Reporter
from pocketvit.train.state import STATE

from .helpers import classify_recipe, write_classes


class AtStep(Reporter):
    """Calls something after a step of the sitting, counted from 1."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        super().__init__(quiet=True)
        self.left, self.act = step, act

    @contextmanager
    def epoch(self, *args: int) -> Iterator[Advance]:
        def advance(*_: float) -> None:
            self.left -= 1
            if self.left == 0:
                self.act()

        yield advance


def train(recipe: Recipe, folder: Path, reporter: Reporter | None = None) -> None:
    splits = load_splits(recipe.data, recipe.task.name)
    train_model(new_model(recipe, splits.train.levels), splits, recipe, folder, reporter=reporter)


def outcome(folder: Path) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in read_rows(folder / "metrics.csv")]
    return rows, load_checkpoint(folder / "last").model.state_dict()


def assert_same(one: Path, other: Path) -> None:
    (rows, weights), (others, theirs) = outcome(one), outcome(other)
    assert rows == others
    assert all(torch.equal(weights[key], theirs[key]) for key in weights)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    data = write_classes(tmp_path_factory.mktemp("d"))
    fields = {"train.epochs": 2, "train.ema": 0.8, "train.batch_size": 3, "train.accumulate": 2}
    return classify_recipe(data, **{**fields, "train.threads": 1, "train.augment": "crop"})


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(recipe, folder)
    return folder


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 2), (signal.SIGTERM, 8)])
def test_a_signal_saves_after_the_step_and_the_run_goes_on_bit_for_bit(
    number: int, step: int, recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted, match=f"step {step}") as caught:
        train(recipe, tmp_path, AtStep(step, lambda: os.kill(os.getpid(), number)))
    assert caught.value.exit_code == 128 + number
    assert torch.load(tmp_path / "last" / STATE, weights_only=True)["position"]["step"] == step
    train(recipe, tmp_path)
    assert_same(tmp_path, whole)


def test_a_signal_during_validation_leaves_the_epoch_open(
    recipe: Recipe, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.eval_cases

    def signalled(*args: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(loop, "eval_cases", signalled)
    with pytest.raises(Interrupted):
        train(recipe, tmp_path)
    monkeypatch.undo()
    position = torch.load(tmp_path / "last" / STATE, weights_only=True)["position"]
    assert (position["epoch"], position["batch"], position["best"]) == (0, 9, None)
    train(recipe, tmp_path)
    assert_same(tmp_path, whole)


def test_a_killed_loader_process_is_named_and_the_run_goes_on(recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    def kill() -> None:
        for child in psutil.Process().children():
            child.kill()

    with pytest.raises(DataError, match=r"loads images was killed.+memory") as caught:
        train(load_recipe(recipe, {"data.workers": 1}), tmp_path, AtStep(1, kill))
    assert "data.workers" in caught.value.todo
    assert torch.load(tmp_path / "last" / STATE, weights_only=True)["position"]["step"] >= 1
    train(recipe, tmp_path)
    assert_same(tmp_path, whole)
