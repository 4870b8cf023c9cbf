"""fit for a device that is not of this machine: files are proven and timed there, and what fails is struck out."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import pocketvit
from pocketvit.bench.remote import Elsewhere
from pocketvit.data.collections import Splits, load_splits
from pocketvit.errors import UsageError, VerificationError
from pocketvit.export.built import Built
from pocketvit.fit.decide import time_finalists, wait_for_quiet
from pocketvit.fit.gate import limits_of
from pocketvit.fit.measure import Measurer, make_measurer
from pocketvit.fit.plan import export_float, time_candidates, within_reach
from pocketvit.fit.rows import Row
from pocketvit.fit.shrink import Chain
from pocketvit.fit.tables import bench_rows
from pocketvit.models.trained import Trained
from pocketvit.spec import devices
from pocketvit.spec.artifact import read_artifact
from pocketvit.spec.recipe import Recipe, load_recipe
from pocketvit.tasks.load import load_checkpoint
from tests import toaster

from ..train.helpers import classify_recipe

FAST = {
    "target": {"runtime": "any", "precision": "any", "device": "toaster"},
    "search": {"timing_seconds": 0.1, "quiet_seconds": 0},
    "compress": {"steps": ["int8"], "calibration_images": 6, "library_default": False},
    "floor": {"value": 0},
}


@pytest.fixture(autouse=True)
def bread(monkeypatch: pytest.MonkeyPatch) -> toaster.Toaster:
    monkeypatch.setitem(devices.DEVICES, "toaster", toaster.DEVICE)
    monkeypatch.setattr(toaster, "TOASTER", [toaster.Toaster()])
    return toaster.TOASTER[0]


@dataclass(frozen=True)
class Bakery:
    """A trained model with its float file, made once."""

    trained: Trained
    recipe: Recipe
    splits: Splits
    built: Built

    def measurer(self, bread: toaster.Toaster) -> Measurer:
        return make_measurer(self.trained, self.splits, self.recipe, Elsewhere(toaster.DEVICE, bread))


@pytest.fixture(scope="module")
def bakery(data: Path, weights: str, tmp_path_factory: pytest.TempPathFactory) -> Bakery:
    trained, recipe = load_checkpoint(weights), classify_recipe(data, **FAST)
    built = export_float(trained, "onnxruntime", tmp_path_factory.mktemp("bakery"))
    return Bakery(trained, recipe, load_splits(recipe.data, "classify"), built)


def test_candidates_that_do_not_run_there_are_left_out(
    bakery: Bakery, tmp_path: Path, bread: toaster.Toaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocketvit.fit.plan.export_float", lambda trained, *_: bakery.built)
    monkeypatch.setattr("pocketvit.fit.plan.new_model", lambda recipe, levels: bakery.trained)
    elsewhere, told = Elsewhere(toaster.DEVICE, bread), list[str]()
    bread.refuses = lambda file: True
    ((_, bad),) = time_candidates(bakery.recipe, bakery.splits, tmp_path, told.append, elsewhere)
    assert bad[0].timing is None
    assert "the toaster has too little memory for it" in bad[0].reason
    assert any("too little memory" in line for line in told)
    assert not within_reach(bad, bakery.recipe)
    elsewhere.proven.clear()
    bread.refuses = lambda file: False
    ((_, good),) = time_candidates(bakery.recipe, bakery.splits, tmp_path, told.append, elsewhere)
    assert good[0].timing is not None
    assert good[0].timing.p50 == 5.0
    assert within_reach(good, bakery.recipe)
    assert bread.timed == [(1, 1)]


def test_files_are_proven_once_and_what_fails_is_struck_out(bakery: Bakery, bread: toaster.Toaster) -> None:
    measurer, built = bakery.measurer(bread), bakery.built
    measurer.time([built, built])
    measurer.time([built])
    assert bread.timed == [(2, 1), (1, 1)]
    assert measurer.elsewhere is not None
    assert list(measurer.elsewhere.proven.values()) == [""]
    assert measurer.target(built).device == "cpu", "metrics are measured here"
    measurer.elsewhere.proven.clear()
    bread.off = lambda file: 0.5
    with pytest.raises(VerificationError, match="its answers are not those of this machine"):
        measurer.time([built])
    main = measurer.main_metric
    row = Row("a onnxruntime:fp32", "onnxruntime", "fp32", origin="a", built=built, kept=True, main=main)
    row = replace(row, measures=measurer.score(built))
    (struck,) = time_finalists([row], {"a": measurer}, limits_of(measurer.recipe, main), [])
    assert not struck.kept
    assert "candidate onnxruntime:fp32@toaster: its answers are not those of this machine" in struck.reason


def test_a_float_file_that_fails_there_ends_its_chain_by_name(
    bakery: Bakery, tmp_path: Path, bread: toaster.Toaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exported(trained: Trained, runtime: str, folder: Path) -> Built:
        folder.mkdir(parents=True)
        return replace(bakery.built, path=Path(shutil.copy(bakery.built.path, folder)))

    monkeypatch.setattr("pocketvit.fit.shrink.export_float", exported)
    bread.off, measurer = lambda file: 0.5, bakery.measurer(bread)
    rows = list(Chain(measurer, "a", tmp_path, "onnxruntime", lambda line: None).follow([]))
    assert [row.kept for row in rows] == [False]
    assert "its answers are not those of this machine" in rows[0].reason
    again = Chain(measurer, "a", tmp_path, "onnxruntime", lambda line: None).first()
    assert again.row == rows[0], "it is known when the run goes on"


def test_rows_are_of_the_device(bakery: Bakery, bread: toaster.Toaster) -> None:
    measurer = bakery.measurer(bread)
    (timing,) = measurer.time([bakery.built])
    (row,) = bench_rows([Row("x", "onnxruntime", "fp32", timing=timing, built=bakery.built)], measurer)
    assert (row.variant, row.p50_ms, row.environment["user_agent"]) == ("onnxruntime:fp32@toaster", 5.0, "Toaster/2")
    assert wait_for_quiet(measurer.recipe, lambda line: None) == []


@pytest.mark.slow
def test_fit_chooses_by_the_times_of_the_device(
    data: Path, weights: str, tmp_path: Path, bread: toaster.Toaster
) -> None:
    def ms(model: object) -> float:
        return 3.0 if model.target.precision == "int8" else 9.0  # type: ignore[attr-defined]

    bread.ms = ms
    recipe = classify_recipe(
        data, **FAST, **{"budget.latency_ms": 5.0, "model.weights": weights, "compress.max_float_layers": 1}
    )
    report = pocketvit.compress(recipe, name="a", runs=str(tmp_path), quiet=True)
    assert next(row for row in report.rows if row.chosen).key == "onnxruntime:int8"
    manifest = read_artifact(report.artifact).manifest
    assert manifest.default == "onnxruntime:int8"
    assert {row.variant for row in manifest.benchmarks} == {"onnxruntime:int8@toaster"}
    assert any(note.startswith("times are of the toaster: Toaster/2") for note in report.notes)


def test_recipes_name_the_device_in_one_word() -> None:
    recipe: Recipe = load_recipe({"target": "phone"})
    assert (recipe.target.runtime, recipe.target.precision, recipe.target.device) == ("any", "any", "phone")
    assert load_recipe(recipe) == recipe
    assert load_recipe({"target": "onnxruntime:int8:4@phone"}).target.threads == 4
    assert load_recipe({"target": "phone"}, {"contact.port": 0}).contact.port == 0
    with pytest.raises(UsageError, match=r"budget\.memory_mb cannot be held on a phone"):
        load_recipe({"target": "phone", "budget": {"memory_mb": 100}})
