"""What commands are told to write never takes the place of something that is not their own."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pocketvit.data.doctor import doctor
from pocketvit.errors import DataError, PocketvitError, UsageError
from pocketvit.files import write_text
from pocketvit.report.command import report
from pocketvit.runtimes.model import load
from pocketvit.serve.predict import predict
from pocketvit.spec.images import write_image
from pocketvit.verify.evaluate import eval as evaluate
from tests.tiny import make_tiny_artifact, photo


def test_pipes_and_folders_are_not_renamed_away(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "folder", "link"):
        with pytest.raises(DataError, match=f"{name}: cannot be written .it is no regular file"):
            write_text(tmp_path / name, "x")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["folder", "link", "pipe"]
    with pytest.raises(DataError, match="NUL"):
        write_text(tmp_path / "a\0b", "x")


def test_reports_replace_reports_and_nothing_else(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "art")
    manifest = (artifact.path / "manifest.json").read_bytes()
    write_image(tmp_path / "in" / "a.png", photo(40, 50))
    picture, page = (tmp_path / "in" / "a.png").read_bytes(), tmp_path / "mine.html"
    page.write_text("<html>my own page</html>")
    for out in (tmp_path / "in" / "a.png", page, artifact.path / "manifest.json"):
        with pytest.raises(UsageError, match=f"out .*{out.name}"):
            report(str(artifact.path), out=str(out))
    with pytest.raises(UsageError, match=r"manifest\.json is there already"):
        doctor(str(tmp_path / "in"), out=str(artifact.path / "manifest.json"))
    assert (artifact.path / "manifest.json").read_bytes() == manifest
    assert (tmp_path / "in" / "a.png").read_bytes() == picture
    assert page.read_text() == "<html>my own page</html>"
    for _ in range(2):  # the second replaces the first
        report(str(artifact.path), out=str(tmp_path / "new.html"))
        doctor(str(tmp_path / "in"), out=str(tmp_path / "new.json"))


@pytest.mark.parametrize("task", ["restore", "classify"])
def test_a_file_that_is_not_written_is_no_folder_either(tmp_path: Path, task: str) -> None:
    artifact = make_tiny_artifact(tmp_path / "art", task)
    write_image(tmp_path / "a.png", photo(40, 50))
    for name in ("a.gif", "a.txt", "a.heic", "a.jsonl"):
        with pytest.raises(PocketvitError, match=rf"out .*{name}") as error:
            predict(str(artifact.path), [str(tmp_path / "a.png")], out=str(tmp_path / name))
        assert error.value.exit_code == 2
        assert not (tmp_path / name).exists()
    (tmp_path / "a.txt").mkdir()  # one that the user made is one
    predict(str(artifact.path), [str(tmp_path / "a.png")], out=str(tmp_path / "a.txt"))


def test_names_may_be_text_paths_or_bytes(tmp_path: Path) -> None:
    artifact, file = str(make_tiny_artifact(tmp_path / "art", "restore").path), tmp_path / "in" / "a.png"
    write_image(file, photo(40, 50))
    for images in ([str(file)], str(file), file, [file], os.fsencode(file), iter([file])):
        report = predict(artifact, images, out=str(tmp_path / "o"))  # type: ignore[arg-type]
        assert [row.image for row in report.predictions] == [file]
    for wrong in ([photo(4, 4)], 5, [None]):
        with pytest.raises(UsageError, match="named by text or paths"):
            predict(artifact, wrong)  # type: ignore[arg-type]
    assert evaluate(artifact, file.parent).count == 3  # type: ignore[arg-type]

    assert doctor(str(file.parent), others=str(file.parent)).data == (str(file.parent),)
    with pytest.raises(UsageError, match="target is a int"):
        load(artifact, 5)  # type: ignore[arg-type]
