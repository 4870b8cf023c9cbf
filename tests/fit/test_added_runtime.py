"""A runtime that stands in test code alone is fitted for: NumPy runs what fit exports, times and hands over."""

from __future__ import annotations

from pathlib import Path

import pytest

import pocketvit
from pocketvit.errors import UsageError
from pocketvit.runtimes import RUNTIMES
from pocketvit.spec.artifact import read_artifact
from tests import numpy_runtime

from ..train.helpers import classify_recipe, write_classes

FIELDS = {
    "train.epochs": 4,
    "search": {"runtimes": ["numpy"], "timing_seconds": 0.1, "quiet_seconds": 0},
    "floor": {"value": 0},
}


@pytest.fixture(autouse=True)
def _runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES, "numpy", numpy_runtime.RUNTIME)
    # Memory is measured in a fresh process, which does not know a record from test code.
    monkeypatch.setattr("pocketvit.fit.handover.peak_rss_mb", lambda path, target, image, **_: 100.0)


@pytest.mark.slow
def test_fit_exports_scores_times_verifies_and_hands_over_files_of_an_added_runtime(tmp_path: Path) -> None:
    recipe = classify_recipe(write_classes(tmp_path / "d"), **{**FIELDS, "compress.steps": ["int8", "bf16"]})
    report = pocketvit.fit(recipe, name="a", runs=str(tmp_path), quiet=True)
    assert [row.key for row in report.rows] == ["numpy:fp32"]  # no step is one of its own
    artifact = read_artifact(report.artifact)
    assert [v.path for v in artifact.manifest.variants] == ["model.npz"]
    assert artifact.manifest.verification.passed
    checks = {check.name: check for check in pocketvit.verify(str(artifact.path)).checks}
    assert checks["control: damaged weights"].passed
    assert not checks["control: damaged weights"].skipped
    timed = pocketvit.bench(str(artifact.path), seconds=0.05, memory=False)
    assert [result.variant for result in timed.results] == ["numpy:fp32"]
    assert pocketvit.load(artifact.path)(tmp_path / "d" / "green" / "3.png").path == ("green",)


def test_a_target_of_an_added_runtime_is_checked_before_anything_is_read(tmp_path: Path) -> None:
    recipe = classify_recipe(write_classes(tmp_path / "d", 4), **{**FIELDS, "target": {"runtime": "numpy"}})
    with pytest.raises(UsageError, match="numpy has no device cuda on this machine"):
        pocketvit.fit(recipe, name="a", runs=str(tmp_path), quiet=True, **{"target.device": "cuda"})
    assert not (tmp_path / "a").exists()
