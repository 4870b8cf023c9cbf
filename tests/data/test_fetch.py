"""One file over HTTP: resumed, retried, held against what the server says; servers that drop, stall and lie."""

from __future__ import annotations

import email.utils
import errno
import os
import random
import shutil
import threading
import time
from collections import namedtuple
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import BinaryIO

import pytest

from pocketvit.data import fetch as module
from pocketvit.data.fetch import Download, Manners, fetch, fetch_all
from pocketvit.errors import DataError, UsageError

from .server import Answer, Server, hang, serve, serving, status

CONTENT = b"PK\x03\x04" + random.Random(0).randbytes(300_000)
QUICK = Manners(retries=3, timeout_s=0.4, wait_s=0.01)


def get(server: Server, tmp_path: Path, size: int | None = None, manners: Manners = QUICK) -> Download:
    job = Download(f"{server.url}/a.zip", tmp_path / "a.zip", size)
    fetch(job, manners, threading.Event())
    return job


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    with serving(CONTENT) as server:
        job = get(server, tmp_path, len(CONTENT))
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert (names(tmp_path), job.notes, job.done) == (["a.zip"], [], len(CONTENT))
    assert server.asked[0]["User-Agent"].startswith("pocketvit/")


@pytest.mark.parametrize(
    "first",
    [
        serve(send=100_000),
        serve(send=2),
        serve(send=100_000, chunk=100_000, pause=1.0),
        hang(1.0),
        status(503),
        status(429, Retry_After="0"),
        status(500, Retry_After="soon"),
    ],
    ids=["drop", "drop in the magic", "stall", "silence", "503", "429", "500"],
)
def test_what_fails_once_is_gone_on_with(first: Answer, tmp_path: Path) -> None:
    with serving(CONTENT, first, serve()) as server:
        job = get(server, tmp_path)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert len(server.asked) == 2
    assert len(job.notes) == 1
    assert "again in" in job.notes[0]


def test_a_dropped_file_is_asked_for_from_where_it_ended_and_only_if_it_is_the_same(tmp_path: Path) -> None:
    with serving(CONTENT, serve(send=100_000), serve()) as server:
        get(server, tmp_path)
    assert server.asked[1]["Range"] == "bytes=100000-"
    assert server.asked[1]["If-Range"] == '"one"'
    assert "Range" not in server.asked[0]


def test_one_that_is_stopped_before_it_began_keeps_its_part(tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:1000])
    stop = threading.Event()
    stop.set()
    fetch(Download("http://127.0.0.1:9/a.zip", tmp_path / "a.zip"), QUICK, stop)
    assert (tmp_path / "a.zip.part").read_bytes() == CONTENT[:1000]


def test_without_a_validator_the_size_tells(tmp_path: Path) -> None:
    with serving(CONTENT, serve(send=100_000, tag=None), serve(tag=None)) as server:
        get(server, tmp_path)
    assert server.asked[1]["Range"] == "bytes=100000-"
    assert "If-Range" not in server.asked[1]
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


OTHER = b"PK\x03\x04" + random.Random(1).randbytes(200_000)


@pytest.mark.parametrize(
    ("then", "why", "expected"),
    [
        (serve(tag='"two"', body=OTHER), "changed on the server", OTHER),
        (serve(ranges=False), "only whole files", CONTENT),
        (serve(tag=None, body=CONTENT[:50_000]), "changed on the server", CONTENT[:50_000]),
    ],
    ids=["another file", "ranges ignored", "a shorter file"],
)
def test_where_it_cannot_go_on_it_begins_anew_and_says_so(
    then: Answer, why: str, expected: bytes, tmp_path: Path
) -> None:
    with serving(CONTENT, serve(send=100_000), then) as server:
        job = get(server, tmp_path)
    assert (tmp_path / "a.zip").read_bytes() == expected
    assert why in " ".join(job.notes)
    assert "begins anew, 100000 bytes are dropped" in " ".join(job.notes)


def test_a_server_that_sends_another_part_than_was_asked_for_is_not_believed(tmp_path: Path) -> None:
    def wrong(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        handler.headers.replace_header("Range", "bytes=1000-")
        serve()(handler, content)

    with serving(CONTENT, serve(send=100_000), wrong, serve()) as server:
        get(server, tmp_path)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert "Range" not in server.asked[2]


def test_a_later_run_goes_on_and_one_from_another_place_does_not(tmp_path: Path) -> None:
    once = Manners(retries=0, timeout_s=1, wait_s=0)
    with serving(CONTENT, serve(send=100_000)) as server:
        with pytest.raises(DataError, match="ended after 100000 of 300004 bytes") as caught:
            get(server, tmp_path, manners=once)
        assert "a.zip.part" in caught.value.todo
        assert names(tmp_path) == ["a.zip.part", "a.zip.part.json"]
        server.plan = [serve(send=50_000), serve()]
        with pytest.raises(DataError, match="ended after 150000"):
            get(server, tmp_path, manners=once)
    with serving(CONTENT) as mirror:
        job = get(mirror, tmp_path)
    assert f"came from {server.url}/a.zip; it begins anew, 150000 bytes" in job.notes[0]
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_part_that_is_whole_already_only_gets_its_name(tmp_path: Path) -> None:
    with serving(CONTENT, serve(send=100_000)) as server:
        with pytest.raises(DataError):
            get(server, tmp_path, manners=Manners(retries=0, timeout_s=1))
        (tmp_path / "a.zip.part").write_bytes(CONTENT)
        get(server, tmp_path)
        assert len(server.asked) == 1
    assert names(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("state", ["", "{", "[1]", '{"url": 3}'])
def test_a_part_of_which_nothing_is_known_is_not_gone_on_with(state: str, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(b"x" * 1000)
    (tmp_path / "a.zip.part.json").write_text(state)
    with serving(CONTENT) as server:
        job = get(server, tmp_path)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert "1000 bytes are dropped" in job.notes[0]


@pytest.mark.parametrize(
    ("answer", "what", "todo"),
    [
        (status(404), r"answers 404 Not Found\.\n", "--from URL"),
        (status(403), r"refuses it \(403\)", "--from FOLDER"),
        (status(204), "answers 204, without the file", "page"),
        (status(503, Retry_After="86400"), "come back in 86400 s", "Try again then"),
        (status(302, Location="file:///etc/passwd"), r"not followed \(to file:///etc/passwd\)", "mirror"),
        (status(302, Location="ftp://127.0.0.1/a.zip"), "not followed", "mirror"),
        (status(302, Location="/again"), "in a circle", "mirror"),
        (status(302), "to nowhere", "mirror"),
        (serve(body=b"<!DOCTYPE html><title>Virus scan</title>", kind="text/html"), "is a web page", "browser"),
        (serve(body=b" \n<html>", kind="application/octet-stream"), "is a web page", "browser"),
        (serve(body=b"\x1f\x8b\x08\x00packed"), "is no zip archive", "browser"),
        (serve(body=b""), "has 0 bytes, but 300004 are published", "publisher"),
        (serve(body=CONTENT[:1000]), "has 1000 bytes, but 300004 are published", "publisher"),
        (serve(body=CONTENT + b"more"), "has 300008 bytes, but 300004 are published", "publisher"),
        (serve(body=CONTENT + b"more", length=-1), "sends more than the 300004 bytes that are published", "publisher"),
        (serve(body=CONTENT[:1000], length=-1), "has 1000 bytes, but 300004 are published", "publisher"),
    ],
)
def test_what_cannot_be_had_is_said_at_once_with_what_to_do(
    answer: Answer, what: str, todo: str, tmp_path: Path
) -> None:
    began = time.monotonic()
    with serving(CONTENT, answer) as server, pytest.raises(DataError, match=what) as caught:
        get(server, tmp_path, len(CONTENT))
    assert todo in caught.value.todo
    assert server.url in caught.value.what
    assert time.monotonic() - began < 3
    assert not (tmp_path / "a.zip").exists()


def test_a_web_page_in_between_costs_nothing_of_what_is_there(tmp_path: Path) -> None:
    page = serve(body=b"<html>Log in to this network</html>", tag=None, ranges=False, kind="text/html")
    with serving(CONTENT, serve(send=100_000), page) as server:
        with pytest.raises(DataError, match="web page"):
            get(server, tmp_path)
        assert (tmp_path / "a.zip.part").stat().st_size == 100_000
        server.plan = [serve()]
        get(server, tmp_path)
    assert server.asked[-1]["Range"] == "bytes=100000-"


def test_bytes_beyond_the_announced_length_are_not_taken(tmp_path: Path) -> None:
    with serving(CONTENT + b"more", serve(length=len(CONTENT))) as server:
        get(server, tmp_path)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_file_of_unknown_length_ends_where_the_connection_does_and_is_gone_on_with(tmp_path: Path) -> None:
    unsaid = serve(length=-1)
    with serving(CONTENT, serve(length=-1, send=1000), unsaid) as server:
        get(server, tmp_path)  # nothing tells that it was cut short: the checksum or the archive will
        assert (tmp_path / "a.zip").read_bytes() == CONTENT[:1000]
        (tmp_path / "a.zip").unlink()
        get(server, tmp_path, len(CONTENT))
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_server_that_never_ends_does_not_fill_the_disk(tmp_path: Path) -> None:
    def endless(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(content)

    with serving(CONTENT, endless) as server, pytest.raises(DataError, match="sends more than the 300004 bytes"):
        get(server, tmp_path, len(CONTENT))
    assert (tmp_path / "a.zip.part").stat().st_size == len(CONTENT) + 1


def test_redirects_are_followed_with_the_range(tmp_path: Path) -> None:
    plan = [serve(send=100_000), status(307, Location="/elsewhere"), serve()]
    with serving(CONTENT, *plan) as server:
        get(server, tmp_path)
    assert [each["path"] for each in server.asked] == ["/a.zip", "/a.zip", "/elsewhere"]
    assert server.asked[2]["Range"] == "bytes=100000-"
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_https_is_never_left_for_http() -> None:
    from urllib.error import HTTPError
    from urllib.request import Request

    from pocketvit.data.fetch import _Redirects

    with pytest.raises(HTTPError, match="redirects to http:"):
        _Redirects().redirect_request(Request("https://a.example/x"), None, 302, "", {}, "http://a.example/x")
    followed = _Redirects().redirect_request(Request("http://a.example/x"), None, 302, "", {}, "https://a.example/x")
    assert followed.full_url == "https://a.example/x"


def test_a_server_is_waited_for_as_it_asks(tmp_path: Path) -> None:
    date = email.utils.format_datetime(email.utils.localtime().replace(microsecond=0), usegmt=False)
    with serving(CONTENT, status(503, Retry_After="1"), status(503, Retry_After=date), serve()) as server:
        began = time.monotonic()
        job = get(server, tmp_path)
        assert 1 <= time.monotonic() - began < 3
    assert "again in 1 s" in job.notes[0]
    assert "again in 0 s" in job.notes[1]


def test_a_server_that_only_drips_has_stalled(tmp_path: Path) -> None:
    drip = serve(chunk=1, pause=0.05)
    with serving(CONTENT, drip, drip, serve()) as server:
        began = time.monotonic()
        job = get(server, tmp_path)
        assert time.monotonic() - began < 4
    assert "hardly anything came" in job.notes[0]


def test_failures_end_it_and_nobody_there_ends_it_soon(tmp_path: Path) -> None:
    with serving(CONTENT, status(503)) as server:
        with pytest.raises(DataError, match=r"cannot be fetched \(the server answers 503\)"):
            get(server, tmp_path)
        assert len(server.asked) == 1 + QUICK.retries
    with pytest.raises(DataError, match=r"cannot be fetched \(no answer \(Connection refused\)\)"):
        get(server, tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999999/a.zip", "http:///a.zip", "http://a b/a.zip"])
def test_addresses_that_are_none(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no usable address|cannot be fetched"):
        fetch(Download(url, tmp_path / "a.zip"), QUICK, threading.Event())


def test_two_processes_do_not_write_the_same_part(tmp_path: Path) -> None:
    with serving(CONTENT, serve(pause=0.2)) as server:
        first = threading.Thread(target=get, args=(server, tmp_path))
        first.start()
        while not (tmp_path / "a.zip.part").exists() or not server.asked:
            time.sleep(0.01)
        with pytest.raises(UsageError, match=r"a\.zip\.part is being fetched by another process"):
            get(server, tmp_path)
        first.join()
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_space_is_asked_for_before_a_byte_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, len(CONTENT) + 1000))
    with serving(CONTENT) as server, pytest.raises(DataError, match=r"No space left: 0\.6 MB wanted"):
        get(server, tmp_path)
    assert names(tmp_path) == []


def test_a_disk_that_is_full_in_the_middle_is_said_and_the_part_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module._write

    def full(job: Download, file: BinaryIO, chunk: bytes) -> None:
        if job.done:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(job, file, chunk)

    with serving(CONTENT, serve(chunk=1 << 15, pause=0.02)) as server:
        with monkeypatch.context() as patch:
            patch.setattr(module, "_write", full)
            with pytest.raises(DataError, match=r"a\.zip\.part: cannot be written \(No space left"):
                get(server, tmp_path)
        there = (tmp_path / "a.zip.part").stat().st_size
        assert there > 0
        get(server, tmp_path)
    assert server.asked[-1]["Range"] == f"bytes={there}-"
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("connections", [1, 2])
def test_a_host_has_few_connections_at_a_time(connections: int, tmp_path: Path) -> None:
    with serving(CONTENT, serve(pause=0.03)) as server:
        jobs = [Download(f"{server.url}/{i}.zip", tmp_path / f"{i}.zip") for i in range(4)]
        seen: list[int] = []
        fetch_all(jobs, Manners(connections=connections), lambda: seen.append(sum(job.done for job in jobs)))
    assert server.most_open == connections
    assert seen[-1] == 4 * len(CONTENT)
    assert all(job.path.read_bytes() == CONTENT for job in jobs)


def test_one_that_fails_does_not_end_the_others_and_an_interruption_ends_all(tmp_path: Path) -> None:
    with serving(CONTENT) as server:
        good = Download(f"{server.url}/good.zip", tmp_path / "good.zip")
        bad = Download(f"{server.url}/bad.zip", tmp_path / "bad.zip", 5)
        fetch_all([bad, good], QUICK, lambda: None)
        assert isinstance(bad.error, DataError)
        assert good.error is None
        assert good.path.exists()
        server.plan = [serve(chunk=1000, pause=0.01)]
        slow = Download(f"{server.url}/slow.zip", tmp_path / "slow.zip")

        def interrupt() -> None:
            if slow.done > 10_000:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fetch_all([slow], Manners(), interrupt)
    assert 10_000 < slow.part.stat().st_size < len(CONTENT)
    assert not slow.path.exists()
