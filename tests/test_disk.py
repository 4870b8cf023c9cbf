import errno
import os
import sqlite3
import tempfile
from pathlib import Path

import pytest
from safetensors import SafetensorError

from pocketvit.cli import main
from pocketvit.commands import COMMANDS
from pocketvit.errors import DataError
from pocketvit.files import disk_fault, disk_faults, need_space, scratch, writing

FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EFBIG, "File too large"),
    OSError(errno.EROFS, "Read-only file system"),
    SafetensorError("Error while serializing: I/O error: File too large (os error 27)"),
    sqlite3.OperationalError("database or disk is full"),
    RuntimeError("basic_ios::clear: iostream error"),
    RuntimeError(
        "[enforce fail at inline_container.cc:668] . PytorchStreamWriter failed writing file data/0: file ..."
    ),
]


@pytest.mark.parametrize("error", FULL)
def test_a_full_disk_is_told_in_the_same_way_whoever_says_it(error: Exception, tmp_path: Path) -> None:
    assert disk_fault(error)
    with pytest.raises(DataError, match=r"model.bin: cannot be written"), writing(tmp_path / "model.bin"):
        raise error
    outer = RuntimeError("the engine gave up")
    outer.__cause__ = error
    with pytest.raises(DataError, match="cannot be written") as caught, disk_faults(tmp_path, "Free some."):
        raise outer
    assert caught.value.todo == "Free some."


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), writing(tmp_path / "x"):
        raise RuntimeError("shapes do not match")
    with pytest.raises(FileNotFoundError), disk_faults(tmp_path, ""):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "x")


def test_a_full_disk_anywhere_in_a_command_is_exit_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "weights.bin")

    monkeypatch.setattr(type(COMMANDS["doctor"]), "resolve", full)
    assert main(["doctor", "."]) == 3
    assert "weights.bin: cannot be written" in capsys.readouterr().err


def test_temporary_files_name_their_place_and_go_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def full() -> None:
        with scratch() as folder:
            (folder / "half").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DataError, match=str(tmp_path)) as caught:
        full()
    assert "TMPDIR" in caught.value.todo
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(DataError, match="temporary files"), scratch():
        pass


def test_space_is_asked_for_before_a_long_write(tmp_path: Path) -> None:
    need_space(tmp_path, 1)
    need_space(tmp_path / "gone", 1 << 60)  # what cannot be asked is found out by writing
    with pytest.raises(DataError, match="No space left") as caught:
        need_space(tmp_path, 1 << 60)
    assert os.fspath(tmp_path) in caught.value.what


def test_of_a_copy_the_file_that_was_to_be_written_is_named(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "from.onnx", None, "to.onnx")
    with pytest.raises(DataError, match=r"^to\.onnx: cannot be written"), disk_faults(tmp_path, "Free some."):
        raise full
