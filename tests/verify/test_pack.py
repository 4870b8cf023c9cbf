from __future__ import annotations

import os
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

import pocketvit
from pocketvit.cli import main
from pocketvit.errors import UsageError, VerificationError
from pocketvit.spec import artifact as artifact_module
from pocketvit.spec.artifact import Artifact
from tests.tiny import coloured, make_tiny_artifact


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return make_tiny_artifact(tmp_path / "tiny", "classify", openvino=True)


def test_one_file_that_is_used_like_the_folder(artifact: Artifact, tmp_path: Path) -> None:
    report = pocketvit.pack(str(artifact.path), out=str(tmp_path / "x.pvit"))
    assert report.path == tmp_path / "x.pvit"
    assert (report.name, report.version, report.files) == ("tiny-classify", "0.1.0", 6)
    with zipfile.ZipFile(report.path) as archive:
        assert archive.namelist()[0] == "manifest.json"
        assert len(archive.namelist()) == report.files
    picture = coloured(2)
    mine, theirs = (pocketvit.load(path)(picture).levels[-1].scores for path in (report.path, artifact.path))
    np.testing.assert_array_equal(mine, theirs)
    assert str(report.path) in report.render()


def test_the_same_artifact_gives_the_same_bytes(artifact: Artifact, tmp_path: Path) -> None:
    first = pocketvit.pack(str(artifact.path), out=str(tmp_path / "a.pvit"))
    for path in artifact.path.iterdir():
        os.utime(path, (time.time() + 9999, 1e9))
    again = pocketvit.pack(str(artifact.path), out=str(tmp_path / "b.pvit"))
    third = pocketvit.pack(str(tmp_path / "a.pvit"), out=str(tmp_path / "c.pvit"))
    assert first.path.read_bytes() == again.path.read_bytes() == third.path.read_bytes()
    assert first.sha256 == again.sha256


@pytest.mark.parametrize("damage", ["changed", "missing", "unlisted"])
def test_a_damaged_artifact_is_not_packed(artifact: Artifact, tmp_path: Path, damage: str) -> None:
    if damage == "changed":
        (artifact.path / "card.md").write_text("# tinY\n")
    elif damage == "missing":
        (artifact.path / "golden.npz").unlink()
    else:
        entries = [entry for entry in artifact.manifest.files if entry.path != "model.bin"]
        artifact_module.write_manifest(artifact.path, artifact.manifest.model_copy(update={"files": entries}))
    with pytest.raises(VerificationError):
        pocketvit.pack(str(artifact.path), out=str(tmp_path / "x.pvit"))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_what_is_there_stays_unless_told(
    artifact: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.pvit"
    out.write_text("mine")
    assert main(["pack", str(artifact.path), "--out", str(out)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main(["pack", str(artifact.path), "--out", str(out), "--overwrite"]) == 0
    assert zipfile.is_zipfile(out)


def test_names(artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(pocketvit.pack("tiny").path) == "tiny-classify-0.1.0.pvit"
    (tmp_path / "out").mkdir()
    assert pocketvit.pack("tiny", out="out").path == Path("out/tiny-classify-0.1.0.pvit")
    with pytest.raises(UsageError, match=r"does not end in \.pvit"):
        pocketvit.pack("tiny", out="x.zip")


def test_what_does_not_read_back_is_no_file(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = zipfile.ZipFile.writestr

    def spoil(self: zipfile.ZipFile, member: zipfile.ZipInfo, content: bytes) -> None:
        real(self, member, content[:-1] if member.filename == "model.onnx" else content)

    monkeypatch.setattr(zipfile.ZipFile, "writestr", spoil)
    with pytest.raises(VerificationError, match="does not read back"):
        pocketvit.pack(str(artifact.path), out=str(tmp_path / "x.pvit"))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
