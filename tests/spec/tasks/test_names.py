"""What must stay in one place: the names of tasks are known to the two folders of tasks alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pocketvit
from pocketvit.spec.tasks import TASKS
from pocketvit.tasks import TORCH_TASKS

ROOT = Path(pocketvit.__file__).parent
OWN = (ROOT / "spec" / "tasks", ROOT / "tasks")


def named_tasks(source: str) -> list[int]:
    """Lines with a string that is a task's name, docstrings aside."""
    tree = ast.parse(source)
    return [x.lineno for x in ast.walk(tree) if isinstance(x, ast.Constant) and x.value in {*TASKS}]


def test_both_tables_hold_the_same_tasks() -> None:
    assert set(TASKS) == set(TORCH_TASKS)
    assert all(name == record.name == record.config().name for name, record in TASKS.items())


def test_the_search_finds_comparisons_and_tables() -> None:
    assert named_tasks('if task == "restore":\n    pass') == [1]
    assert named_tasks("A = 1\nB = {'classify': 2}") == [2]
    assert named_tasks('"""Do not restore."""') == []


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(ROOT.rglob("*.py")) if not any(path.is_relative_to(folder) for folder in OWN)],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_task_is_named_elsewhere(path: Path) -> None:
    assert named_tasks(path.read_text(encoding="utf-8")) == []
