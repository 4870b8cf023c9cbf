from __future__ import annotations

import json
import os
import pickle
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pocketvit.errors import DataError, PocketvitError, UsageError, VerificationError
from pocketvit.spec import artifact as artifact_module
from pocketvit.spec import golden as golden_module
from pocketvit.spec.artifact import (
    Artifact,
    file_entries,
    find_artifact,
    new_folder,
    pack,
    read_artifact,
    sha256,
    write_manifest,
)
from pocketvit.spec.golden import read_golden, write_golden
from tests.tiny import make_tiny_artifact


@pytest.fixture
def tiny(tmp_path: Path) -> Artifact:
    return make_tiny_artifact(tmp_path / "tiny", "classify", openvino=True)


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_found_as_folder_run_and_archive(tiny: Artifact, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    os.rename(tiny.path, run / "artifact")
    assert find_artifact(run) == run / "artifact"
    again = read_artifact(run / "artifact")
    unpacked = read_artifact(pack(again, tmp_path / "tiny.pvit"))
    assert unpacked.manifest == again.manifest
    assert {entry.path: sha256(unpacked.path / entry.path) for entry in unpacked.manifest.files} == {
        e.path: e.sha256 for e in again.manifest.files
    }
    assert find_artifact(tmp_path / "tiny.pvit") == unpacked.path  # the second time it lies in the cache


def test_nothing_there_names_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no artifact there") as near:
        find_artifact("denoise-foto")
    assert near.value.todo == "Did you mean denoise-photo?"
    with pytest.raises(UsageError, match="no artifact there") as caught:
        read_artifact(tmp_path / "none")
    assert "manifest.json" in caught.value.todo


def test_variants(tiny: Artifact) -> None:
    assert tiny.variant().path == "model.onnx"
    assert tiny.variant("openvino:bf16").companions == ["model.bin"]
    assert tiny.variant_bytes(tiny.variant("openvino:fp32")) == sum(
        (tiny.path / n).stat().st_size for n in ("model.xml", "model.bin")
    )
    with pytest.raises(UsageError, match="onnxruntime:int8") as caught:
        tiny.variant("onnxruntime:int8")
    assert "onnxruntime:fp32, openvino:fp32, openvino:bf16" in caught.value.todo


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(schema_version=7),
        lambda d: d.update(odd=1),
        lambda d: d.pop("variants"),
        lambda d: d["files"][0].update(path="../../etc/passwd"),
        lambda d: d["files"][0].update(path="/etc/passwd"),
        lambda d: d["variants"][0].update(path="sub/model.onnx"),
        lambda d: d["variants"][1].update(companions=["..\\model.bin"]),
        lambda d: d["preprocess"].update(std=[0, 1, 1]),
    ],
)
def test_a_bad_manifest_is_a_verification_error(tiny: Artifact, change) -> None:
    document = json.loads((tiny.path / "manifest.json").read_text())
    change(document)
    (tiny.path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(VerificationError, match=r"manifest\.json"):
        read_artifact(tiny.path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null"])
def test_a_manifest_that_is_no_document(tiny: Artifact, content: bytes) -> None:
    (tiny.path / "manifest.json").write_bytes(content)
    with pytest.raises(VerificationError):
        read_artifact(tiny.path)


def test_golden_round_trip(tiny: Artifact, tmp_path: Path) -> None:
    golden = read_golden(tiny)
    assert golden.preprocess == tiny.manifest.preprocess
    assert golden.inputs.shape == (8, 32, 32, 3)
    assert set(golden.outputs) == {"probs_coarse", "probs_fine"}
    assert len(golden.sources) == 2
    write_golden(tmp_path, golden)
    again = read_golden(Artifact(tmp_path, tiny.manifest))
    np.testing.assert_array_equal(again.inputs, golden.inputs)
    np.testing.assert_array_equal(again.sources[1], golden.sources[1])


def test_damaged_goldens(tiny: Artifact) -> None:
    path = tiny.path / "golden.npz"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PK\x03\x04nonsense", b"junk"):
        path.write_bytes(content)
        with pytest.raises(VerificationError, match=r"golden\.npz"):
            read_golden(tiny)
    path.unlink()
    with pytest.raises(VerificationError, match="cannot be read"):
        read_golden(tiny)


def test_goldens_that_lack_a_part_or_hold_pickles(tiny: Artifact) -> None:
    path = tiny.path / "golden.npz"
    with np.load(path) as data:
        arrays = dict(data)
    for key in ("inputs", "truth", "preprocess"):
        np.savez(path, **{k: v for k, v in arrays.items() if k != key})
        with pytest.raises(VerificationError):
            read_golden(tiny)
    np.savez(
        path, **(arrays | {"preprocess": np.array('{"size": [8, 8], "unknown": 1, "mean": [0,0,0], "std": [1,1,1]}')})
    )
    with pytest.raises(VerificationError):
        read_golden(tiny)
    np.savez(path, **(arrays | {"truth": np.array([{"a": 1}], dtype=object)}))
    with pytest.raises(VerificationError, match="cannot be read"):
        read_golden(tiny)


def _header(shape: str) -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "shape",
    [
        "(10**17,)",
        "(100000000000000000,)",
        "(4611686018427387904, 8)",
        "(100000000000000000000000,)",
        "(-5,)",
        "(8, 32, 32, 3)",
        "((",
        "'x'",
    ],
)
def test_goldens_whose_header_lies(tiny: Artifact, shape: str) -> None:
    path = tiny.path / "golden.npz"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    zipped(path, members | {"inputs.npy": _header(shape) + b"few bytes"})
    with pytest.raises(VerificationError, match="cannot be read"):
        read_golden(tiny)


def test_goldens_with_a_member_that_is_no_array(tiny: Artifact) -> None:
    path = tiny.path / "golden.npz"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    zipped(path, members | {"truth.npy": b"plain text"})
    with pytest.raises(VerificationError, match="no array"):
        read_golden(tiny)


def test_goldens_that_unpack_to_too_much(tiny: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden_module, "MAX_GOLDEN_BYTES", 10_000)
    with pytest.raises(VerificationError, match="more than goldens may hold"):
        read_golden(tiny)


def test_corrupted_bytes_in_goldens(tiny: Artifact) -> None:
    path = tiny.path / "golden.npz"
    whole, refused = path.read_bytes(), 0
    step = max(1, len(whole) // 60)
    for position in [*range(0, len(whole) - 300, step), *range(len(whole) - 300, len(whole))]:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            assert read_golden(tiny).inputs.dtype == np.uint8  # a byte that nobody reads, such as a date
        except VerificationError:
            refused += 1
    assert refused > 60


class Bomb:
    def __reduce__(self):
        return (os.makedirs, ("pickle-was-run",))


def test_nothing_is_unpickled(tiny: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tiny.path / "golden.npz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(VerificationError):
        read_golden(tiny)
    assert not Path("pickle-was-run").exists()


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "sub/evil.txt", "..\\evil.txt", ".hidden"])
def test_archives_may_not_leave_their_folder(tmp_path: Path, name: str) -> None:
    path = zipped(tmp_path / "a.pvit", {"manifest.json": b"{}", name: b"x"})
    with pytest.raises(VerificationError, match="would leave the folder") as caught:
        read_artifact(path)
    assert "Do not use" in caught.value.todo
    assert not list(tmp_path.rglob("evil.txt"))


def test_archives_may_not_hold_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCKETVIT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.pvit"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", "{}")
        link = zipfile.ZipInfo("model.onnx")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(VerificationError):
        read_artifact(path)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_symlink()]


def test_archives_that_are_too_large_are_refused_before_unpacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POCKETVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(artifact_module, "MAX_ARCHIVE_BYTES", 1_000_000)
    bomb = zipped(tmp_path / "bomb.pvit", {"manifest.json": b"{}", "zeros": bytes(5_000_000)})
    assert bomb.stat().st_size < 10_000
    with pytest.raises(VerificationError, match="more than an artifact may hold"):
        read_artifact(bomb)
    many = zipped(tmp_path / "many.pvit", {f"f{i}": b"" for i in range(101)})
    with pytest.raises(VerificationError, match="more than an artifact may hold"):
        read_artifact(many)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_archives_that_lie_about_their_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory says 10 bytes, the stream holds five million: unpacking stops there."""
    monkeypatch.setenv("POCKETVIT_CACHE", str(tmp_path / "cache"))
    path = zipped(tmp_path / "lie.pvit", {"manifest.json": b"{}", "zeros": bytes(5_000_000)})
    data = path.read_bytes()
    path.write_bytes(data.replace((5_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(VerificationError):
        read_artifact(path)
    assert sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*") if p.is_file()) < 1_000_000


@pytest.mark.parametrize("cut", [0, 10, 0.5, 0.9])
def test_truncated_archives(tiny: Artifact, tmp_path: Path, cut: float) -> None:
    whole = pack(tiny, tmp_path / "t.pvit").read_bytes()
    (tmp_path / "t.pvit").write_bytes(whole[: int(cut * len(whole)) if cut < 1 else int(cut)])
    with pytest.raises(VerificationError, match="damaged"):
        read_artifact(tmp_path / "t.pvit")


def test_an_archive_whose_content_was_flipped(tiny: Artifact, tmp_path: Path) -> None:
    content = bytearray(pack(tiny, tmp_path / "t.pvit").read_bytes())
    with zipfile.ZipFile(tmp_path / "t.pvit") as archive:
        entry = archive.getinfo("golden.npz")
    content[entry.header_offset + 30 + len("golden.npz") + entry.compress_size // 2] ^= 0xFF
    (tmp_path / "t.pvit").write_bytes(bytes(content))
    with pytest.raises(PocketvitError) as caught:
        read_artifact(tmp_path / "t.pvit")
    assert caught.value.exit_code in (3, 4)


def test_any_corrupted_byte_ends_in_an_error_of_ours(tmp_path: Path) -> None:
    """Every byte of a small archive, in two ways each, ends in exit code 3 or 4 and never in a traceback."""
    document = {"manifest.json": b'{"schema_version": 1}', "model.onnx": bytes(20)}
    whole = zipped(tmp_path / "whole.pvit", document).read_bytes()
    codes = set()
    for position in range(len(whole)):
        for flip in (0x01, 0xFF):
            path = tmp_path / "c.pvit"
            path.write_bytes(whole[:position] + bytes([whole[position] ^ flip]) + whole[position + 1 :])
            with pytest.raises(PocketvitError) as caught:  # that manifest lacks fields, so nothing gets through
                read_artifact(path)
            codes.add(caught.value.exit_code)
    assert codes <= {3, 4}
    assert 4 in codes


def test_an_archive_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(artifact_module, "sha256", refuse)
    with pytest.raises(VerificationError, match="Permission denied"):
        read_artifact(zipped(tmp_path / "a.pvit", {"manifest.json": b"{}"}))


def test_a_manifest_that_cannot_be_read(tiny: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(VerificationError, match=r"manifest\.json: cannot be read \(Permission denied\)"):
        read_artifact(tiny.path)


def test_an_archive_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"no manifest\.json"):
        read_artifact(zipped(tmp_path / "a.pvit", {"model.onnx": b"x"}))


def test_new_folder_is_all_or_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "a") as folder:
            (folder / "half").write_text("x")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "deep" / "a") as folder:
        (folder / "whole").write_text("x")
    assert [p.name for p in (tmp_path / "deep" / "a").iterdir()] == ["whole"]
    with pytest.raises(UsageError, match="already exists"), new_folder(tmp_path / "deep" / "a"):
        pass
    with new_folder(tmp_path / "deep" / "a", replace=True) as folder:
        (folder / "new").write_text("y")
    assert [p.name for p in (tmp_path / "deep" / "a").iterdir()] == ["new"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a"]


def test_a_failed_replacement_keeps_the_old_folder(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as folder:
        (folder / "old").write_text("x")
    with pytest.raises(RuntimeError), new_folder(tmp_path / "a", replace=True):
        raise RuntimeError
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["old"]


def test_new_folder_sweeps_what_a_killed_process_left(tmp_path: Path) -> None:
    """Only folders, only of the same destination with a temporary name, only older than an hour."""
    names = {
        "old": ".a.x1y2z3_4",
        "fresh": ".a.freshone",
        "other": ".b.x1y2z3_4",
        "named": ".a.config",
        "file": ".a.afile123",
    }
    for key, name in names.items():
        if key == "file":
            (tmp_path / name).write_text("x")
        else:
            (tmp_path / name).mkdir()
            (tmp_path / name / "half").write_text("x")
        if key != "fresh":
            os.utime(tmp_path / name, (1e9, 1e9))
    with new_folder(tmp_path / "a") as folder:
        (folder / "whole").write_text("x")
    assert {p.name for p in tmp_path.iterdir()} == {"a", *names.values()} - {names["old"]}


def test_new_folder_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be created"), new_folder(tmp_path / "file" / "a"):
        pass


def test_file_entries_and_manifest(tiny: Artifact) -> None:
    entries = {entry.path: entry for entry in file_entries(tiny.path)}
    assert set(entries) == {"card.md", "golden.npz", "model.onnx", "model.xml", "model.bin"}
    assert entries["card.md"].bytes == 7
    write_manifest(tiny.path, tiny.manifest.model_copy(update={"version": "0.2.0"}))
    assert read_artifact(tiny.path).manifest.version == "0.2.0"
    assert not [p for p in tiny.path.iterdir() if "partial" in p.name]


def test_sha256_of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(("made", "next_step"), [("best", "compress"), ("trials", "fit")])
def test_a_run_without_an_artifact_says_how_to_make_one(made: str, next_step: str, tmp_path: Path) -> None:
    run, told = tmp_path / "run", []
    (run / made).mkdir(parents=True)
    for _ in range(2):
        with pytest.raises(UsageError, match="a run without an artifact") as caught:
            find_artifact(run)
        told.append(caught.value.todo)
        (run / "recipe.yaml").write_text("task: restore\n")
    assert all(f"pocketvit export {run}" in todo for todo in told)
    assert [f"pocketvit {next_step} {run / 'recipe.yaml'} " in todo for todo in told] == [False, True]
