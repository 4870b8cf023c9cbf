"""The documents say what the code does: commands parse, links lead somewhere, schema and lock are current."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pocketvit.arguments import Arguments
from pocketvit.cli import main, split_flags
from pocketvit.commands import COMMANDS
from pocketvit.spec.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "pocketvit"
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
DOCUMENTS += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def code_blocks(name: str) -> list[tuple[str, str]]:
    return BLOCK.findall((ROOT / name).read_text(encoding="utf-8"))


def command_lines() -> list[str]:
    """Every ``pocketvit ...`` line of the README: in its code blocks and between backticks."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [
        line.partition(" #")[0].strip()
        for _, block in code_blocks("README.md")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    lines += re.findall(r"`(pocketvit [^`]+)`", BLOCK.sub("", text))
    return sorted({line.removeprefix("$ ") for line in lines if line.removeprefix("$ ").startswith("pocketvit ")})


def test_readme_shows_the_main_commands() -> None:
    shown = {shlex.split(line)[1] for line in command_lines()}
    assert {"predict", "verify", "fit", "doctor", "report", "bench"} <= shown


@pytest.mark.parametrize("line", command_lines())
def test_readme_commands_parse(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each line goes through the real parser; those for a recipe are merged into that recipe; help is run."""
    flags, words = split_flags(shlex.split(line)[1:])
    if flags.help or words[0].startswith("--"):
        assert main(shlex.split(line)[1:]) == 0
        assert "pocketvit" in capsys.readouterr().out
        return
    assert words[0] in COMMANDS
    command = COMMANDS[words[0]]
    given = Arguments(words[0], command.resolve(), command.sections).parse(words[1:])
    assert given
    if str(given.get("recipe", "")).endswith(".yaml"):  # else a folder of photos, see tests/data/test_begin.py
        sections = {k: v for k, v in given.items() if k in command.sections}
        assert load_recipe(ROOT / given["recipe"], sections).to_dict()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_and_recipes_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    named = re.findall(r"\brecipes/[\w./-]+\.yaml", text)
    missing = [p for p in links if not (ROOT / name).parent.joinpath(p).exists()] + [
        p for p in named if not (ROOT / p).exists()
    ]
    assert missing == []
    assert text.startswith("# ")


def defined(path: Path) -> set[str]:
    """Names of the functions, classes and tables of a file."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    names = {x.name for x in body if isinstance(x, ast.FunctionDef | ast.ClassDef)}
    assigned = [y for x in body if isinstance(x, ast.Assign) for y in x.targets]
    assigned += [x.target for x in body if isinstance(x, ast.AnnAssign)]
    return names | {y.id for y in assigned if isinstance(y, ast.Name)}


def test_architecture_names_what_is_there() -> None:
    """Files, and functions and tables in them: ``fit/run.py: run``."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = set(re.findall(r"[\w/]+\.py\b", text))
    assert len(files) > 40
    assert sorted(name for name in files if not (PACKAGE / name).is_file()) == []
    named = set(re.findall(r"`([\w/]+\.py): (\w+)`", text))
    assert len(named) > 40
    assert sorted(f"{file}: {name}" for file, name in named if name not in defined(PACKAGE / file)) == []


def test_the_drawing_has_the_rooms_in_the_order_of_imports() -> None:
    """From top to bottom as the layers of import-linter are; what stands in one line is told from left to right."""
    drawing = code_blocks("docs/architecture.md")[0][1]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [layer.removeprefix("pocketvit.") for layer in contracts[0]["layers"]]
    names = [f"{layer}.py" if (PACKAGE / f"{layer}.py").is_file() else f"{layer}/" for layer in layers]
    places = [re.search(rf"^ *(?:[\w./]+ +)*?({re.escape(name)})(?= |$)", drawing, re.MULTILINE) for name in names]
    assert [name for name, place in zip(names, places, strict=True) if place is None] == []
    assert [place.start(1) for place in places if place] == sorted(place.start(1) for place in places if place)


def test_python_in_the_readme_compiles_and_uses_real_names() -> None:
    import pocketvit

    blocks = [code for language, code in code_blocks("README.md") if language == "python"]
    assert blocks
    for code in blocks:
        compile(code, "README.md", "exec")
        for name in re.findall(r"pocketvit\.(\w+)", code):
            assert name in pocketvit.__all__


def test_make_targets_of_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name in DOCUMENTS[:2]:
        for block in [
            *re.findall(r"`make (\w+)`", (ROOT / name).read_text()),
            *re.findall(r"^make (\w+)", (ROOT / name).read_text(), re.MULTILINE),
        ]:
            assert block in targets, block


def test_changelog_holds_the_version() -> None:
    import pocketvit

    assert f"## {pocketvit.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_version_stands_once_in_package_and_project() -> None:
    import pocketvit

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == pocketvit.__version__


def test_schema_is_current() -> None:
    schema_text = runpy.run_path(str(ROOT / "scripts" / "export_schema.py"))["schema_text"]
    assert (ROOT / "docs" / "manifest.schema.json").read_text(encoding="utf-8") == schema_text()
    assert '"schema_version"' in schema_text()


def test_schema_check_fails_on_a_stale_file(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "export_schema.py"
    script.write_text((ROOT / "scripts" / "export_schema.py").read_text())
    check = [sys.executable, str(script), "--check"]
    assert subprocess.run(check, capture_output=True, timeout=60).returncode == 1
    assert subprocess.run([sys.executable, str(script)], capture_output=True, timeout=60).returncode == 0
    assert subprocess.run(check, capture_output=True, timeout=60).returncode == 0


def test_lock_holds_names_and_versions_and_the_pins() -> None:
    malformed = runpy.run_path(str(ROOT / "scripts" / "check_lock.py"))["malformed"]
    lock = (ROOT / "requirements.lock").read_text()
    assert malformed(lock) == []
    assert malformed("torch==2.14.1 --hash=sha256:00\nnumpy @ https://x/y.whl\n-i https://x\nok==1.0\n") == [
        "torch==2.14.1 --hash=sha256:00",
        "numpy @ https://x/y.whl",
        "-i https://x",
    ]
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert set(pins) <= set(lock.splitlines())
    assert "torch==2.14.1" in pins


def test_licence_is_the_full_text() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_scripts_are_valid_shell_and_executable() -> None:
    for script in (ROOT / "scripts" / "setup.sh", ROOT / ".ci" / "run"):
        assert subprocess.run(["bash", "-n", str(script)], capture_output=True, timeout=30).returncode == 0
        assert script.stat().st_mode & 0o111
