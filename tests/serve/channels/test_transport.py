from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import pytest

from pocketvit.errors import DataError, UsageError, VerificationError
from pocketvit.serve.channels.transport import Folder, place_of
from tests.serve.updates import World, serving

CONTENT = bytes(range(256)) * 40


def test_a_folder_and_an_address_do_the_same(tmp_path: Path) -> None:
    with serving(tmp_path / "www") as server:
        for place in (place_of(str(tmp_path / "folder")), place_of(server.url + "/")):
            source = tmp_path / "source"
            source.write_bytes(CONTENT)
            place.upload("a b.pvit", source)
            place.upload("small.json", b"{}")
            assert place.download("a b.pvit", tmp_path / "got", len(CONTENT)) == hashlib.sha256(CONTENT).hexdigest()
            assert (tmp_path / "got").read_bytes() == CONTENT
            assert place.read("small.json", 2) == b"{}"
            assert place.read("missing.json", 10) is None
            with pytest.raises(DataError, match="more than 1 bytes"):
                place.read("small.json", 1)
            for size in (len(CONTENT) - 1, len(CONTENT) + 1):
                with pytest.raises(DataError):
                    place.download("a b.pvit", tmp_path / "wrong", size)
            with pytest.raises(DataError, match="is not there"):
                place.download("missing", tmp_path / "wrong", 1)
            with pytest.raises((DataError, UsageError)):
                place.upload("small.json", b"[]", replace=False)
            assert place.read("small.json", 9) == b"{}"
            place.upload("small.json", b"[]")
            assert place.read("small.json", 9) == b"[]"
            assert not (tmp_path / "wrong").exists()


def test_what_breaks_off_never_ends_or_drips_is_given_up(tmp_path: Path) -> None:
    with serving(tmp_path / "www") as server:
        place = place_of(server.url, "", 5.0, 0.5)
        (server.root / "p.pvit").write_bytes(CONTENT)
        server.cut = 1000
        with pytest.raises(DataError, match="breaks off"):
            place.download("p.pvit", tmp_path / "p", len(CONTENT))
        server.cut, server.endless = None, True
        with pytest.raises(DataError, match="has more than the"):
            place.download("p.pvit", tmp_path / "p", len(CONTENT))
        with pytest.raises(DataError, match="more than 20000 bytes"):
            place.read("p.pvit", 20_000)
        server.endless, server.drip_s = False, 0.05
        began = time.monotonic()
        with pytest.raises(DataError, match="comes too slowly"):
            place.download("p.pvit", tmp_path / "p", len(CONTENT))
        assert time.monotonic() - began < 5
        stop = threading.Event()
        threading.Timer(0.2, stop.set).start()
        with pytest.raises(DataError, match="was ended"):
            place_of(server.url).download("p.pvit", tmp_path / "p", len(CONTENT), stop)
    assert not (tmp_path / "p").exists()


def test_a_server_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = place_of(f"http://127.0.0.1:{silent.getsockname()[1]}", "", 0.3)
        began = time.monotonic()
        with pytest.raises(DataError, match="cannot be reached"):
            place.read("channel.json", 10)
        assert time.monotonic() - began < 5


def test_redirects_are_followed_without_the_token_and_not_to_files(tmp_path: Path) -> None:
    with serving(tmp_path / "www", token="secret") as first, serving(tmp_path / "other") as second:
        (first.root / "c.json").write_text("first")
        (second.root / "c.json").write_text("second")
        place = place_of(first.url, "secret")
        assert place.read("c.json", 99) == b"first"
        first.redirect = second.url
        assert place.read("c.json", 99) == b"second"
        assert [given for _, _, given in second.seen] == [""]
        for elsewhere in (f"file://{tmp_path}", "ftp://127.0.0.1"):
            first.redirect = elsewhere
            with pytest.raises(DataError, match="cannot be read"):
                place.read("c.json", 99)
        first.redirect, first.token = first.url, ""  # in a circle
        with pytest.raises(DataError, match="answers 302"):
            place_of(first.url).read("c.json", 99)


def test_a_channel_over_http_refuses_what_is_cut_or_changed(tmp_path: Path) -> None:
    world = World.make(tmp_path)
    report = world.publish("0.2.0")
    with serving(world.channel) as server, world.open(server.url) as channel:
        server.cut = 500
        with pytest.raises(DataError, match="breaks off after 500"):
            channel.poll()
        server.cut = None
        pack = world.channel / report.description.pack.file
        sound = pack.read_bytes()
        pack.write_bytes(sound[:-1] + b"x")
        with pytest.raises(VerificationError, match="was changed"):
            channel.poll()
        assert channel.current.version == "0.1.0"
        pack.write_bytes(sound)
        assert channel.poll().switched
        (world.channel / "channel.json").unlink()
        with pytest.raises(DataError, match="is not there"):
            channel.poll()
    with pytest.raises(DataError, match="cannot be reached"), world.open(server.url) as channel:
        channel.poll()
    assert channel.current.version == "0.2.0"


def test_tokens_are_not_shown() -> None:
    assert "abc-123" not in repr(place_of("https://example.org/x", "abc-123"))


def test_paths_with_a_colon_are_folders(tmp_path: Path) -> None:
    assert isinstance(place_of("C:/models"), Folder)
    assert isinstance(place_of(str(tmp_path)), Folder)
