"""CONTRIBUTING's "one file and one row": each row of its table names what is there and what proves it.

The rows of a command and an optional dependency are tested here, the others where they live. And what the whole tree
keeps: no two files import each other, and none is too long.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import json
import os
import re
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


MOST_LINES, MOST_IN_A_FUNCTION = 400, 80


def too_long(path: str, source: str) -> list[str]:
    """The file, and each function in it, that has too many lines."""
    functions = [x for x in ast.walk(ast.parse(source)) if isinstance(x, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {f"{path}: {x.name}": (x.end_lineno or 0) - x.lineno + 1 for x in functions}
    found = [name for name, lines in lengths.items() if lines > MOST_IN_A_FUNCTION]
    return found + ([path] if len(source.splitlines()) > MOST_LINES else [])


def test_what_is_too_long_is_found() -> None:
    body = "\n".join(["    pass"] * 79)
    assert too_long("a.py", f"def f():\n{body}\n") == []
    assert too_long("a.py", f"class A:\n  async def f():\n{body}\n    pass\n") == ["a.py: f"]
    assert too_long("a.py", "\n" * 400) == []
    assert too_long("a.py", "\n" * 401) == ["a.py"]


@pytest.mark.parametrize("folder", ["src", "tests", "scripts", "benchmarks"])
def test_no_file_and_no_function_is_too_long(repository: Path, folder: str) -> None:
    files = sorted((repository / folder).rglob("*.py"))
    assert files
    found = [x for file in files for x in too_long(str(file.relative_to(repository)), file.read_text(encoding="utf-8"))]
    assert found == []


KINDS = [
    "a model",
    "a token or map operator",
    "a task",
    "a runtime",
    "a device that is not of this machine",
    "a compression step",
    "a layer that a step puts in the place of another",
    "a data layout",
    "a data set to fetch",
    "a command",
    "an optional dependency",
]


def contributing_rows(repository: Path) -> dict[str, list[str]]:
    """Cells behind the first one of each row of "one file and one row", by the first."""
    text = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("one file and one row")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")]
    assert all(len(row) == 4 for row in rows)
    return {row[0]: row[1:] for row in rows[2:]}


def there(repository: Path, name: str) -> bool:
    """A file, given from the repository's root or from the package; ``<name>`` stands for a new one of a folder."""
    path = name.partition("<")[0]
    return any((root / path).exists() for root in (repository, repository / "src" / "pocketvit"))


def test_the_table_of_contributing_has_every_kind(repository: Path) -> None:
    assert list(contributing_rows(repository)) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_contributing_names_what_is_there(repository: Path, kind: str) -> None:
    file, row, proof = contributing_rows(repository)[kind]
    named = re.findall(r"`([\w/.<>]+\.(?:py|toml))`", " ".join((file, row, proof)))
    assert [name for name in named if not there(repository, name)] == []
    for table, module in re.findall(r"`([A-Z_]+)` in `([\w/]+)\.py`", row):
        assert getattr(importlib.import_module(f"pocketvit.{module.replace('/', '.')}"), table), table
    assert "` in `" in row or "`pyproject.toml`" in row


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_contributing_names_its_proof(repository: Path, kind: str) -> None:
    ids = re.findall(r"`([\w/]+\.py)::(\w+)`", contributing_rows(repository)[kind][2])
    assert ids
    for path, test in ids:
        tree = ast.parse((repository / path).read_text(encoding="utf-8"))
        assert test in {x.name for x in tree.body if isinstance(x, ast.FunctionDef)}, f"{path}::{test}"
