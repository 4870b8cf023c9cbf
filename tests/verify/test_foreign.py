"""Artifacts of somebody else: what was changed in the manifest or in the goldens is noticed by ``verify``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pocketvit
from pocketvit.cli import main
from pocketvit.spec.artifact import Artifact, file_entries, write_manifest
from pocketvit.spec.golden import Golden, read_golden, write_golden
from pocketvit.verify.command import ChecksFailed, verify
from tests.tiny import make_tiny_artifact, restore_onnx


def edit(artifact: Artifact, change: Callable[[dict], object]) -> None:
    path = artifact.path / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def swap(names: list[str]) -> None:
    names[0], names[-1] = names[-1], names[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: swap(d["levels"][1]["labels"]), "levels[1].labels[0] in the manifest is 'blue'"),
        (lambda d: swap(d["levels"][0]["labels"]), "levels[0].labels[0] in the manifest is 'cold'"),
        (lambda d: d["levels"][1].update(parents=[1, 1, 0, 0]), "levels[1].parents[0] in the manifest is '1'"),
        (lambda d: d["outputs"][0].update(meaning="logits"), "outputs[0].meaning in the manifest is 'logits'"),
        (lambda d: d["inputs"][0].update(meaning="BGR"), "inputs[0].meaning in the manifest is 'BGR'"),
    ],
)
def test_labels_and_units_are_bound_to_the_goldens(tmp_path: Path, change: Callable[[dict], object], says: str) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", "classify")
    assert verify(str(artifact.path), negative_controls=False).passed
    edit(artifact, change)
    with pytest.raises(ChecksFailed) as caught:
        verify(str(artifact.path))
    assert says in caught.value.what
    assert main(["verify", str(artifact.path)]) == 4


def test_older_artifacts_load_and_verify_says_that_nothing_is_bound(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", "classify")
    write_golden(artifact.path, replace(read_golden(artifact), contract=""))
    write_manifest(artifact.path, artifact.manifest.model_copy(update={"files": file_entries(artifact.path)}))
    pocketvit.load(artifact.path)
    check = next(c for c in verify(str(artifact.path)).checks if c.name == "labels and outputs")
    assert check.skipped
    assert "not bound to the goldens" in check.detail


@pytest.mark.parametrize(
    "limits", [{"max_abs": 200.0, "mean_abs": 12.0, "metric_drop": 30.0}, {"max_abs": 0.26}, {"min_cosine": -1.0}]
)
def test_limits_looser_than_the_tasks_are_refused(tmp_path: Path, limits: dict[str, float]) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", tolerances={"fp32": limits})
    with pytest.raises(ChecksFailed, match="looser than") as caught:
        verify(str(artifact.path))
    assert [check.name for check in caught.value.report.failures] == ["limits of fp32"]


def test_a_limit_that_is_left_out_is_the_tasks(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", tolerances={"fp32": {"max_abs": 0.25}})
    assert "metric_drop 0.02" in next(c for c in verify(str(artifact.path)).checks if c.name == "limits of fp32").detail
    restore_onnx(artifact.path / "model.onnx", blur=0.403)  # within max_abs, and another model
    write_manifest(artifact.path, artifact.manifest.model_copy(update={"files": file_entries(artifact.path)}))
    with pytest.raises(ChecksFailed, match="mean_abs"):
        verify(str(artifact.path))


def rewrite(artifact: Artifact, change: Callable[[Golden], dict[str, object]]) -> None:
    golden = read_golden(artifact)
    write_golden(artifact.path, replace(golden, **change(golden)))  # type: ignore[arg-type]
    write_manifest(artifact.path, artifact.manifest.model_copy(update={"files": file_entries(artifact.path)}))


@pytest.mark.parametrize("task", ["restore", "classify"])
@pytest.mark.parametrize(
    "change",
    [
        lambda g: {"outputs": {name: value.astype(str) for name, value in g.outputs.items()}},
        lambda g: {"outputs": {name: value.astype(complex) for name, value in g.outputs.items()}},
        lambda g: {"outputs": {name: value * np.float32(np.nan) for name, value in g.outputs.items()}},
        lambda g: {"outputs": {}},
        lambda g: {"truth": g.truth.astype(str)},
        lambda g: {"truth": g.truth + np.int64(300)},
        lambda g: {"truth": g.truth[0]},
        lambda g: {"inputs": g.inputs[:0]},
        lambda g: {"inputs": g.inputs.astype(str)},
        lambda g: {"sources": tuple(g.inputs) * 2},
        lambda g: {"sources": (np.zeros((3, 3), np.float32),) * 2},
    ],
)
def test_odd_goldens_are_refused_by_verify_and_report(
    tmp_path: Path, task: str, change: Callable[[Golden], dict[str, object]]
) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", task)
    rewrite(artifact, change)
    assert main(["verify", str(artifact.path)]) == 4
    assert main(["report", str(artifact.path), "--out", str(tmp_path / "r.html")]) == 4
