"""``.pvit`` files of somebody else, and machines without a place to unpack them."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

from pocketvit.errors import DataError, UsageError, VerificationError
from pocketvit.spec.artifact import Artifact, file_entries, pack, read_artifact, write_manifest
from tests.tiny import make_tiny_artifact


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POCKETVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(tmp_path: Path) -> Artifact:
    return make_tiny_artifact(tmp_path / "tiny", "classify")


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def refused(path: Path, cache: Path, says: str) -> None:
    with pytest.raises(VerificationError, match=says):
        read_artifact(path)
    assert not [file for file in cache.rglob("*") if file.is_file()]


def test_members_are_held_against_the_manifest_before_anything_is_unpacked(
    tiny: Artifact, tmp_path: Path, cache: Path
) -> None:
    whole = members(pack(tiny, tmp_path / "a.pvit"))
    path = tmp_path / "b.pvit"
    refused(write(path, whole | {"more": b"x"}), cache, "not those of its manifest .more.")
    refused(write(path, {k: v for k, v in whole.items() if k != "card.md"}), cache, "manifest .card.md.")
    refused(write(path, whole | {"card.md": b"longer than before"}), cache, "manifest .card.md.")
    refused(write(path, whole | {"manifest.json": b"{}"}), cache, r"manifest\.json: name: Field required")
    document = json.loads(whole["manifest.json"]) | {"task": "paint"}
    refused(write(path, whole | {"manifest.json": json.dumps(document).encode()}), cache, "unknown task")
    assert read_artifact(write(path, whole)).manifest == tiny.manifest


def test_what_is_not_the_listed_content_does_not_stay_in_the_cache(tiny: Artifact, tmp_path: Path, cache: Path) -> None:
    whole = members(pack(tiny, tmp_path / "a.pvit"))
    other = bytes(len(whole["model.onnx"]))
    refused(write(tmp_path / "b.pvit", whole | {"model.onnx": other}), cache, "model.onnx was changed")


def test_a_member_twice(tiny: Artifact, tmp_path: Path, cache: Path) -> None:
    path = pack(tiny, tmp_path / "a.pvit")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("card.md", b"# tiny\n")
    refused(path, cache, "a name twice")


def test_a_small_archive_that_unpacks_to_much_although_its_manifest_says_so(
    tiny: Artifact, tmp_path: Path, cache: Path
) -> None:
    (tiny.path / "zeros").write_bytes(bytes(30_000_000))
    write_manifest(tiny.path, tiny.manifest.model_copy(update={"files": file_entries(tiny.path)}))
    path = pack(read_artifact(tiny.path), tmp_path / "bomb.pvit")
    assert path.stat().st_size < 100_000
    refused(path, cache, "more than an artifact may hold")


@pytest.mark.parametrize("home", ["file", "none", "long"])
def test_without_a_place_for_the_cache_the_message_says_what_to_set(
    tiny: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    path = pack(tiny, tmp_path / "a.pvit")
    monkeypatch.delenv("POCKETVIT_CACHE")
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("HOME", str(tmp_path / ("file" if home == "file" else "x" * 300)))

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    if home == "none":
        monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(DataError) as caught:
        read_artifact(path)
    assert "damaged" not in caught.value.what
    assert "Set POCKETVIT_CACHE to a folder that can be written" in caught.value.todo
    monkeypatch.setenv("POCKETVIT_CACHE", str(tmp_path / "named"))
    assert read_artifact(path).manifest == tiny.manifest
    assert os.listdir(tmp_path / "named") == ["unpacked"]


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "x" * 300 + ".pvit"])
def test_names_that_no_file_can_have(name: str) -> None:
    with pytest.raises(Exception, match="no artifact there") as caught:
        read_artifact(name)
    assert len(str(caught.value)) < 400


def test_a_damaged_cache_is_unpacked_again(tiny: Artifact, tmp_path: Path, cache: Path) -> None:
    archive = pack(tiny, tmp_path / "A.PVIT")  # on some systems names are in capitals
    folder = read_artifact(archive).path
    for name, content in (("model.onnx", b"x"), ("golden.npz", None), ("manifest.json", b"{}")):
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
        again = read_artifact(archive)
        assert (again.path / name).read_bytes() == (tiny.path / name).read_bytes()


@pytest.mark.parametrize("what", [None, 5, ["a"]])
def test_what_is_no_name_is_a_usage_error(what: object) -> None:
    with pytest.raises(UsageError, match=f"a {type(what).__name__} is no artifact"):
        read_artifact(what)  # type: ignore[arg-type]
