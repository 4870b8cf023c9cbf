from __future__ import annotations

from pathlib import Path

from tests.fuzz.images import attack


def test_damaged_images_are_pictures_or_data_errors(tmp_path: Path) -> None:
    answers = attack(200, 1, tmp_path)
    assert min(answers.values()) > 20  # both kinds of answer are reached
