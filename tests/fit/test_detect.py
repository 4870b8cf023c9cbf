"""Photos with boxes, from a recipe to a proven artifact and through every command that takes one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import pocketvit
from pocketvit.errors import NothingFitsError
from pocketvit.serve.http.http_app import make_app
from pocketvit.serve.http.served import Models, Served
from pocketvit.serve.stream import stream
from pocketvit.spec.artifact import read_artifact
from pocketvit.spec.boxes import overlaps
from pocketvit.spec.recipe import Recipe, load_recipe
from tests import detect_data

VIT = {"embed_dim": 48, "depth": 2, "num_heads": 2, "patch_size": 16}


def recipe(root: Path, **fields: Any) -> Recipe:
    sections: dict[str, Any] = {
        "data": {"train": [str(root / "d")], "val": [str(root / "v")], "test": [str(root / "t")], "layout": "coco"},
        "model": {"name": "vit_micro_patch16_224", "options": VIT},
        "task": {"name": "detect", "head_width": 32},
        "preprocess": {"size": [64, 96], "resize": "stretch"},
        "train": {"epochs": 60, "batch_size": 8, "lr": 4e-3, "augment": "flip", "precision": "fp32"},
        "compress": {"steps": ["int8"], "calibration_images": 8, "library_default": False, "min_shrink": 1.1},
        "search": {"runtimes": ["onnxruntime"], "timing_seconds": 0.1, "quiet_seconds": 0, "prefer": "size"},
    }
    return load_recipe(None, {key: {**sections.get(key, {}), **fields.get(key, {})} for key in {*sections, *fields}})


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The report of a fit of tiny photos, and the folder of all."""
    root = tmp_path_factory.mktemp("detect")
    for seed, (name, count) in enumerate({"d": 64, "v": 12, "t": 8}.items()):
        detect_data.coco(root / name, count, seed=1000 * seed)
    return pocketvit.fit(recipe(root), name="a", runs=str(root), quiet=True), root


@pytest.mark.slow
def test_boxes_go_from_photos_to_a_proven_artifact(fitted: tuple[Any, Path]) -> None:
    report, root = fitted
    print(report.render())
    assert (report.metric, report.unit) == ("ap", "%")
    base = next(row for row in report.rows if not row.step)
    assert base.metric > 30
    assert {row.step for row in report.rows} == {"", "int8"}
    manifest = read_artifact(report.artifact).manifest
    assert manifest.verification.passed
    assert [output.name for output in manifest.outputs] == ["heat", "sides"]
    assert manifest.levels[0].labels == ["red", "blue"]
    assert {m.name for m in manifest.metrics if m.split == "test"} == {"ap", "ap50", "ap75"}
