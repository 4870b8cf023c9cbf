"""A layout that stands in test code alone: one reader in ``READERS``, and its name among the layouts of a task."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

import pocketvit
from pocketvit.data.collections import load_splits
from pocketvit.data.layouts import READERS, Entry, Found
from pocketvit.errors import UsageError
from pocketvit.spec.recipe import DataConfig, load_recipe
from pocketvit.spec.tasks import TASKS
from tests.data.helpers import write
from tests.tiny import make_tiny_artifact

CLASSES = ("red", "yellow", "green", "blue")


def read_table(root: Path, split: str) -> Found:
    """``labels.csv`` with a split, a picture and its class in each line."""
    with (root / "labels.csv").open() as file:
        rows = [row for row in csv.reader(file) if row[0] == split]
    kinds = {name: "warm" if name in CLASSES[:2] else "cold" for *_, name in rows}
    return [Entry(root / path, None, (kinds[name], name), "labels.csv") for _, path, name in rows], ["a table."]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(READERS, "table", read_table)
    classify = TASKS["classify"]
    monkeypatch.setitem(TASKS, "classify", replace(classify, layouts=(*classify.layouts, "table")))
    lines = []
    for split, count in (("train", 3), ("val", 2)):
        for k, name in enumerate(CLASSES):
            for i in range(count):
                path = write(tmp_path / "t" / f"{split}{k}{i}.png", seed=100 * k + 10 * i + count)
                lines.append(f"{split},{path.name},{name}")
    (tmp_path / "t" / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "t"


def test_a_layout_is_one_reader_and_one_name(root: Path, tmp_path: Path) -> None:
    recipe = load_recipe(None, {"data": {"train": [str(root)], "val": [str(root)], "layout": "table"}})
    splits = load_splits(recipe.data, "classify")
    assert (len(splits.train.items), len(splits.val.items)) == (12, 8)
    assert [level.labels for level in splits.train.levels] == [["cold", "warm"], sorted(CLASSES)]
    assert splits.train.counts() == dict.fromkeys(sorted(CLASSES), 3)
    assert "a table." in splits.notes
    report = pocketvit.eval(str(make_tiny_artifact(tmp_path / "a", "classify").path), str(root), layout="table")
    assert (report.count, report.main_metric) == (8, "fine.top1")


def test_its_name_is_proposed_and_held_against_the_task(root: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.layout 'tabel' is unknown") as caught:
        DataConfig(layout="tabel")
    assert caught.value.todo == "Did you mean table?"
    with pytest.raises(UsageError, match=r"layout table does not go with task\.name restore"):
        load_splits(DataConfig(train=(str(root),), layout="table"), "restore")
