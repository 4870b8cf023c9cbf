"""``predict`` on what a folder or a glob names beside photos."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from pocketvit.serve.predict import predict
from tests.tiny import make_tiny_artifact, photo


@pytest.mark.parametrize("images", ["in", "in/*", "in/**/*"])
def test_what_a_folder_or_glob_leaves_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    artifact = str(make_tiny_artifact(tmp_path / "restore").path)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    Image.fromarray(photo(40, 50)).save("in/a.png")
    for name in ("a.heic", "b.heic", "film.mov", "pocketvit-quarantine.txt"):
        Path("in", name).write_bytes(b"x")
    report = predict(artifact, [images, "in/a.png"])
    (note,) = report.notes
    assert note.startswith(f"{images}: 3 files were not looked at: 2 .heic, 1 .mov (pip install ")
    assert (len(report.predictions), report.exit_code) == (1, 0)
