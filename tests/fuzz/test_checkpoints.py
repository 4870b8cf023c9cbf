from __future__ import annotations

from pathlib import Path

from tests.fuzz.checkpoints import attack


def test_damaged_checkpoints_are_loaded_go_on_or_end_in_errors_of_ours(tmp_path: Path) -> None:
    answers = attack(30, 1, tmp_path)
    assert answers["DataError"] > 5
    assert answers["went on"] > 0
