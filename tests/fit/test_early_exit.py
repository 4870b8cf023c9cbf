"""Early exits through fit: timed on many photos, handed over with their curve, and said to be what they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import pocketvit
from pocketvit.bench.command import bench
from pocketvit.data.collections import load_splits
from pocketvit.export.built import Built
from pocketvit.fit.measure import make_measurer
from pocketvit.report.data import load_report
from pocketvit.runtimes.model import Model
from pocketvit.spec.preprocess import Pixels
from pocketvit.tasks.start import new_model
from tests.models.test_backbone import VIT
from tests.train.helpers import classify_recipe, write_classes

DEEP = {"name": "vit_micro_patch16_224", "options": {**VIT, "depth": 4}}
EXIT = {"early_exit": {"exits": [1, 3], "epochs": 5, "views": 1, "folds": 2, "hidden": 8, "threshold": 0.5}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "data")


def test_files_whose_time_depends_on_the_image_and_all_beside_them_are_timed_on_many(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = classify_recipe(folder, **{"search.timing_seconds": 0.01})
    splits = load_splits(recipe.data, "classify")
    measurer = make_measurer(new_model(recipe, splits.train.levels), splits, recipe)
    seen: list[tuple[str, int]] = []

    class Stand:
        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self, image: Pixels) -> None:
            seen.append((self.name, id(image)))

    def opened(self: object, built: Built) -> Model:
        return Stand(built.path.name)  # type: ignore[return-value]

    monkeypatch.setattr(type(measurer), "open", opened)
    plain, exits = Built("onnxruntime", "fp32", Path("a")), Built("onnxruntime", "fp32", Path("b"), varies=True)
    assert measurer.timed_on([plain]) == (measurer.image,)
    photos = measurer.timed_on([plain, exits])
    assert len(photos) == len(splits.val.items)  # of more than 64 photos so many, spread evenly
    assert {photo.shape for photo in photos} == {measurer.image.shape}
    measurer.time([plain])
    assert len(set(seen)) == 1
    seen.clear()
    timings = measurer.time([plain, exits])
    rounds = len(timings[0].times_ms)
    turns = [(name, id(photo)) for photo in photos for name in ("a", "b")]
    assert seen[-len(turns) * rounds :] == turns * rounds


@pytest.mark.slow
def test_a_fit_with_early_exits_hands_over_one_file_with_its_curve(folder: Path, tmp_path: Path) -> None:
    fields = {"model": DEEP, "train.epochs": 2, "train.threads": 1, "compress.steps": [EXIT, "graph"]}
    fields |= {"compress.min_shrink": 0.1, "compress.calibration_images": 4, "search.runtimes": ["onnxruntime"]}
    fields |= {"search.timing_seconds": 0.1, "search.prefer": "speed", "floor": {"max_drop": 100}}
    recipe = classify_recipe(folder, **fields)
    report = pocketvit.fit(recipe, name="exits", runs=str(tmp_path), quiet=True)
    rows = {row.step: row for row in report.rows}
    row = rows["early_exit"]
    assert row.kept, row.reason
    assert row.built.varies
    assert row.photos == 9
    assert "leave behind block 1 / 3 / 4" in row.reason
    assert "times are means over 9 validation photos in turn" in row.reason
    (here,) = (point for point in row.exits if point["chosen"])
    assert here["threshold"] == 0.5
    assert here["metric"] == pytest.approx(row.metric)
    assert rows["graph"].built.varies
    shown = load_report(tmp_path / "exits").exits
    assert {name.rpartition(":")[2] for name in shown} == {"early_exit"}
    assert 'id="exits"' in (tmp_path / "exits" / "report.html").read_text()
    assert pocketvit.verify(str(report.artifact)).passed
    model = pocketvit.load(report.artifact)
    if model.variant.varies:  # which of the files was the fastest is for the clock to say
        timed = bench(str(report.artifact), seconds=0.1, memory=False)
        assert any("depends on the image (early exits)" in warning for warning in timed.warnings)
        assert timed.to_dict()["results"][0]["varies"]
        assert "mean over 9 validation photos" in model.manifest.benchmarks[0].includes


def test_a_shipped_file_says_that_its_time_does_not_depend_on_the_image() -> None:
    from pocketvit.bench.command import _warnings

    timed = bench("denoise-color", seconds=0.1, memory=False, size="32x32")
    assert not timed.results[0].varies
    varying = replace(timed.results[0], varies=True)
    assert any("early exits" in line for line in _warnings((varying,), None))
    assert not any("early exits" in line for line in timed.warnings)
