from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pocketvit import files
from pocketvit.errors import DataError
from pocketvit.files import make_folder, numbered, read_text, replacing, write_json, write_text


def test_temporary_names_are_short_and_unlike_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".txt")
    seen = set()
    for text in ("one", "two"):
        with replacing(path) as partial:
            assert (partial.parent, partial.suffix, len(partial.name) < 40) == (tmp_path, ".txt", True)
            seen.add(partial)
            partial.write_text(text)
        assert path.read_text() == text
    assert len(seen) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_planted_links_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    (tmp_path / ".a.partial.txt").symlink_to(victim)
    write_text(tmp_path / "a.txt", "new")
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "0" * 2 * count)  # even where the name is known
    (tmp_path / f".{'0' * 16}.partial.txt").symlink_to(victim)
    with pytest.raises(DataError, match="cannot be written"):
        write_text(tmp_path / "b.txt", "new")
    assert victim.read_text() == "mine"
    (tmp_path / "c.txt").symlink_to(victim)
    monkeypatch.undo()
    write_text(tmp_path / "c.txt", "new")
    assert (victim.read_text(), (tmp_path / "c.txt").is_symlink()) == ("mine", False)


def test_leftovers_of_killed_processes_are_swept_once_they_are_old(tmp_path: Path) -> None:
    imports = "import os; from pathlib import Path; from pocketvit.files import replacing"
    code = f"{imports}\nwith replacing(Path({str(tmp_path / 'a.png')!r})): os._exit(9)"
    subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    (left,) = tmp_path.iterdir()
    files._sweep.cache_clear()
    write_text(tmp_path / "b.txt", "x")
    assert left.exists()
    os.utime(left, (time.time() - 2 * files.LEFTOVER_SECONDS,) * 2)
    (tmp_path / ".mine.partial.png").write_text("not ours")
    os.utime(tmp_path / ".mine.partial.png", (0, 0))
    files._sweep.cache_clear()
    write_text(tmp_path / "b.txt", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.partial.png", "b.txt"]


def test_what_stands_there_is_left_alone_without_overwrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "new", overwrite=False)
    with pytest.raises(DataError, match="File exists"):
        write_text(path, "other", overwrite=False)
    assert path.read_text() == "new"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(DataError, match="No space left"):
        write_text(tmp_path / "b.txt", "x", overwrite=False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_bytes_of_names_come_back_from_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \xc3\xa9\n")
    write_json(tmp_path / "a.json", {"name": name})
    assert json.loads((tmp_path / "a.json").read_bytes().decode("utf-8", "strict")) == {"name": name}
    write_text(tmp_path / "a.txt", name)
    assert (tmp_path / "a.txt").read_bytes() == b"caf\\udce9 \xc3\xa9\n"


def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    assert read_text(tmp_path / "a") == "one\r\ntwo"
    with pytest.raises(OSError, match="more than"):
        read_text(tmp_path / "a", 10)
    os.mkfifo(tmp_path / "fifo")
    for odd in ("fifo", "/dev/zero", "."):
        with pytest.raises(OSError, match="not a regular file"):
            read_text(tmp_path / odd)
    with pytest.raises(OSError, match="too long"):
        read_text(tmp_path / ("x" * 300))


@pytest.mark.parametrize("stem", ["n" * 251, "é" * 125, "a"])
def test_numbers_fit_into_names(stem: str) -> None:
    names = [numbered(Path("x") / f"{stem}.png", number).name for number in (1, 2, 10)]
    assert names[0] == f"{stem}.png"
    assert [name.rpartition("_")[2] for name in names[1:]] == ["2.png", "10.png"]
    assert all(len(os.fsencode(name)) <= 255 for name in names)


def test_folders_that_cannot_be_written_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "new" / "deep")
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)  # tests may be run by root, who may all
    with pytest.raises(DataError, match=r"new: cannot be written \(Permission denied\)"):
        make_folder(tmp_path / "new")
