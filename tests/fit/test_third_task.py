"""A task that stands in test code alone, from photos to a proven artifact and through every command that takes one."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pocketvit
from pocketvit.errors import NothingFitsError
from pocketvit.spec.artifact import read_artifact
from pocketvit.spec.recipe import Recipe, load_recipe
from tests import third_task


@pytest.fixture(autouse=True)
def _task(monkeypatch: pytest.MonkeyPatch) -> None:
    third_task.add(monkeypatch)
    # Memory is measured in a fresh process, which does not know a record from test code.
    monkeypatch.setattr("pocketvit.fit.handover.peak_rss_mb", lambda path, target, image, **_: 100.0)


def photos(folder: Path, count: int, seed: int) -> Path:
    """Plain colours with a little noise."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for i in range(count):
        photo = np.clip(rng.integers(0, 256, 3) + rng.normal(0, 10, (40, 40, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(photo).save(folder / f"{i:02d}.png")
    return folder


def recipe(folder: Path, **fields: object) -> Recipe:
    options = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 8}
    sections = {
        "data": {
            "train": [str(photos(folder / "d", 32, 0))],
            "val": [str(photos(folder / "v", 8, 1))],
            "test": [str(photos(folder / "t", 6, 2))],
            "layout": "clean",
        },
        "model": {"name": "vit_micro_patch16_224", "options": options},
        "task": {"name": third_task.NAME},
        "preprocess": {"size": [32, 32], "resize": "stretch"},
        "train": {"epochs": 10, "batch_size": 8, "lr": 0.01, "augment": "flip", "precision": "fp32"},
        "compress": {"steps": ["int8", "fp16"], "calibration_images": 6, "min_shrink": 1.1, "library_default": False},
        "search": {"runtimes": ["onnxruntime"], "timing_seconds": 0.1, "quiet_seconds": 0, "prefer": "size"},
    }
    return load_recipe(None, sections | fields)


@pytest.mark.slow
def test_a_third_task_goes_from_photos_to_a_proven_artifact_and_through_every_command(tmp_path: Path) -> None:
    report = pocketvit.fit(recipe(tmp_path), name="a", runs=str(tmp_path), quiet=True)
    assert (report.metric, report.unit) == ("error", "steps")
    chosen = next(row for row in report.rows if row.chosen)
    base = next(row for row in report.rows if not row.step)
    # It has learned: a constant answer is some 60 steps off. And lower is better: the floor is above the float file.
    assert base.metric < 40
    assert chosen.metric <= base.metric + third_task.ERROR.default_drop
    assert {row.step for row in report.rows} == {"", "int8", "fp16"}
    assert chosen.step, "the smallest that holds the floor is no float file"
    artifact = read_artifact(report.artifact)
    assert artifact.manifest.verification.passed
    assert [(m.name, m.unit) for m in artifact.manifest.metrics if m.split == "test"] == [("error", "steps")]
    assert "says the mean colour of photographs" in (artifact.path / "card.md").read_text()
    run = str(tmp_path / "a")
    assert pocketvit.verify(run, data=str(tmp_path / "v")).passed
    # The file is named: without a name a variant as good may run in its place, where it was timed as faster.
    assert pocketvit.eval(run, str(tmp_path / "v"), target=chosen.key).metrics["error"] == pytest.approx(chosen.metric)
    timed = pocketvit.bench(run, target=chosen.key, seconds=0.05, memory=False)
    assert [result.variant for result in timed.results] == [chosen.key]
    pocketvit.predict(run, [str(tmp_path / "v")], out=str(tmp_path / "answers.csv"))
    rows = list(csv.DictReader((tmp_path / "answers.csv").open()))
    errors = [
        abs(float(row[name]) - truth)
        for row in rows
        for name, truth in zip(("red", "green", "blue"), np.array(Image.open(row["image"])).mean(axis=(0, 1)))
    ]
    assert np.mean(errors) == pytest.approx(chosen.metric, abs=0.1)
    html = pocketvit.report(run).path.read_text(encoding="utf-8")
    assert "steps" in html
    assert "int8" in html


@pytest.mark.slow
def test_a_third_task_that_learned_nothing_is_refused(tmp_path: Path) -> None:
    train = {"epochs": 1, "batch_size": 8, "lr": 1e-9, "augment": "none", "precision": "fp32"}
    with pytest.raises(NothingFitsError, match=r"learned nothing: error \d+\.?\d* steps"):
        pocketvit.fit(recipe(tmp_path, train=train, compress={"steps": []}), name="a", runs=str(tmp_path), quiet=True)
    assert not (tmp_path / "a" / "artifact").exists()
