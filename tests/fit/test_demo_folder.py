from __future__ import annotations

from pathlib import Path

import pytest

from pocketvit.errors import DataError
from pocketvit.fit import demo


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="file/demo"):
        demo.demo(runs=str(tmp_path / "file"))
