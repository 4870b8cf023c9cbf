"""Folders called like a shipped artifact."""

from __future__ import annotations

from pathlib import Path

import pytest

from pocketvit.models.trained import find_checkpoint
from pocketvit.spec.artifact import find_artifact, shipped_root
from tests.tiny import make_tiny_artifact


def test_a_folder_of_the_name_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "denoise-color").mkdir()
    assert find_artifact("denoise-color") == shipped_root() / "denoise-color"
    assert find_checkpoint("denoise-color") == shipped_root() / "denoise-color-checkpoint"


def test_an_artifact_of_the_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_tiny_artifact(tmp_path / "denoise-color")
    assert find_artifact("denoise-color") == Path("denoise-color")
