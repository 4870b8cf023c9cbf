from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz import artifacts
from tests.tiny import make_tiny_artifact


@pytest.mark.slow
def test_mutated_artifacts_end_in_errors_of_ours_or_answer_as_before() -> None:
    assert artifacts.fuzz(20) == []


def test_cases_are_the_same_for_the_same_seed_and_change_something(tmp_path: Path) -> None:
    sound = make_tiny_artifact(tmp_path / "sound", openvino=True).path
    before = {path.name: path.read_bytes() for path in sound.iterdir()}
    kinds, changed = set(), 0
    for seed in range(30):
        names = [artifacts.make_case(sound, tmp_path / f"{side}{seed}", seed)[0] for side in "ab"]
        kinds |= set(names)
        first, second = ({p.name: p.read_bytes() for p in (tmp_path / f"{side}{seed}").iterdir()} for side in "ab")
        assert first[names[0]] == second[names[0]] or names[0] == "golden.npz"  # which holds the time it was written
        changed += first != before
    assert kinds == {"manifest.json", "model.onnx", "model.xml", "model.bin", "golden.npz"}
    assert changed >= 25


def test_it_can_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that ends with 1, and an answer that differs although the artifact was verified, are findings."""
    sound = make_tiny_artifact(tmp_path / "sound").path

    def untouched(sound: Path, folder: Path, seed: int) -> tuple[str, str]:
        return "manifest.json", ""

    def says(code: int, found: object) -> str:
        monkeypatch.setattr(artifacts, "make_case", untouched)
        monkeypatch.setattr(artifacts, "run", lambda *a: (code, "words"))
        monkeypatch.setattr(artifacts, "answer", lambda *a: (code, "words", found))
        return artifacts.try_case(sound, np.zeros((4, 4, 3)), tmp_path / "x" / "artifact", 1, "restore")

    assert "verify ends with 1: words" in says(1, None)
    assert "the answer is another one" in says(0, np.full((4, 4, 3), 9))
    assert says(0, np.ones((4, 4, 3))) == ""
    assert says(4, None) == ""


def test_json_is_mutated_in_all_its_places() -> None:
    document = {"a": [1, {"b": "x"}], "c": None}
    assert artifacts.places(document) == [("a",), ("a", 0), ("a", 1), ("a", 1, "b"), ("c",)]
    texts = {artifacts.mutate_json(random.Random(seed), json.dumps(document)) for seed in range(200)}
    assert len(texts) > 60
