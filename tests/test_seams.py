"""CONTRIBUTING's "one file and one row": each row of its table from test code; and no two files import each other.

The rows of a model, a task, a runtime and a compression step are tested where they live.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pocketvit import cli
from pocketvit.commands import COMMANDS, Command

COUNT = '''
"""A command of a test."""
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Counted:
    letters: int
    exit_code: int = 0

    def render(self):
        return f"{self.letters} letters"

    def to_dict(self):
        return asdict(self)


def count(word: str, *, times: int = 1, strict: bool = False, **overrides) -> Counted:
    """Count letters.

    Args:
        word: what is counted.
        times: how often.
        strict: fail.
        overrides: the budget.
    """
    print("counting")
    return Counted(len(word) * times + int(overrides.get("budget", {}).get("size_mb", 0)), 4 if strict else 0)


def dream(word: str) -> None:
    """Import what is not there.

    Args:
        word: nothing.
    """
    import pillow_of_dreams
'''


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file, and one row for each of its commands."""
    (tmp_path / "pocketvit_counting.py").write_text(COUNT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(COMMANDS, "count", Command("pocketvit_counting:count", "count letters", ("budget",)))
    monkeypatch.setitem(COMMANDS, "dream", Command("pocketvit_counting:dream", "import a package"))


@pytest.mark.usefixtures("commands")
def test_a_command_is_one_function_and_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert "  count     count letters\n" in capsys.readouterr().out
    assert cli.main(["count", "--help"]) == 0
    help_text = capsys.readouterr().out
    for part in ("usage: pocketvit count word [options]", "how often.", "--budget.size_mb", "--no_strict", "--json"):
        assert part in help_text
    assert cli.main(["count", "tree", "--times", "2"]) == 0
    assert capsys.readouterr().out == "counting\n8 letters\n"
    assert cli.main(["count", "tree", "--json", "--strict", "--budget.size-mb", "100"]) == 4
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"letters": 104, "exit_code": 4}
    assert captured.err == "counting\n"
    assert cli.main(["count", "tree", "--tims", "2"]) == 2
    assert capsys.readouterr().err == "unknown option --tims.\nDid you mean --times?\n"
    assert cli.main(["coutn", "tree"]) == 2
    assert "`pocketvit count`" in capsys.readouterr().err


@pytest.mark.usefixtures("commands")
def test_an_optional_dependency_is_one_line_of_an_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["dream", "x"]) == 1  # no extra installs it: our own mistake
    assert "internal error" in capsys.readouterr().err
    real = importlib.metadata.requires("pocketvit") or []
    row = "pillow-of-dreams>=1; extra == 'dreams'"
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: [*real, row])
    assert cli.main(["dream", "x"]) == 6
    text = 'pillow_of_dreams is not installed.\nRun: pip install "pocketvit[dreams]"\n'
    assert capsys.readouterr().err == text


def test_a_package_that_is_really_missing_exits_6(tmp_path: Path) -> None:
    """``pocketvit report`` where jinja2 cannot be imported."""
    code = "import sys; sys.modules['jinja2'] = None; from pocketvit.cli import main; "
    code += f"sys.exit(main(['report', 'denoise-color', '--out', {str(tmp_path / 'r.html')!r}]))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert (run.returncode, run.stdout) == (6, "")
    assert run.stderr == 'jinja2 is not installed.\nRun: pip install "pocketvit[report]"\n'


def imports_of(path: Path, modules: dict[str, Path]) -> set[str]:
    """The files of the package that a file imports, within functions too, but not what is only for type checkers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    only_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and id(node) not in only_types:
            found |= {
                name if (name := f"{node.module}.{alias.name}") in modules else str(node.module) for alias in node.names
            }
    return found & set(modules)


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of files of which each leads to each other one, by repeatedly taking out what has no import left."""
    left = {name: set(targets) - {name} for name, targets in graph.items()}
    for reverse in (False, True):  # from below, then from above: what stays lies between cycles or in one
        done = False
        while not done:
            used = set().union(*left.values()) if left else set()
            free = {n for n in left if (n not in used if reverse else not left[n] & set(left))}
            left = {n: targets - free for n, targets in left.items() if n not in free}
            done = not free
    return [sorted(left)] if left else []


def test_cycles_are_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [["b", "c"]]


def test_no_files_import_each_other(repository: Path) -> None:
    source = repository / "src"
    modules = {
        ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (source / "pocketvit").rglob("*.py")
    }
    assert len(modules) > 80
    assert cycles({name: imports_of(path, modules) for name, path in modules.items()}) == []


def test_the_table_of_contributing_names_what_is_there(repository: Path) -> None:
    text = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| a") or line.startswith("| an")]
    kinds = [row[0].strip() for row in rows]
    assert {"a command", "an optional dependency"} <= set(kinds)
    command = next(row for row in rows if row[0].strip() == "a command")
    assert "`COMMANDS`" in command[2]
    assert "DESCRIPTIONS" not in text
    assert "EXTRAS" not in text
