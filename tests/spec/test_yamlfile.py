from __future__ import annotations

import time
from pathlib import Path

import pytest

from pocketvit.errors import UsageError
from pocketvit.spec.recipe import load_recipe
from pocketvit.spec.yamlfile import MAX_BYTES, read_yaml


def read(tmp_path: Path, text: str) -> dict[str, object]:
    (tmp_path / "r.yaml").write_text(text)
    return read_yaml(tmp_path / "r.yaml")


def bomb(width: int, depth: int) -> str:
    lines = [f"x0: &a0 [{','.join(['1'] * width)}]"]
    lines += [f"x{i}: &a{i} [{','.join([f'*a{i - 1}'] * width)}]" for i in range(1, depth)]
    return "\n".join(lines) + f"\nname: *a{depth - 1}\n"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("train: {epochs: 1}\nmodel: {}\ntrain: {lr: 0.1}\n", 3, "the key train is there twice"),
        ("train:\n  epochs: 1\n  lr: 0.1\n  epochs: 2\n", 4, "the key epochs is there twice"),
        ("model:\n  options: {depth: 1, 'depth': 2}\n", 2, "the key depth is there twice"),
        (bomb(10, 10), 3, "more than 16 aliases"),
        ("a: &a {x: [" + "1," * 3000 + "]}\nb: [*a, *a, *a, *a]\nc: [*a, *a, *a]\n", 1, "its aliases stand for"),
        ("a: &a [*a]\n", 1, "an alias stands for what it lies in"),
        ("name: !!str x\n", 1, "is not read"),
        ("name: !!python/object/apply:os.system ['true']\n", 1, "is not read"),
        ("a: 1\nb: [\n", 3, "not valid YAML"),
    ],
)
def test_what_is_not_plain_is_refused_with_its_line_and_without_its_content(
    tmp_path: Path, text: str, line: int, says: str
) -> None:
    began = time.monotonic()
    with pytest.raises(UsageError, match=says) as caught:
        read(tmp_path, text)
    assert f"r.yaml, line {line}: " in caught.value.what
    assert len(str(caught.value)) < 400 + len(str(tmp_path))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("text", ["x: " + "[" * 5000, "train: {seed: " + "9" * 5000 + "}", "a" * (MAX_BYTES + 1), "\0"])
def test_endless_things_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_anchors_merge_keys_numbers_and_dates(tmp_path: Path) -> None:
    text = "a: &a {lr: 1e-3, epochs: 3}\nb: {<<: *a, epochs: 4}\nc: 2024-01-02\nd: [1, -1.5, .inf, 0x10, 1_000, 1e5]\n"
    found = read(tmp_path, text)
    assert found["b"] == {"lr": 0.001, "epochs": 4}
    assert found["c"] == "2024-01-02"
    assert found["d"] == [1, -1.5, float("inf"), 16, 1000, 100000.0]
    (tmp_path / "r.yaml").write_text("train: {lr: 1e-3}")
    assert load_recipe(tmp_path / "r.yaml").train.lr == 1e-3


def test_numbers_are_what_they_look_like(tmp_path: Path) -> None:
    assert read(tmp_path, "a: 010\nb: 1:30\nc: -7\nd: 0\n") == {"a": 10.0, "b": "1:30", "c": -7, "d": 0}
    (tmp_path / "r.yaml").write_text("train: {minutes: 1:30}\n")
    with pytest.raises(UsageError, match=r"train\.minutes must be a number, not '1:30'"):
        load_recipe(tmp_path / "r.yaml")
