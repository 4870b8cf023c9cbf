"""Archives of data sets: hostile and damaged ones are refused before anything is written, and nothing is left."""

from __future__ import annotations

import io
import random
import stat
import zipfile
from pathlib import Path

import pytest

from pocketvit.data.archives import MAX_RATIO, faults, root_of, unpacked
from pocketvit.errors import DataError

from .server import archive, sidd

HOLDS = ("Data",)


def unpack(content: bytes, tmp_path: Path, holds: tuple[str, ...] = HOLDS) -> list[str]:
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    told = []
    with unpacked([path], holds, tmp_path / "set", told.append):
        pass
    files = sorted(file for file in (tmp_path / "set").rglob("*") if file.is_file())
    assert sum(told) == sum(file.stat().st_size for file in files)
    return [file.relative_to(tmp_path / "set").as_posix() for file in files]


def test_what_lies_above_and_beside_the_root_is_left_out(tmp_path: Path) -> None:
    found = unpack(sidd(1), tmp_path)
    scene = "Data/0000_001_S6_00100_00060_3200_L"
    assert found == [f"{scene}/GT_SRGB_010.PNG", f"{scene}/NOISY_SRGB_010.PNG", "Scene_Instances.txt"]
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "set"}


@pytest.mark.parametrize(
    ("names", "holds", "root"),
    [
        (["Data/a/b.png"], ("Data",), ""),
        (["x/Data/a.png", "__MACOSX/y/Data/a.png"], ("Data",), "x/"),
        (["x/y/train/a.png", "x/y/test/a.png", "x/train/z"], ("train", "test"), "x/y/"),
        (["x/train/a.png", "y/test/a.png"], ("train", "test"), None),
        (["Data"], ("Data",), None),
    ],
)
def test_the_root_is_where_the_folders_are(names: list[str], holds: tuple[str, ...], root: str | None) -> None:
    assert root_of(names, holds) == root


def member(name: str, mode: int = 0, flags: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.filename = name  # as a hostile archive has it
    info.external_attr, info.flag_bits = mode << 16, flags
    return info


@pytest.mark.parametrize(
    ("name", "mode", "flags", "fault"),
    [
        ("../x", 0, 0, "leave the folder"),
        ("Data/../../x", 0, 0, "leave the folder"),
        ("/etc/x", 0, 0, "leave the folder"),
        ("C:/x", 0, 0, "leave the folder"),
        ("Data\\..\\x", 0, 0, "leave the folder"),
        ("Data/./x", 0, 0, "leave the folder"),
        ("Data//x", 0, 0, "leave the folder"),
        ("", 0, 0, "leave the folder"),
        ("Data/a\nb", 0, 0, "leave the folder"),
        ("/".join(["a"] * 17), 0, 0, "leave the folder"),
        ("Data/" + "n" * 256, 0, 0, "leave the folder"),
        ("Data/link", stat.S_IFLNK | 0o777, 0, "link or a device"),
        ("Data/device", stat.S_IFBLK, 0, "link or a device"),
        ("Data/pipe", stat.S_IFIFO, 0, "link or a device"),
        ("Data/secret", 0, 1, "encrypted"),
        ("data/A.PNG", 0, 0, "there twice"),
        ("Data/a.png/b", 0, 0, "there twice"),
        ("Data", 0, 0, "there twice"),
    ],
)
def test_members_that_none_may_have(name: str, mode: int, flags: int, fault: str) -> None:
    good = [member("Data/"), member("Data/", stat.S_IFDIR), member("Data/a.png", stat.S_IFREG | 0o644)]
    assert list(faults(good, 1000)) == []
    assert fault in next(faults([*good, member(name, mode, flags)], 1000))


def test_bombs_are_refused_before_a_byte_is_written(tmp_path: Path) -> None:
    bomb = archive({"Data/a.png": bytes(12_000_000)}, compress_type=zipfile.ZIP_DEFLATED)
    assert len(bomb) * MAX_RATIO < 1_000_000
    with pytest.raises(DataError, match=r"would unpack to 12 MB, \d+ times its size"):
        unpack(bomb, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    many = [member(str(i)) for i in range(200_001)]
    assert "200001 members" in next(faults(many, 10**9))


def test_a_link_in_a_real_archive_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr(member("Data/a", stat.S_IFLNK | 0o777), "/etc/passwd")
        made.writestr("Data/a/b.png", "x")
    with pytest.raises(DataError, match="link or a device"):
        unpack(file.getvalue(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_member_that_lies_of_its_size_is_not_written_beyond_it(tmp_path: Path) -> None:
    content = bytearray(archive({"Data/a.png": bytes(5_000_000)}, compress_type=zipfile.ZIP_DEFLATED))
    central = content.index(b"PK\x01\x02")
    content[central + 24 : central + 28] = (1000).to_bytes(4, "little")
    with pytest.raises(DataError, match=r"a\.zip: is damaged"):
        unpack(bytes(content), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_damaged_archives_leave_nothing(tmp_path: Path) -> None:
    """Cut at many places and changed at many places: a DataError that names the archive, or the whole of it."""
    content, rng = sidd(1, side=12), random.Random(0)
    cases = [content[: len(content) * i // 12] for i in range(12)]
    for _ in range(60):
        changed = bytearray(content)
        for _ in range(rng.choice((1, 3, 20))):
            changed[rng.randrange(len(changed))] ^= rng.randrange(1, 256)
        cases.append(bytes(changed))
    refused = 0
    for number, case in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            unpack(case, folder)
        except DataError as error:
            refused += str(folder) in error.what and [path.name for path in folder.iterdir()] == ["a.zip"]
        else:
            refused -= number < 12  # of those that are cut none is whole
    assert refused > 40


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no folder with train/ and test/"):
        unpack(sidd(1), tmp_path, ("train", "test"))


def test_space_is_asked_for_before_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("pocketvit.data.archives.need_space", lambda folder, size: asked.append((folder, size)))
    content = archive({"Data/a.png": bytes(5000), "else/b": bytes(70)})
    assert unpack(content, tmp_path) == ["Data/a.png", "else/b"]
    assert asked == [(tmp_path, 5070)]
