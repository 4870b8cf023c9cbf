from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pocketvit.train import loop, progress
from pocketvit.train.progress import Reporter, clock

from .helpers import classify_recipe, write_classes
from .test_loop import run


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int | None, list[tuple[int, str]]]]:
    """What bars were shown: label, total, and the advances with their notes."""
    shown: list[tuple[str, int | None, list[tuple[int, str]]]] = []

    @contextmanager
    def track(label: str, total: int | None, *, quiet: bool = False) -> Iterator[Callable[..., None]]:
        advances: list[tuple[int, str]] = []
        if not quiet:
            shown.append((label, total, advances))
        yield lambda count=1, note="": advances.append((count, note))

    for module in (progress, loop):
        monkeypatch.setattr(module, "track", track)
    return shown


def test_a_run_by_epochs_counts_them_and_validation_has_a_bar(tmp_path: Path, bars: list, capsys) -> None:
    recipe = classify_recipe(write_classes(tmp_path / "d"), **{"train.epochs": 2})
    run(recipe, tmp_path / "run", reporter=Reporter(label="tiny"))
    assert [(label, total) for label, total, _ in bars] == [
        ("tiny epoch 1/2", 3),
        ("validate", 9),
        ("tiny epoch 2/2", 3),
        ("validate", 9),
    ]
    assert [count for count, _ in bars[0][2]] == [0, 1, 1, 1]
    assert [count for count, _ in bars[1][2]] == [9]
    assert "images/s  loss" in bars[0][2][-1][1]
    assert bars[2][2][-1][1].endswith("0:00 left of the run")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" (")[0] for line in lines] == ["tiny epoch 1", "tiny epoch 2"]
    assert "label.top1" in lines[1]


def test_a_run_by_minutes_says_the_time_left_and_no_number_of_epochs(tmp_path: Path, bars: list) -> None:
    data = write_classes(tmp_path / "d")
    recipe = classify_recipe(data, **{"train.epochs": 1000, "train.minutes": 2.0, "train.validate_every": 50})
    run(recipe, tmp_path / "run", reporter=Reporter(), stop_epoch=2)
    assert [label for label, _, _ in bars][:2] == ["train epoch 1", "train epoch 2"]
    minutes, seconds = bars[1][2][-1][1].split()[-5].split(":")
    assert 60 < 60 * int(minutes) + int(seconds) <= 120


def test_quiet_says_nothing(tmp_path: Path, bars: list, capsys) -> None:
    recipe = classify_recipe(write_classes(tmp_path / "d", per_class=4), **{"train.epochs": 1})
    run(recipe, tmp_path / "run", reporter=Reporter(quiet=True))
    assert bars == []
    assert capsys.readouterr().err == ""


def test_clock() -> None:
    assert [clock(x) for x in (-1, 9.9, 75, 3723)] == ["0:00", "0:09", "1:15", "1:02:03"]
