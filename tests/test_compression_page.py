"""The page of compression is what a run measured, row by row, and a second call goes on with the run."""

from __future__ import annotations

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pocketvit.models.trained import save_checkpoint
from tests.compress.training import teach

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_page_is_written_from_the_files_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, recipe = teach(tmp_path / "taught")
    save_checkpoint(tmp_path / "net", trained)
    steps = ["graph", {"early_exit": {"exits": [1], "epochs": 2, "views": 1, "threshold": 0.6}}, "store"]
    compress = replace(recipe.compress, steps=steps, alone=True, calibration_images=4)
    search = replace(recipe.search, runtimes=("onnxruntime",), timing_seconds=0.05, quiet_seconds=0.0)
    floor = replace(recipe.floor, value=0.0, max_drop=100.0)
    document = replace(recipe, name="tiny", compress=compress, search=search, floor=floor).to_dict()
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(document))
    page = tmp_path / "docs" / "compression.md"
    page.parent.mkdir()
    page.write_text("# Head\n<!-- steps: begin -->\nold\n<!-- steps: end -->\ntail\n")
    line = [
        "page",
        str(tmp_path / "tiny.yaml"),
        "--checkpoint",
        str(tmp_path / "net"),
        "--runs",
        str(tmp_path / "runs"),
    ]
    monkeypatch.setattr(sys, "argv", [*line, "--out", str(page)])
    runpy.run_path(str(ROOT / "scripts" / "compression_page.py"), run_name="__main__")
    text = page.read_text()
    assert text.startswith("# Head\n")
    assert text.endswith("<!-- steps: end -->\ntail\n")
    assert "old" not in text
    for row in ("| onnxruntime | float |", "| onnxruntime | graph |", "| onnxruntime | store |", "### Chains"):
        assert row in text
    assert "### Early exits, onnxruntime: early_exit" in text
    assert "| 0.6 (chosen on training photos) |" in text
    assert "### Bits a weight in the stored files" in text
    (image,) = set(page.parent.joinpath("img").glob("*-0.svg"))
    assert f"(img/{image.name})" in text
    runpy.run_path(str(ROOT / "scripts" / "compression_page.py"), run_name="__main__")
    again = page.read_text()
    assert [row.split("|")[2] for row in again.splitlines() if row.startswith("| onnx")] == [
        row.split("|")[2] for row in text.splitlines() if row.startswith("| onnx")
    ]
