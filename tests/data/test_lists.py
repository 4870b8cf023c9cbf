"""List files that are no files, and names in them that other readers of lines would break."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pocketvit.data import layouts
from pocketvit.data.doctor import doctor
from pocketvit.data.layouts import read_clean, read_lines, read_list
from pocketvit.errors import DataError, UsageError
from pocketvit.spec.recipe import load_recipe
from tests.data.helpers import write


@pytest.mark.parametrize("name", ["fifo", "/dev/zero", "folder", "large", "x" * 300])
def test_what_is_no_list_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").write_text("a.png\n" * 10)
    read = layouts.read_text
    monkeypatch.setattr(layouts, "read_text", lambda file: read(file, 50))
    with pytest.raises(DataError, match="cannot be read"):
        read_lines(tmp_path / name)


@pytest.mark.parametrize("name", ["fifo", "/dev/zero", "large"])
def test_what_is_no_recipe_is_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b"#" * 10_000_001)
    with pytest.raises(UsageError, match="cannot be read"):
        load_recipe(tmp_path / name)


def test_lines_end_where_csv_says(tmp_path: Path) -> None:
    names = ["x\x85y.png", "u\u2028v.png", "f\x0cg.png", "a\nb.png", "plain.png"]
    for name in names:
        write(tmp_path / name)
    lines = [f'"{name}", cat' if "\n" in name else f"{name}, cat" for name in names]
    (tmp_path / "l.csv").write_bytes("\r\n".join(lines).encode())
    assert [row.path.name for row in read_list(tmp_path / "l.csv", "train")[0]] == names
    assert doctor(str(tmp_path / "l.csv")).images == len(names)


@pytest.mark.parametrize("content", [b"x" * 200_000, b"caf\xe9.png, cat\n", b"\0"])
def test_what_is_no_csv_is_a_data_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "l.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"l\.csv"):
        read_clean(tmp_path / "l.csv", "train")


def test_names_too_long_are_files_that_do_not_exist(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("x" * 300 + ".png\n")
    with pytest.raises(DataError, match="1 of 1 files do not exist"):
        read_clean(tmp_path / "l.csv", "train")
    for odd in ("x" * 300, "x" * 300 + ".png"):
        with pytest.raises(DataError, match="xxx"):
            doctor(str(tmp_path / odd))


def test_class_folders_must_be_text(tmp_path: Path) -> None:
    write(tmp_path / "cat" / "a.png")
    write(tmp_path / "cat" / os.fsdecode(b"caf\xe9.png"))  # files need not
    assert {row.labels for row in layouts.read_classes(tmp_path, "train")[0]} == {("cat",)}
    write(tmp_path / os.fsdecode(b"caf\xe9") / "b.png")
    with pytest.raises(DataError, match="not UTF-8"):
        layouts.read_classes(tmp_path, "train")


@pytest.mark.parametrize("wrong", [{"workers": 100_000}, {"huge_megapixels": float("nan")}, {"huge_megapixels": 1e999}])
def test_numbers_that_make_no_sense(tmp_path: Path, wrong: dict[str, float]) -> None:
    write(tmp_path / "a.png")
    with pytest.raises(UsageError, match="at most 256"):
        doctor(str(tmp_path), **wrong)  # type: ignore[arg-type]


def test_the_report_does_not_land_on_a_photo(tmp_path: Path) -> None:
    before = write(tmp_path / "a.png").read_bytes()
    with pytest.raises(UsageError, match=r"does not end in \.json"):
        doctor(str(tmp_path), out=str(tmp_path / "a.png"))
    assert (tmp_path / "a.png").read_bytes() == before
