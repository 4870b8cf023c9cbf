from __future__ import annotations

from pathlib import Path

import pytest

from pocketvit.errors import UsageError
from pocketvit.export.command import export


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"size": (64,)}, "size 64 is no height and width"),
        ({"size": (64, 64, 64)}, "no height and width"),
        ({"size": (0, 64)}, "no height and width"),
        ({"size": (10**6, 10**6)}, "no height and width"),
        ({"goldens": -1}, "goldens must be at least 1"),
        ({"goldens": 0}, "goldens must be at least 1"),
        ({"goldens": 10**9}, "goldens must be at least 1 and at most"),
        ({"version": "x"}, "no semantic version"),
        ({"version": "1.0.0\n"}, "no semantic version"),
        ({"name": "../x"}, "cannot name an artifact"),
        ({"formats": ("tflite",)}, "unknown format"),
    ],
)
def test_arguments_are_checked_before_anything_is_loaded(tmp_path: Path, change: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        export("no checkpoint", str(tmp_path / "out"), **change)
    assert not list(tmp_path.iterdir())
