from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import json
import os
import pydoc
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pytest

import pocketvit
from pocketvit import __version__, cli
from pocketvit.arguments import Arguments
from pocketvit.commands import COMMANDS, Command
from pocketvit.errors import DataError, NothingFitsError, UsageError, VerificationError
from pocketvit.spec.budget import Budget
from pocketvit.spec.overrides import resolve_recipe
from pocketvit.spec.recipe import DataConfig, Recipe, load_recipe
from pocketvit.spec.target import Target
from pocketvit.spec.tasks import TASKS

SECTIONS = COMMANDS["fit"].sections


def fit(recipe: str | Path | Recipe, *, name: str | None = None, runs: str = "runs", **overrides: Any) -> Any:
    """Fit a model.

    It takes a while.

    Args:
        recipe: YAML file.
        name: Name of the run, 100 % yours.
        runs: Folder.
        overrides: Sections.
    """


def predict(
    artifact: str,
    images: Sequence[str],
    *,
    out: str | Path | None = None,
    limit: int | None = None,
    format: Literal["csv", "json"] = "csv",
    target: str | Target | None = None,
    force: bool = False,
    draw: bool = True,
    size: tuple[int, int] = (1, 2),
    labels: tuple[str, ...] = (),
    shares: list[float] | None = None,
) -> None:
    """Predict."""


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


# --- parsing -----------------------------------------------------------------------------------------------------


def parse_fit(*args: str) -> dict[str, Any]:
    return Arguments("fit", fit, SECTIONS).parse(["r.yaml", *args])


def parse_predict(*args: str) -> dict[str, Any]:
    return Arguments("predict", predict).parse(["a", *args])


def test_only_given_fields_become_arguments() -> None:
    assert parse_fit() == {"recipe": "r.yaml"}
    assert parse_fit("--budget.latency_ms", "33", "--train.epochs=3") == {
        "recipe": "r.yaml",
        "budget": {"latency_ms": 33.0},
        "train": {"epochs": 3},
    }


@pytest.mark.parametrize(
    ("args", "section", "expected"),
    [
        (["--data.train", "a", "b"], "data", {"train": ("a", "b")}),
        (["--data.train", "[a, b]"], "data", {"train": ("a", "b")}),
        (["--data.train", "with,comma", "1"], "data", {"train": ("with,comma", "1")}),
        (["--data.val", "[]"], "data", {"val": ()}),
        (["--data.sigma", "0", "50"], "data", {"sigma": (0.0, 50.0)}),
        (["--data.eval_sigma", "15,25"], "data", {"eval_sigma": (15.0, 25.0)}),
        (["--data.eval-sigma=15,25"], "data", {"eval_sigma": (15.0, 25.0)}),
        (["--data.layout", "classes"], "data", {"layout": "classes"}),
        (["--data.class_names", "3"], "data", {"class_names": "3"}),
        (["--train.compile", "true"], "train", {"compile": True}),
        (["--train.channels_last", "false"], "train", {"channels_last": False}),
        (["--train.clip_norm", "null"], "train", {"clip_norm": None}),
        (["--train.lr", "1e-4"], "train", {"lr": 1e-4}),
        (["--train.epochs=3"], "train", {"epochs": 3}),
        (["--search.sizes", "[128, 256]"], "search", {"sizes": (128, 256)}),
        (["--preprocess.size", "224", "192"], "preprocess", {"size": (224, 192)}),
        (["--preprocess.mean", "-1", "-.5", "0"], "preprocess", {"mean": (-1.0, -0.5, 0.0)}),
        (["--task.name", "restore", "--task.loss", "l1"], "task", {"name": "restore", "loss": "l1"}),
        (["--task.loss", "cross_entropy"], "task", {"loss": "cross_entropy"}),
        (["--task.level_weights", "1,2"], "task", {"level_weights": (1.0, 2.0)}),
        (["--model.options", "{pool: gap}"], "model", {"options": {"pool": "gap"}}),
        (
            ["--model.options.depth", "3", "--model.options.pool", "gap"],
            "model",
            {"options": {"depth": 3, "pool": "gap"}},
        ),
        (["--model.options={pool: gap}", "--model.options.depth=3"], "model", {"options": {"pool": "gap", "depth": 3}}),
        (["--target", "openvino:bf16:1"], "target", {"runtime": "openvino", "precision": "bf16", "threads": 1}),
        (["--target", "openvino"], "target", {"runtime": "openvino"}),
        (["--target", "onnxruntime@cuda"], "target", {"runtime": "onnxruntime", "device": "cuda"}),
        (["--target.device", "npu"], "target", {"device": "npu"}),
        (
            ["--target=openvino:bf16", "--target.threads", "3"],
            "target",
            {"runtime": "openvino", "precision": "bf16", "threads": 3},
        ),
    ],
)
def test_section_options(args: list[str], section: str, expected: dict[str, Any]) -> None:
    assert parse_fit(*args)[section] == expected


def test_overrides_go_into_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("budget: {size_mb: 4}\ntarget: {threads: 1}\nmodel: {options: {depth: 2}}\n")
    given = parse_fit(
        *("--budget.latency_ms", "33", "--data.train", "a", "b", "--target", "onnxruntime:int8"),
        *("--data.sigma", "0", "50", "--licence_data", "CC0", "--task.label_smoothing", "0.2"),
    )
    given.pop("recipe")
    recipe = load_recipe(tmp_path / "r.yaml", given)
    assert recipe.budget == Budget(latency_ms=33.0, size_mb=4.0)
    assert recipe.target == Target("onnxruntime", "int8", 1)
    assert recipe.data == DataConfig(train=("a", "b"), sigma=(0.0, 50.0))
    assert recipe.model.options == {"depth": 2}
    assert recipe.licence_data == "CC0"
    assert recipe.task.label_smoothing == 0.2  # type: ignore[attr-defined]


def test_every_recipe_field_is_an_option_of_fit() -> None:
    """Each field of each section; of ``task`` those of all tasks; ``name`` is the option of the run."""
    options = set(Arguments("fit", fit, SECTIONS).options())
    for field in dataclasses.fields(Recipe):
        value = getattr(Recipe(), field.name)
        classes = [task.config for task in TASKS.values()] if field.name == "task" else [type(value)]
        if dataclasses.is_dataclass(value):
            assert {f"--{field.name}.{f.name}" for c in classes for f in dataclasses.fields(c)} <= options
        else:
            assert f"--{field.name}" in options
    assert not any("budget" in option for option in Arguments("train", fit, COMMANDS["train"].sections).options())
    assert not any("train." in option for option in Arguments("x", fit, COMMANDS["compress"].sections).options())


def test_positionals_flags_and_lists() -> None:
    assert parse_predict("b", "c") == {"artifact": "a", "images": ["b", "c"]}
    assert parse_predict("--force", "b", "--no-draw") == {
        "artifact": "a",
        "images": ["b"],
        "force": True,
        "draw": False,
    }
    got = parse_predict(
        "b", "--out", "x", "--limit", "3", "--size", "4", "5", "--format=json", "--target", "openvino:fp32:2"
    )
    assert got == {
        "artifact": "a",
        "images": ["b"],
        "out": "x",
        "limit": 3,
        "size": (4, 5),
        "format": "json",
        "target": "openvino:fp32:2",
    }
    assert parse_predict("--", "--odd-name.png")["images"] == ["--odd-name.png"]
    assert parse_predict("b", "--out", "x", "c", "-d.png", "--labels", "u", "v") == {
        "artifact": "a",
        "images": ["b", "c", "-d.png"],
        "out": "x",
        "labels": ("u", "v"),
    }
    assert parse_predict("b", "--shares", "0.5,1")["shares"] == [0.5, 1.0]
    assert parse_predict("b", "--shares", "null")["shares"] is None
    assert parse_predict("b", "--no-draw", "--draw", "--no_force") == {
        "artifact": "a",
        "images": ["b"],
        "draw": True,
        "force": False,
    }


def test_optional_positional_before_the_star() -> None:
    def show(recipe: str | None = None, *, runs: str = "runs") -> None:
        """Show."""

    assert Arguments("show", show).parse([]) == {}
    assert Arguments("show", show).help().startswith("usage: pocketvit show [recipe] [options]")
    assert Arguments("show", show).parse(["x", "--runs", "y"]) == {"recipe": "x", "runs": "y"}


def test_options_of_every_command_are_not_options_of_one() -> None:
    def run(path: str, *, quiet: bool = False, **more: Any) -> None:
        """Run."""

    assert Arguments("run", run).options() == []


@pytest.mark.parametrize(
    ("args", "what", "todo"),
    [
        (["--budgt.latency_ms", "3"], "--budgt.latency_ms", "--budget.latency_ms"),
        (["--budget.latencyms", "3"], "--budget.latencyms", "--budget.latency_ms"),
        (["--latency_ms", "3"], "--latency_ms", "--budget.latency_ms"),
        (["--latency-ms=3"], "--latency-ms", "--budget.latency_ms"),
        (["--nam", "3"], "--nam", "--name"),
        (["--zzzzzz", "3"], "--zzzzzz", "pocketvit fit --help"),
        (["--train.epochs", "x"], "--train.epochs", "pocketvit fit --help"),
        (["--train.epochs"], "--train.epochs", "pocketvit fit --help"),
        (["--train.optimizer", "adm"], "'adamw', 'adam', 'sgd'. Got value: adm", "pocketvit fit --help"),
        (["--train.clip_norm", "x"], "--train.clip_norm: Expected float, null. Got: x", "pocketvit fit --help"),
        (["--train.compile", "maybe"], "--train.compile", "pocketvit fit --help"),
        (["--data.sigma", "a", "b"], "--data.sigma: Expected a float. Got value: a", "pocketvit fit --help"),
        (["--data.sigma", "1"], "2 elements", "pocketvit fit --help"),
        (["--model.options", "{a: ["], "--model.options: Expected a dict", "pocketvit fit --help"),
        (["--model.optoins.pool", "gap"], "--model.optoins.pool", "--model.options"),
        (["--budget", "33"], "--budget", "--budget."),
        (["--task.los", "l1"], "--task.los", "--task.loss"),
        (["--target", "onnxruntime:int4"], "int4", "int8"),
        (["--target", "onnxruntime:int8:two"], "two", "onnxruntime:int8:2"),
        (["--target"], "--target", "pocketvit fit --help"),
        (["--recipe", "x"], "recipe", "pocketvit fit --help"),
        (["more.yaml"], "more.yaml", "pocketvit fit --help"),
    ],
)
def test_wrong_options_name_the_key_and_the_nearest(args: list[str], what: str, todo: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_fit(*args)
    assert what in caught.value.what
    assert todo in caught.value.todo
    assert "\n" not in caught.value.what + caught.value.todo


def test_missing_positional() -> None:
    with pytest.raises(UsageError, match="images"):
        parse_predict()


@pytest.mark.parametrize("args", [["--force=maybe"], ["--format", "xml"], ["--limit", "1.5"], ["--size", "1"]])
def test_wrong_values_of_options(args: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_predict("b", *args)
    assert args[0].partition("=")[0] in caught.value.what


def test_usage_errors_are_two_lines_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fit", "r.yaml", "--budget.latency", "3"]) == 2
    assert capsys.readouterr() == ("", "unknown option --budget.latency.\nDid you mean --budget.latency_ms?\n")
    assert cli.main(["bench"]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_help_comes_from_signature_and_docstring() -> None:
    text = Arguments("fit", fit, SECTIONS, "epilog here").help()
    for part in (
        "usage: pocketvit fit recipe [options]",
        "It takes a while.",
        "YAML file.",
        "100 % yours",
        "--budget.latency_ms",
        "Milliseconds for one image",
        "--target.runtime",
        "Limits on the target",
        "default: 0.0003",
        "--train.optimizer {adamw,adam,sgd}",
        "epilog here",
    ):
        assert part in text


# --- running -----------------------------------------------------------------------------------------------------


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
    recipe, run = resolve_recipe(file, "given", {"budget": {"latency_ms": 33}})
    assert (recipe.name, run) == ("given", "given")
    assert recipe.budget == Budget(latency_ms=33.0, size_mb=4.0)
    recipe, run = resolve_recipe(file, None, {"budget": Budget(latency_ms=5)}, "-compress")
    assert (recipe.name, run) == ("stated", "r-compress")
    assert recipe.budget == Budget(latency_ms=5)
    recipe, run = resolve_recipe(Recipe(name="made"), None, {"budget.latency_ms": 7, "train": None})
    assert (recipe.name, run) == ("made", "made")
    assert recipe.budget.latency_ms == 7
    with pytest.raises(UsageError, match="cannot name"):
        resolve_recipe(file, "", {})
