"""Damaged files in the run folder of a fit are named with what to delete, or made again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pocketvit.bench.timing import Timing
from pocketvit.data.collections import load_splits
from pocketvit.errors import DataError
from pocketvit.export.built import Built
from pocketvit.fit.plan import time_candidates
from pocketvit.fit.rows import ROW, Row, load_row, save_row
from pocketvit.fit.search import open_study
from pocketvit.fit.trial import load_trial
from pocketvit.report.command import report
from pocketvit.spec.recipe import load_recipe
from pocketvit.spec.tasks.base import Measure

from ..train.helpers import classify_recipe, write_classes

ENTRY = {"runtime": "onnxruntime", "precision": "fp32", "times_ms": [1.0] * 20, "bytes": 1, "image": [32, 32]}


@pytest.mark.parametrize(
    "document",
    [
        [],
        3,
        {"vit_micro_patch16_224-32x32": 3},
        {"vit_micro_patch16_224-32x32": [3]},
        {"vit_micro_patch16_224-32x32": [{**ENTRY, "times_ms": "fast"}]},
        {"vit_micro_patch16_224-32x32": [{**ENTRY, "times_ms": [float("nan")]}]},
        {"vit_micro_patch16_224-32x32": [{**ENTRY, "image": 32}]},
        {"vit_micro_patch16_224-32x32": [{**ENTRY, "bytes": None}]},
    ],
)
def test_damaged_timings_are_named(document: Any, tmp_path: Path) -> None:
    recipe = classify_recipe(write_classes(tmp_path / "d", per_class=3), **{"search.runtimes": ["onnxruntime"]})
    splits = load_splits(recipe.data, "classify")
    (tmp_path / "timing.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"timing.json: cannot be read") as caught:
        time_candidates(recipe, splits, tmp_path, lambda line: None)
    assert "Delete it" in caught.value.todo


@pytest.mark.parametrize("change", [{"measures": 3}, {"timing": []}, {"built": 4}, {"kept": "maybe"}, {"ranking": 1}])
def test_a_damaged_row_is_named(change: dict[str, Any], tmp_path: Path) -> None:
    place = tmp_path / "float"
    place.mkdir()
    (place / "model.onnx").write_bytes(b"x")
    measure = Measure("top1", 90.0, "%", 80.0, 95.0, 10)
    row = Row("a", built=Built("onnxruntime", "fp32", place / "model.onnx"), measures=(measure,), rules={"floor": 1})
    row = replace(row, timing=Timing((1.0, 2.0)), image=(32, 32))
    save_row(place, row)
    assert load_row(place, row.rules) == row
    (place / ROW).write_text(json.dumps(json.loads((place / ROW).read_text()) | change))
    with pytest.raises(DataError, match=r"row.json: cannot be read"):
        load_row(place, row.rules)
    (place / ROW).write_text("[]")
    with pytest.raises(DataError, match=r"row.json: cannot be read"):
        load_row(place, row.rules)


@pytest.mark.parametrize("value", ["NaN", '"high"', "null", "[]"])
def test_a_damaged_trial_is_made_again(value: str, tmp_path: Path) -> None:
    good = '{"key": "a", "value": %s, "epochs": 1, "complete": true, "folder": "a"}'
    (tmp_path / "trial.json").write_text(good % "90.0")
    assert load_trial(tmp_path) is not None
    (tmp_path / "trial.json").write_text(good % value)
    assert load_trial(tmp_path) is None


@pytest.mark.parametrize("content", [b"text" * 300, b"SQLite format 3\0" + b"\0" * 4000])
def test_a_damaged_study_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(content)
    with pytest.raises(DataError, match=r"study.db: the study cannot be used") as caught:
        open_study(tmp_path, load_recipe(None, {}), True)
    assert "Delete the file" in caught.value.todo


@pytest.mark.parametrize(
    "change", [{"candidates": 3}, {"budget": [1]}, {"lineage": 3}, {"rankings": []}, {"environment": 4}, {"notes": 5}]
)
def test_damaged_report_data_are_named(change: dict[str, Any], tmp_path: Path) -> None:
    document = {"title": "t", "task": "classify", "metric_name": "top1", "metric_unit": "%", "pictures": []}
    document |= {"candidates": [], "rankings": {}}
    (tmp_path / "report.json").write_text(json.dumps(document))
    assert report(str(tmp_path)).path.is_file()
    (tmp_path / "report.json").write_text(json.dumps(document | change))
    with pytest.raises(DataError, match=r"report.json"):
        report(str(tmp_path))
