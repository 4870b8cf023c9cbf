from __future__ import annotations

import os
from pathlib import Path

import pytest

from pocketvit.errors import DataError, UsageError
from pocketvit.spec import artifact as artifact_module
from pocketvit.spec.artifact import check_replaceable, new_folder
from tests.tiny import make_tiny_artifact


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("what", ["notes", "no manifest", "other manifest", "folder in it", "file", "link"])
def test_what_is_no_artifact_alone_is_not_replaced(tmp_path: Path, what: str) -> None:
    folder = make_tiny_artifact(tmp_path / "mine").path
    if what == "notes":
        (folder / "thesis.txt").write_text("three years")
    elif what == "no manifest":
        (folder / "manifest.json").unlink()
    elif what == "other manifest":
        (folder / "manifest.json").write_text('{"name": "an extension of a browser"}')
    elif what == "folder in it":
        (folder / "photos").mkdir()
    elif what == "file":
        folder = tmp_path / "thesis.txt"
        folder.write_text("three years")
    else:
        os.symlink(folder, tmp_path / "link")
        folder = tmp_path / "link"
    before = everything(tmp_path)
    with pytest.raises(UsageError, match="not replaced"):
        check_replaceable(folder)
    assert everything(tmp_path) == before


def test_an_artifact_an_empty_folder_and_nothing_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (make_tiny_artifact(tmp_path / "tiny").path, tmp_path / "empty", tmp_path / "none"):
        check_replaceable(folder)


def test_an_old_folder_comes_back_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("x")
    rename = os.rename

    def refuse(source: Path, destination: Path) -> None:
        if (Path(source) / "new").exists():
            raise OSError(28, "No space left on device")
        rename(source, destination)

    monkeypatch.setattr(artifact_module.os, "rename", refuse)
    with pytest.raises(DataError, match="No space"), new_folder(tmp_path / "a", replace=True) as folder:
        (folder / "new").write_text("y")
    assert everything(tmp_path) == {"a/old": b"x"}
