"""``pocketvit data``: list and get, against local servers, folders and archives that are not what they should be."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import pocketvit
from pocketvit.cli import main
from pocketvit.data import acquire
from pocketvit.data.acquire import AcquireReport, data
from pocketvit.data.collections import load_splits
from pocketvit.data.sources import SOURCES, Source, SourceFile
from pocketvit.errors import DataError, UsageError
from pocketvit.spec.recipe import load_recipe

from .server import Server, gopro, serve, serving, sidd, status

SIDD, GOPRO = sidd(), gopro()


def source(layout: str, server: Server, content: bytes, **changes: object) -> Source:
    """A row of the table: a copy of the real one, at the local server."""
    real = SOURCES["sidd-small" if layout == "sidd" else layout]
    checksums = (f"md5:{hashlib.md5(content).hexdigest()}", f"sha256:{hashlib.sha256(content).hexdigest()}")
    file = SourceFile(f"{server.url}/{layout}.zip", f"{layout}.zip", len(content), checksums)
    pairs = (("train", 2),) if layout == "sidd" else (("train", 2), ("test", 1))
    return replace(real, files=(replace(file, **changes),), pairs=pairs)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(SIDD) as made:
        monkeypatch.setattr(acquire, "SOURCES", {"tiny": source("sidd", made, SIDD)})
        yield made


def get(tmp_path: Path, *names: str, **options: object) -> AcquireReport:
    report = data("get", names or ("tiny",), to=str(tmp_path / "to"), **options)  # type: ignore[arg-type]
    assert isinstance(report, AcquireReport)
    return report


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "to").iterdir())


def test_the_table_holds_what_a_fetch_needs() -> None:
    assert set(SOURCES) == {"sidd-small", "sidd-medium", "gopro"}
    lengths = {"md5": 32, "sha1": 40, "sha256": 64}
    files = [file for each in SOURCES.values() for file in each.files]
    assert len({file.name for file in files}) == len(files)
    for each in SOURCES.values():
        assert each.home.startswith("https://")
        assert each.layout in {"sidd", "gopro"}
    for file in files:
        assert file.url.endswith(f"/{file.name}")
        for check in file.checksums:
            algorithm, _, value = check.partition(":")
            assert len(bytes.fromhex(value)) * 2 == lengths[algorithm]
        assert file.url.startswith("https://") or file.checksums, "without TLS only a checksum proves it"


def test_list_shows_size_licence_address_and_checksums(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    out = capsys.readouterr().out
    for name, each in SOURCES.items():
        for part in (name, f"{each.gigabytes:g} GB", each.licence, each.home, each.files[0].url):
            assert part in out
    assert "md5, sha1" in out
    assert main(["data", "list", "gopro", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["gopro"]
    assert document["gopro"]["files"][0]["checksums"][0].startswith("sha256:")


def test_a_data_set_is_fetched_proven_unpacked_and_read(server: Server, tmp_path: Path) -> None:
    (got,) = get(tmp_path).sets
    assert got.pairs == {"train": 2}
    assert got.fetched
    assert got.archives["sidd.zip"]["checked"] == "as published (md5, sha256)"
    assert got.archives["sidd.zip"]["from"] == f"{server.url}/sidd.zip"
    assert names(tmp_path) == ["sidd.zip.sha256", "tiny"]
    assert (tmp_path / "to" / "sidd.zip.sha256").read_text() == f"{hashlib.sha256(SIDD).hexdigest()}  sidd.zip\n"
    recipe = load_recipe(yaml.safe_load(got.recipe))
    splits = load_splits(recipe.data, recipe.task.name)
    assert len(splits.train.items) + len(splits.val.items) == 2
    assert recipe.licence_data == "MIT"
    assert splits.notes == (f"{got.folder}: 1 file was not looked at: 1 .txt.",)


def test_gopro_keeps_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(GOPRO) as server:
        monkeypatch.setattr(acquire, "SOURCES", {"gopro": source("gopro", server, GOPRO)})
        (got,) = get(tmp_path, "gopro").sets
    assert got.pairs == {"train": 2, "test": 1}
    recipe = load_recipe(yaml.safe_load(got.recipe))
    splits = load_splits(recipe.data, recipe.task.name)
    assert splits.test is not None
    assert [len(part.items) for part in (splits.train, splits.val, splits.test)] == [1, 1, 1]


def test_nothing_is_fetched_twice(server: Server, tmp_path: Path) -> None:
    first = get(tmp_path)
    (again,) = get(tmp_path).sets
    assert len(server.asked) == 1
    assert not again.fetched
    assert replace(again, fetched=True) == first.sets[0]
    assert "was there already" in AcquireReport((again,)).render()


def test_an_archive_that_is_there_is_taken_and_kept_where_asked(server: Server, tmp_path: Path) -> None:
    get(tmp_path, keep_archive=True)
    assert names(tmp_path) == ["sidd.zip", "sidd.zip.sha256", "tiny"]
    os.rename(tmp_path / "to" / "tiny", tmp_path / "moved")
    (got,) = get(tmp_path).sets
    assert len(server.asked) == 1
    assert got.notes == (f"{tmp_path / 'to' / 'sidd.zip'} was there and stays.",)
    assert names(tmp_path) == ["sidd.zip", "sidd.zip.sha256", "tiny"]


def test_several_sets_at_once_and_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(GOPRO) as second, serving(SIDD) as first, serving(b"", status(404)) as third:
        table = {"one": source("sidd", first, SIDD), "two": source("gopro", second, GOPRO)}
        lost = replace(source("sidd", third, SIDD, name="lost.zip"))
        monkeypatch.setattr(acquire, "SOURCES", table | {"lost": lost})
        assert main(["data", "get", "lost", "two", "one", "one", "--to", str(tmp_path / "to")]) == 3
        assert "sidd.zip: the server answers 404" in capsys.readouterr().err
        assert set(names(tmp_path)) >= {"one", "two"}
        assert main(["data", "get", "one", "two", "--to", str(tmp_path / "to"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {name: each["pairs"] for name, each in document.items()} == {
        "one": {"train": 2},
        "two": {"train": 2, "test": 1},
    }
    assert document["one"]["recipe"]["data"]["layout"] == "sidd"


def test_another_archive_than_the_published_one_is_kept_and_named(server: Server, tmp_path: Path) -> None:
    other = bytearray(SIDD)
    other[100] ^= 1
    server.content = bytes(other)
    with pytest.raises(DataError, match=r"sidd\.zip: its md5 is .* is published") as caught:
        get(tmp_path)
    archive = tmp_path / "to" / "sidd.zip"
    assert archive.read_bytes() == other
    assert f"Delete {archive}" in caught.value.todo
    assert "--no_checksum" in caught.value.todo
    assert "tiny" not in names(tmp_path)
    archive.unlink()
    server.content = SIDD
    assert get(tmp_path).sets[0].fetched


def test_a_mirror_has_the_same_names_and_its_own_packing_is_taken_only_when_asked(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = sidd(3, above="")
    with serving(packed) as mirror:
        url = f"{mirror.url}/deep/"
        with pytest.raises(DataError, match=r"/deep/sidd\.zip: has \d+ bytes, but \d+ are published"):
            get(tmp_path, from_=url)
        (got,) = get(tmp_path, from_=url, checksum=False).sets
        assert main(["data", "get", "tiny", "--to", str(tmp_path / "b"), "--from", url, "--no_checksum"]) == 0
        assert main(["data", "get", "tiny", "--to", str(tmp_path / "c"), f"--from={url}sidd.zip", "--no-checksum"]) == 0
    assert server.asked == []
    assert {each["path"] for each in mirror.asked} == {"/deep/sidd.zip"}
    assert got.pairs == {"train": 3}
    assert "not held against what is published" in got.archives["sidd.zip"]["checked"]
    assert "2 train pairs are published, 3 are there" in " ".join(got.notes)
    assert "in a recipe:" in capsys.readouterr().out


def test_archives_fetched_by_hand_are_held_against_the_checksum_and_left_alone(server: Server, tmp_path: Path) -> None:
    hand = tmp_path / "hand"
    hand.mkdir()
    with pytest.raises(DataError, match=r"hand: holds no sidd\.zip"):
        get(tmp_path, from_=str(hand))
    (hand / "sidd.zip").write_bytes(SIDD[:-1])
    with pytest.raises(DataError, match=rf"sidd\.zip: has {len(SIDD) - 1} bytes, but {len(SIDD)} are published"):
        get(tmp_path, from_=str(hand))
    (hand / "sidd.zip").write_bytes(SIDD)
    assert get(tmp_path, from_=str(hand)).sets[0].archives["sidd.zip"]["from"] == str(hand / "sidd.zip")
    data("get", ["tiny"], to=str(tmp_path / "file"), from_=str(hand / "sidd.zip"))
    data("get", ["tiny"], to=str(hand), from_=str(hand / "sidd.zip"))
    assert (hand / "sidd.zip").read_bytes() == SIDD
    assert server.asked == []


def test_where_no_checksum_is_published_a_second_download_is_held_against_the_first(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = source("sidd", server, SIDD, checksums=(), bytes=None)
    monkeypatch.setattr(acquire, "SOURCES", {"tiny": bare})
    checked = get(tmp_path).sets[0].archives["sidd.zip"]["checked"]
    assert checked == "no checksum is published; its sha256 is recorded for the next time"
    os.rename(tmp_path / "to" / "tiny", tmp_path / "first")
    assert get(tmp_path).sets[0].archives["sidd.zip"]["checked"].endswith("that of before")
    os.rename(tmp_path / "to" / "tiny", tmp_path / "second")
    server.content = sidd(3)
    with pytest.raises(DataError, match=r"its sha256 is .* was fetched before") as caught:
        get(tmp_path)
    assert "sidd.zip.sha256" in caught.value.todo


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (SIDD[: len(SIDD) // 2], "is damaged or no zip archive"),
        (sidd(1).replace(b"GT_SRGB", b"XX_SRGB"), "holds no SIDD scene"),
        (GOPRO, "holds no folder with Data/"),
    ],
)
def test_an_archive_that_is_no_use_leaves_no_data_set(
    content: bytes, what: str, server: Server, tmp_path: Path
) -> None:
    server.content = content
    with pytest.raises(DataError, match=what) as caught:
        get(tmp_path, checksum=False)
    assert str(tmp_path / "to" / "sidd.zip") in caught.value.what
    assert ".tiny." not in caught.value.what
    assert names(tmp_path) == ["sidd.zip", "sidd.zip.sha256"]


def test_what_is_not_ours_is_not_touched(server: Server, tmp_path: Path) -> None:
    mine = tmp_path / "to" / "tiny" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("x")
    with pytest.raises(UsageError, match="was not made by this command"):
        get(tmp_path)
    assert mine.read_text() == "x"
    assert server.asked == []


def test_what_a_reader_leaves_out_is_named_where_it_is(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = sidd(3).replace(b"0001_001_S6_00100_00060_3200_L/NOISY_", b"0001_001_S6_00100_00060_3200_L/OTHER_")
    server.content = server.content.replace(
        b"0002_001_S6_00100_00060_3200_L/GT_", b"0002_001_S6_00100_00060_3200_L/NO_"
    )
    (got,) = get(tmp_path, checksum=False).sets
    assert got.pairs == {"train": 1}
    assert "2 scene folders without a pair are left out" in got.notes[0]
    assert not any(".tiny." in note for note in got.notes)
    assert not any(".tiny." in text for text in (got.folder, got.recipe))


def test_a_data_set_that_lost_its_photos_is_said(server: Server, tmp_path: Path) -> None:
    get(tmp_path)
    for path in (tmp_path / "to" / "tiny" / "Data").rglob("*.PNG"):
        path.unlink()
    with pytest.raises(DataError, match="holds no SIDD scene") as caught:
        get(tmp_path)
    assert "Delete" in caught.value.todo


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["fetch"], "data fetch is unknown."),
        (["get"], "data get needs a data set."),
        (["get", "gopro"], "data get needs --to."),
        (["get", "gopro", "--to", " "], "data get needs --to."),
        (["get", "goprp", "--to", "x"], "there is no data set 'goprp' to fetch."),
        (["list", "sid"], "there is no data set 'sid' to fetch."),
        (["get", "gopro", "--to", "x", "--connections", "5"], "--connections must be 1 to 4, not 5."),
        (["get", "gopro", "--to", "x", "--timeout_s", "0"], "--retries must be 0 to 100"),
        (["get", "gopro", "--to", "x", "--from", "ftp://a/b"], "--from ftp://a/b: is no address and no folder."),
        (["get", "gopro", "--to", "x", "--from", "nowhere"], "--from nowhere: is no address and no folder."),
    ],
)
def test_wrong_words(
    args: list[str], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", *args]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith(what)


def test_it_is_a_function_of_python_too() -> None:
    assert pocketvit.data("list").to_dict()["gopro"]["licence"] == "CC-BY-4.0"


RUN = """
import sys
from dataclasses import replace
from pocketvit.cli import main
from pocketvit.data import acquire
real = acquire.SOURCES["sidd-small"]
file = replace(real.files[0], url=sys.argv[1], name="sidd.zip", bytes=None, checksums=())
acquire.SOURCES = {"tiny": replace(real, files=(file,), pairs=(("train", 2),))}
sys.exit(main(["data", "get", "tiny", "--to", sys.argv[2]]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)], ids=["kill", "interrupt"])
def test_a_process_that_ends_in_the_middle_is_gone_on_with(
    number: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = sidd(2, side=200)
    with serving(content, serve(chunk=4096, pause=0.03)) as server:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", RUN, f"{server.url}/sidd.zip", str(tmp_path / "to")]
        process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores it
        )
        part, until = tmp_path / "to" / "sidd.zip.part", time.monotonic() + 120
        while not (part.exists() and part.stat().st_size > 20_000):
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == code
        there = part.stat().st_size
        assert 20_000 < there < len(content)
        assert names(tmp_path) == ["sidd.zip.part", "sidd.zip.part.json"]
        server.plan = [serve()]
        monkeypatch.setattr(acquire, "SOURCES", {"tiny": source("sidd", server, content)})
        assert get(tmp_path).sets[0].pairs == {"train": 2}
    assert server.asked[-1]["Range"] == f"bytes={there}-"
    assert names(tmp_path) == ["sidd.zip.sha256", "tiny"]
    if number == signal.SIGINT:
        what, todo = said.splitlines()
        assert f"{part} has {there / 1e6:.1f} MB" in what
        assert todo == "The same command goes on from there; nothing is half unpacked."


def test_a_process_that_ends_while_unpacking_leaves_the_archive_and_no_data_set(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pocketvit.data.archives._extract", interrupted)
        with pytest.raises(KeyboardInterrupt):
            get(tmp_path)
    assert names(tmp_path) == ["sidd.zip", "sidd.zip.sha256"]
    assert get(tmp_path).sets[0].fetched
    assert len(server.asked) == 1
