from __future__ import annotations

import importlib.metadata
import inspect
import json
import os
import pydoc
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pocketvit
from pocketvit import __version__, cli
from pocketvit.commands import COMMANDS, ELSEWHERE, Command
from pocketvit.errors import DataError, NothingFitsError, UsageError, VerificationError
from pocketvit.spec.budget import Budget
from pocketvit.spec.overrides import resolve_recipe
from pocketvit.spec.recipe import Recipe


@dataclass(frozen=True)
class Report:
    text: str = "all is well"
    exit_code: int = 0

    def render(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "score": np.float32(0.5),
            "bad": float("nan"),
            "where": Path("a"),
            "xs": np.arange(2),
            "pair": (1, None),
        }


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    """Put a function in the place of `pocketvit bench`."""

    def put(function: Any) -> None:
        module = ModuleType("pocketvit_test_command")
        module.bench = function  # type: ignore[attr-defined]
        function.__module__ = module.__name__
        monkeypatch.setitem(sys.modules, "pocketvit_test_command", module)
        monkeypatch.setitem(COMMANDS, "bench", Command("pocketvit_test_command:bench", "test"))

    return put


def test_report_is_rendered_and_its_exit_code_returned(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    command(lambda artifact: Report(text=f"ran {artifact}", exit_code=4))
    assert cli.main(["bench", "x"]) == 4
    assert capsys.readouterr().out == "ran x\n"


def test_rich_reports_are_printed(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    class Tabular(Report):
        def render(self) -> Any:
            table = Table("name")
            table.add_row("one")
            return table

    command(lambda: Tabular())
    assert cli.main(["bench"]) == 0
    out = capsys.readouterr().out
    assert "one" in out
    assert "\x1b" not in out


def test_details_are_printed_with_v_only(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Long(Report):
        def details(self) -> str:
            return "sixty lines"

    command(lambda: Long())
    assert cli.main(["bench"]) == 0
    assert capsys.readouterr().out == "all is well\n"
    assert cli.main(["bench", "-v"]) == 0
    assert capsys.readouterr().out == "all is well\nsixty lines\n"


@pytest.mark.parametrize(("columns", "lines"), [("40", 4), (None, 1)])
def test_tables_are_as_wide_as_the_terminal_and_do_not_fold_where_there_is_none(
    command: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str | None, lines: int
) -> None:
    from rich.table import Table

    class Wide(Report):
        def render(self) -> Any:
            table = Table(box=None, show_header=False, pad_edge=False)
            table.add_row("word " * 30)
            return table

    command(lambda: Wide())
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(os, "isatty", lambda _: False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    assert cli.main(["bench"]) == 0
    out = capsys.readouterr().out.rstrip().splitlines()
    assert len(out) == lines


def test_json_is_the_only_thing_on_stdout(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def noisy() -> Report:
        """Print."""
        print("progress")
        return Report()

    command(noisy)
    assert cli.main(["bench", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "text": "all is well",
        "score": 0.5,
        "bad": None,
        "where": "a",
        "xs": [0, 1],
        "pair": [1, None],
    }
    assert captured.err == "progress\n"


def test_json_keeps_out_what_writes_to_descriptor_one(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "import os\ndef bench():\n    'Loud.'\n    os.write(1, b'from C\\n')\n    print('from Python')\n"
        "    return {'done': True}\n"
    )
    code = "import sys; from pocketvit import cli, commands; "
    code += "cli.COMMANDS['bench'] = commands.Command('loud:bench', ''); sys.exit(cli.main(['bench', '--json']))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {"done": True}
    assert "from C" in run.stderr
    assert "from Python" in run.stderr


def test_quiet_drops_progress_but_not_the_result(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def noisy() -> Report:
        """Print."""
        print("50 %", file=sys.stderr)
        return Report()

    command(noisy)
    assert cli.main(["bench", "-q"]) == 0
    assert capsys.readouterr() == ("all is well\n", "")


@pytest.mark.parametrize(
    "error",
    [
        UsageError("wrong.", "do."),
        DataError("wrong.", "do."),
        VerificationError("wrong.", "do."),
        NothingFitsError("wrong.", "do."),
    ],
)
def test_errors_are_two_lines_and_their_exit_code(command: Any, capsys: pytest.CaptureFixture[str], error: Any) -> None:
    def fail() -> None:
        """Fail."""
        raise error

    command(fail)
    assert cli.main(["bench"]) == error.exit_code
    assert capsys.readouterr() == ("", "wrong.\ndo.\n")
    assert cli.main(["bench", "--json"]) == error.exit_code
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"error": {"what": "wrong.", "todo": "do.", "exit_code": error.exit_code}}
    assert captured.err == "wrong.\ndo.\n"
    assert cli.main(["bench", "-v"]) == error.exit_code
    assert "Traceback" in capsys.readouterr().err


def test_errors_are_printed_in_spite_of_quiet(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        """Fail."""
        raise DataError("wrong.", "do.")

    command(fail)
    assert cli.main(["bench", "--quiet"]) == 3
    assert capsys.readouterr().err == "wrong.\ndo.\n"


def test_unexpected_errors_exit_1_with_two_lines(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        """Fail."""
        raise ValueError("several\nlines")

    command(fail)
    assert cli.main(["bench"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "internal error: ValueError: several lines"
    assert len(lines) == 2
    assert "-v" in lines[1]
    assert cli.main(["bench", "-v"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "extra"),
    [("torch", "train"), ("torch.nn", "train"), ("nncf", "train"), ("openvino", "openvino"), ("jinja2", "report")],
)
def test_missing_packages_exit_6_with_the_install_line(
    command: Any, capsys: pytest.CaptureFixture[str], module: str, extra: str
) -> None:
    def fail() -> None:
        """Fail."""
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    command(fail)
    assert cli.main(["bench"]) == 6
    assert (
        capsys.readouterr().err
        == f'{module.partition(".")[0]} is not installed.\nRun: pip install "pocketvit[{extra}]"\n'
    )


def test_a_missing_module_of_our_own_is_an_internal_error(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        """Fail."""
        raise ModuleNotFoundError("No module named 'pocketvit.nowhere'", name="pocketvit.nowhere")

    command(fail)
    assert cli.main(["bench"]) == 1
    assert "internal error" in capsys.readouterr().err


def test_extras_are_those_of_the_package(repository: Path) -> None:
    """Each package of each extra leads to an extra that holds it, and to the smallest one."""
    extras = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    modules = {"scikit-image": "skimage"}
    for extra in set(extras) - {"all", "dev"}:
        for line in extras[extra]:
            package = re.split(r"[<>=]", line)[0]
            found = cli.extra_of(modules.get(package, package))
            assert found is not None, package
            assert any(other.startswith(package) for other in extras[found])
            assert len(extras[found]) <= len(extras[extra])
    assert cli.extra_of("pytorch_lightning") == "train"
    assert cli.extra_of("numpy") is None
    assert cli.extra_of("") is None


def test_without_metadata_there_is_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", nothing)
    assert cli.extra_of("torch") is None


def test_interrupt_exits_130(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        """Fail."""
        raise KeyboardInterrupt

    command(fail)
    assert cli.main(["bench"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_closed_pipe_is_quiet() -> None:
    run = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m pocketvit.cli --help | true"], capture_output=True, text=True, timeout=60
    )
    assert run.stderr == ""
    code = "import os, sys; r, w = os.pipe(); os.close(r); os.dup2(w, 1); from pocketvit import cli; "
    code += "sys.exit(cli.main(['--version']))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (cli.BROKEN_PIPE, "")


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verfy"]) == 2
    assert capsys.readouterr().err == "unknown command 'verfy'.\nDid you mean `pocketvit verify`?\n"
    assert cli.main(["xyzzy"]) == 2
    assert "fit" in capsys.readouterr().err


def test_the_package_lists_what_it_offers() -> None:
    assert {"load", "fit", "predict"} <= set(dir(pocketvit)) == set(pocketvit.__all__)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_commands_that_there_are_not_say_what_there_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert name not in COMMANDS
    assert cli.main([name]) == 2
    what, todo = capsys.readouterr().err.splitlines()
    assert what == f"unknown command {name!r}."
    assert todo == ELSEWHERE[name]
    assert "pocketvit" in todo


def test_version_help_and_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"pocketvit {__version__}\n"
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)
    assert cli.main([]) == 2


def test_flags_may_stand_anywhere() -> None:
    flags, rest = cli.split_flags(["--json", "fit", "r", "-v", "--", "-q"])
    assert flags == cli.Flags(json=True, verbose=True)
    assert rest == ["fit", "r", "--", "-q"]


HEAVY = ("torch", "torchvision", "timm", "lightning", "onnx", "openvino", "nncf", "optuna", "matplotlib")


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_imports_nothing_heavy(name: str) -> None:
    code = f"import sys; from pocketvit.cli import main; code = main([{name!r}, '--help']); "
    code += f"print('HEAVY', [m for m in {HEAVY} if m in sys.modules], file=sys.stderr); sys.exit(code)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stderr.splitlines()[-1] == "HEAVY []"


def test_the_list_of_commands_imports_only_the_standard_library() -> None:
    code = "import sys; from pocketvit.cli import main; main(['--help']); "
    code += "print([m for m in ('numpy', 'pydantic', 'rich', 'yaml', 'jsonargparse') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_a_parser_whose_arguments_are_all_explained(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The help of each real command: imported, derived, and no parameter without a word in the docstring."""
    import docstring_parser

    assert cli.main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: pocketvit {name}")
    function = COMMANDS[name].resolve()
    described = {p.arg_name for p in docstring_parser.parse(function.__doc__ or "").params}
    assert set(inspect.signature(function).parameters) == described
    assert COMMANDS[name].summary


@pytest.mark.parametrize("name", ["fit", "train", "compress", "export", "verify", "bench", "report"])
def test_help_of_a_package_that_is_a_command(name: str) -> None:
    """``help(pocketvit.fit)`` shows what can be given, although ``pocketvit.fit`` is a package too."""
    package = getattr(pocketvit, name)
    function = COMMANDS[name].resolve()
    assert inspect.signature(package) == inspect.signature(function)
    text = pydoc.render_doc(package, renderer=pydoc.plaintext)
    assert f"{name}(" in text
    for parameter in inspect.signature(function).parameters:
        assert f"    {parameter}: " in text
    assert package.__dict__["__doc__"] in text


def test_the_name_of_a_run_names_the_artifact_too(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("name: stated\nbudget: {size_mb: 4}\n")
    recipe, run, _ = resolve_recipe(file, "given", {"budget": {"latency_ms": 33}})
    assert (recipe.name, run) == ("given", "given")
    assert recipe.budget == Budget(latency_ms=33.0, size_mb=4.0)
    recipe, run, _ = resolve_recipe(file, None, {"budget": Budget(latency_ms=5)}, "-compress")
    assert (recipe.name, run) == ("stated", "r-compress")
    assert recipe.budget == Budget(latency_ms=5)
    recipe, run, _ = resolve_recipe(Recipe(name="made"), None, {"budget.latency_ms": 7, "train": None})
    assert (recipe.name, run) == ("made", "made")
    assert recipe.budget.latency_ms == 7
    with pytest.raises(UsageError, match="cannot name"):
        resolve_recipe(file, "", {})


def test_what_readers_note_is_said_once_in_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        Image.new("RGBA", (40, 40 + len(list(tmp_path.iterdir()))), (9, 9, 9, 0)).save(tmp_path / f"{name}.png")
    for _ in range(2):
        assert cli.main(["doctor", str(tmp_path)]) == 0
        assert capsys.readouterr().err.count("over white") == 1
