from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pocketvit.spec.artifact import Artifact
from pocketvit.spec.golden import Golden, contract_difference, golden_faults, read_golden
from pocketvit.spec.manifest import Manifest
from tests.tiny import make_tiny_artifact
from tests.web.detect_artifact import make_detect_artifact
from tests.web.segment_artifact import make_segment_artifact


@pytest.fixture(scope="module", params=["restore", "classify"])
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("g") / "a", request.param)


def first(golden: Golden, change: Callable[[np.ndarray], np.ndarray]) -> dict[str, object]:
    name = next(iter(golden.outputs))
    return {"outputs": {**golden.outputs, name: change(golden.outputs[name])}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda g: first(g, lambda v: v.astype(str)), "golden output"),
        (lambda g: first(g, lambda v: v.astype(np.complex64)), "golden output"),
        (lambda g: first(g, lambda v: v.astype(np.float64)), "golden output"),
        (lambda g: first(g, lambda v: v[..., 0]), "golden output"),
        (lambda g: first(g, lambda v: v * np.float32(np.nan)), "NaN"),
        (lambda g: first(g, lambda v: np.float32(1)), "golden output"),
        (lambda g: {"outputs": {}}, "the goldens hold outputs []"),
        (lambda g: {"inputs": g.inputs.astype(float)}, "the golden inputs are float64"),
        (lambda g: {"inputs": np.uint8(3)}, "the golden inputs are uint8 ()"),
        (lambda g: {"inputs": g.inputs[:0]}, "the golden inputs are uint8 (0,"),
        (lambda g: {"inputs": g.inputs.astype(str)}, "the golden inputs are <U"),
        (lambda g: {"truth": g.truth.astype(str)}, "the ground truth is <U"),
        (lambda g: {"truth": g.truth.astype(complex)}, "the ground truth is complex"),
        (lambda g: {"truth": g.truth[..., None]}, "the ground truth is"),
        (lambda g: {"truth": np.float32(1)}, "the ground truth is"),
        (lambda g: {"truth": g.truth.astype(np.float32)}, "the ground truth is"),
        (lambda g: {"truth": g.truth[:1]}, "1 ground truths for"),
        (lambda g: {"sources": tuple(g.inputs) * 2}, "sources for"),
    ],
)
def test_odd_goldens(artifact: Artifact, change: Callable[[Golden], dict[str, object]], says: str) -> None:
    golden = read_golden(artifact)
    assert golden_faults(artifact.manifest, golden) == []
    faults = golden_faults(artifact.manifest, replace(golden, **change(golden)))  # type: ignore[arg-type]
    assert any(says in fault for fault in faults)


@pytest.mark.parametrize("value", [-1, 4, 2**40])
def test_classes_out_of_range(tmp_path: Path, value: int) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", "classify")
    golden = read_golden(artifact)
    truth = golden.truth.copy()
    truth[3, 1] = value
    assert "not a class of each of 2 levels" in golden_faults(artifact.manifest, replace(golden, truth=truth))[0]


@pytest.mark.parametrize(
    ("make", "value", "says"),
    [
        (make_detect_artifact, 2, "the golden truth holds class 2, of 2 classes"),
        (make_detect_artifact, 1e30, "the golden truth holds class 1e+30"),
        (make_segment_artifact, 3, "the golden truth holds class 3"),
        (make_segment_artifact, None, "all pixels of the golden masks are ignored"),
    ],
)
def test_classes_of_parts_out_of_range(
    tmp_path: Path, make: Callable[[Path], Artifact], value: float | None, says: str
) -> None:
    artifact = make(tmp_path / "a")
    golden = read_golden(artifact)
    assert golden_faults(artifact.manifest, golden) == []
    truth = golden.truth.copy()
    truth[0, 0, 0] = truth[0, 0, 0] if value is None else value
    truth = np.full_like(truth, 255) if value is None else truth
    assert says in golden_faults(artifact.manifest, replace(golden, truth=truth))[0]


def changed(artifact: Artifact, change: Callable[[dict], object]) -> Manifest:
    document = json.loads(artifact.manifest.model_dump_json())
    change(document)
    return Manifest.model_validate(document)


def test_a_contract_names_the_first_difference(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", "classify")
    golden = read_golden(artifact)
    assert contract_difference(artifact.manifest, golden) == ""
    swapped = changed(artifact, lambda d: d["levels"][1].update(labels=["blue", "yellow", "green", "red"]))
    assert contract_difference(swapped, golden) == (
        "levels[1].labels[0] in the manifest is 'blue', the goldens were made with 'red'"
    )
    parents = changed(artifact, lambda d: d["levels"][1].update(parents=[1, 0, 1, 1]))
    assert contract_difference(parents, golden).startswith("levels[1].parents[0] in the manifest is '1'")
    unit = changed(artifact, lambda d: d["outputs"][0].update(meaning="logits"))
    assert contract_difference(unit, golden).startswith("outputs[0].meaning in the manifest is 'logits'")
    assert "other labels or outputs" in contract_difference(artifact.manifest, replace(golden, contract="{"))
