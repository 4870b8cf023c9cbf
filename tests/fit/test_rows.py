from dataclasses import replace
from pathlib import Path

import pytest

from pocketvit.errors import DataError
from pocketvit.export.built import Built
from pocketvit.fit.rows import ROW, load_row, save_row

from .rows_for_tests import row


def test_a_row_comes_back_as_it_was_also_where_the_folder_was_moved(tmp_path: Path) -> None:
    chain = tmp_path / "chain"
    (chain / "0-int8").mkdir(parents=True)
    (chain / "float").mkdir()
    made = row(chain / "float", "net", 90, 10, precision="bf16", settings={"count": 1}, misses=("slow",))
    made = replace(
        made, ranking=(("fc2", 0.5),), image=(4, 5), model=str(chain / "0-int8" / "model"), reason="why", rules={"a": 1}
    )
    made = replace(made, calibration=(3, "ab" * 32))
    point = {"threshold": 0.9, "shares": [0.25, 0.75], "metric": 90.0, "ms": None, "chosen": True}
    made = replace(made, built=replace(made.built, varies=True), photos=64, exits=(point,))
    save_row(chain / "0-int8", made)
    assert load_row(chain / "0-int8", {"a": 1}) == made
    assert load_row(chain / "0-int8", {"a": 2}) is None  # judged by other rules
    chain.rename(tmp_path / "moved")
    moved = load_row(tmp_path / "moved" / "0-int8", {"a": 1})
    assert moved.built == Built("onnxruntime", "bf16", tmp_path / "moved" / "float" / "net.onnx", varies=True)
    assert moved.model == str(tmp_path / "moved" / "0-int8" / "model")


def test_a_row_whose_file_is_gone_is_none_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    place = tmp_path / "step"
    place.mkdir()
    made = row(place, "net", 90, 10)
    save_row(place, made)
    made.built.path.unlink()
    assert load_row(place, {}) is None
    assert load_row(tmp_path / "nowhere", {}) is None
    (place / ROW).write_text('{"name": 1}')
    with pytest.raises(DataError, match=r"row.json: cannot be read") as error:
        load_row(place, {})
    assert error.value.todo == "Delete it."


def test_figures_of_a_row(tmp_path: Path) -> None:
    made = row(tmp_path, "net", 90, 10, 2000)
    assert (made.key, made.metric, made.bytes) == ("onnxruntime:fp32", 90, 2_000_000)
    assert made.latency(50) == pytest.approx(10)
    assert made.slowest(50) >= made.latency(50)
    assert replace(made, main="other").metric is None
    assert replace(made, timing=None).latency(50) is None
