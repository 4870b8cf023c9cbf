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


WORDS = {"models": {"depth"}, "data": {"depth"}}
"""By room: names of tasks that mean something else there (blocks of a transformer, a layout), and are only compared."""


def named_tasks(source: str, words: set[str] | frozenset[str] = frozenset()) -> list[int]:
    """Lines with a string that is a task's name, docstrings aside; of ``words`` those where it is compared."""
    tree = ast.parse(source)
    compared = {id(x) for test in ast.walk(tree) if isinstance(test, ast.Compare) for x in ast.walk(test)}
    named = [x for x in ast.walk(tree) if isinstance(x, ast.Constant) and x.value in {*TASKS}]
    return [x.lineno for x in named if x.value not in words or id(x) in compared]


def test_both_tables_hold_the_same_tasks() -> None:
    assert set(TASKS) == set(TORCH_TASKS)
    assert all(name == record.name == record.config().name for name, record in TASKS.items())


def test_the_search_finds_comparisons_and_tables() -> None:
    assert named_tasks('if task == "restore":\n    pass') == [1]
    assert named_tasks("A = 1\nB = {'classify': 2}") == [2]
    assert named_tasks('"""Do not restore."""') == []
    assert named_tasks('A = {"depth": 12}', {"depth"}) == []
    assert named_tasks('A = {"depth": 12}') == [1]
    assert named_tasks('if task == "depth":\n    pass', {"depth"}) == [1]


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(ROOT.rglob("*.py")) if not any(path.is_relative_to(folder) for folder in OWN)],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_task_is_named_elsewhere(path: Path) -> None:
    words = WORDS.get(path.relative_to(ROOT).parts[0], set())
    assert named_tasks(path.read_text(encoding="utf-8"), words) == []
