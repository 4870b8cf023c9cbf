"""A command's parser: derived from its signature, docstring and the sections of the recipe."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from pocketvit import cli
from pocketvit.arguments import Arguments
from pocketvit.commands import COMMANDS
from pocketvit.errors import UsageError
from pocketvit.spec.budget import Budget
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
        (["--data.camera.quality", "70,90"], "data", {"camera": {"quality": (70, 90)}}),
        (["--data.mixture.gaussian=2"], "data", {"mixture": {"gaussian": 2.0}}),
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


def options_of(prefix: str, section: Any) -> set[str]:
    """Of all fields of a section, and of the sections within it."""
    found: set[str] = set()
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        inner = dataclasses.is_dataclass(hints[field.name])
        option = f"{prefix}.{field.name}"
        found |= options_of(option, hints[field.name]) if inner else {f"--{option}"}
    return found


def test_every_recipe_field_is_an_option_of_fit() -> None:
    """Each field of each section; of ``task`` those of all tasks; ``name`` is the option of the run."""
    options = set(Arguments("fit", fit, SECTIONS).options())
    for field in dataclasses.fields(Recipe):
        value = getattr(Recipe(), field.name)
        classes = [task.config for task in TASKS.values()] if field.name == "task" else [type(value)]
        if dataclasses.is_dataclass(value):
            assert {option for each in classes for option in options_of(field.name, each)} <= options
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
        (["--budget.latency_ms", "33ms"], "must be a number, not 33ms", "--budget.latency_ms 30.0"),
        (["--train.epochs"], "--train.epochs", "pocketvit fit --help"),
        (["--train.optimizer", "adm"], "one of adamw, adam, sgd, not adm", "pocketvit fit --help"),
        (["--train.clip_norm", "x"], "--train.clip_norm must be a number, not x", "--train.clip_norm 1.0"),
        (["--train.compile", "maybe"], "--train.compile", "pocketvit fit --help"),
        (["--data.sigma", "a", "b"], "--data.sigma must be a list of 2 numbers, not", "--data.sigma 25.0 25.0"),
        (["--preprocess.size", "300"], "a list of 2 whole numbers, not [300]", "--preprocess.size 224 224"),
        (["--model.options", "{a: ["], "--model.options must be a mapping", "pocketvit fit --help"),
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


@pytest.mark.parametrize("again", [["--runs=b"], ["--runs", "b"], ["--train.epochs", "1", "--train.epochs=2"]])
def test_an_option_given_twice_is_refused(again: list[str]) -> None:
    with pytest.raises(UsageError, match="is given twice"):
        Arguments("train", COMMANDS["train"].resolve(), COMMANDS["train"].sections).parse(
            ["r.yaml", "--runs", "a", *again]
        )
