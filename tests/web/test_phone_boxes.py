"""Boxes on the phone page: those that Python finds, drawn on photo and camera and told in words."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import pocketvit
from pocketvit.runtimes.model import load
from pocketvit.spec.boxes import COLOURS
from pocketvit.spec.golden import read_golden
from pocketvit.spec.parity import parity_violations, tolerances
from pocketvit.spec.tasks.detect import SHOWN
from tests.web import browser as web
from tests.web.detect_artifact import make_detect_artifact
from tests.web.test_units import Asked, kind_of, tiled


@pytest.mark.slow
def test_the_golden_check_of_boxes_finds_what_python_finds(tmp_path: Path) -> None:
    artifact, asked, rng = make_detect_artifact(tmp_path / "boxes"), Asked(), np.random.default_rng(2)
    assert pocketvit.verify(str(artifact.path)).passed
    golden = read_golden(artifact)
    for size, precision in itertools.product((0.0, 1e-3, 0.05, 0.5), ("fp32", "int8")):
        noise = rng.normal(0, size, 97).astype(np.float32)
        outputs = {name: value + tiled(noise, value) for name, value in golden.outputs.items()}
        limits = tolerances(artifact.manifest, precision)
        wanted = parity_violations(artifact.manifest, outputs, golden, limits)
        where = {"artifact": str(artifact.path), "precision": precision, "noise": asked.keep(noise)}
        asked.add("faults", {kind_of(each) for each in wanted}, **where)
    assert [{kind_of(each) for each in one} for one in asked.run(tmp_path)] == asked.expected
    assert any("metric_drop" in one for one in set().union(*asked.expected))


@pytest.mark.slow
def test_boxes_are_drawn_on_photos_and_frames(tmp_path: Path) -> None:
    web.need_browser()
    model = load(make_detect_artifact(tmp_path / "boxes").path)
    with web.photo_done(model, tmp_path) as (page, picture):
        found = model(picture).above(SHOWN)
        assert len(found)
        rows = [row.split("\n") for row in page.locator("#answer li").all_inner_texts()]
        told = zip(found.classes, found.scores, strict=True)
        assert rows == [[found.labels[k], f"{100 * score:.1f} %"] for k, score in told][:8]
        assert page.is_hidden("#compare-row")
        x0, y0, x1, y1 = found.pixels(*picture.shape[:2])[0]
        script = """([x, y]) => [...document.getElementById("after").getContext("2d").getImageData(x, y, 1, 1).data]"""
        colour = page.evaluate(script, [int(x0 + 1), int((y0 + y1) / 2)])[:3]
        assert np.abs(np.array(colour) - COLOURS[found.classes[0]]).max() < 60  # its edge may lie between pixels
        assert x1 > x0
        web.shot(page, "boxes")
        page.click("#camera")
        web.until(page, "pocketvit.status().answered >= 2")
