"""The client of a split model against servers that do what they like, and once against a real one."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pocketvit.cli import main
from pocketvit.errors import UsageError, VerificationError
from pocketvit.runtimes.model import load
from pocketvit.runtimes.parts import Joined
from pocketvit.serve import remote
from pocketvit.serve.predict import predict
from pocketvit.serve.remote import TRIES, RemoteModel, ServerError, TailServer
from tests.serve.asking import server
from tests.tiny import photo

ANSWER = {"model": "t", "version": "0.1.0", "ms": 1.5, "task": "classify", "path": ["a"], "line": "a 90 %", "cells": {}}


@dataclass
class Script:
    """What the server answers, one after the other, the last one for ever."""

    answers: list[tuple[int, dict[str, str], bytes]]
    keep: bool = True
    """Connections stay open."""
    wait_s: float = 0.0
    asked: list[dict[str, str]] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)


@contextmanager
def scripted(*answers: tuple[int, dict[str, str], Any], **settings: Any) -> Iterator[tuple[str, Script]]:
    given = [(code, head, x if isinstance(x, bytes) else json.dumps(x).encode()) for code, head, x in answers]
    script = Script(given, **settings)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            script.asked.append({**dict(self.headers), "path": self.path, "bytes": str(len(body))})
            script.connections.add(self.client_address)
            if script.wait_s:
                time.sleep(script.wait_s)
            status, headers, content = script.answers[min(len(script.asked), len(script.answers)) - 1]
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = not script.keep  # without a word about it

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}", script
        http.shutdown()


OK, FULL = (200, {}, ANSWER), (429, {"Retry-After": "0"}, {"error": "all places are taken."})


def test_one_connection_serves_many_questions_and_a_lost_one_is_replaced(halves: Path) -> None:
    head = load(halves / "cut1" / "head")
    assert head.manifest.split is not None
    with scripted(OK) as (url, script):
        model = RemoteModel(head, TailServer(url, token="0123456789abcdef"), top=3)
        for _ in range(3):
            answer = model(photo(60, 70))
        assert (answer.line, answer.to_dict()["path"], model.server.ms) == ("a 90 %", ["a"], 1.5)
        model.server.close()
    assert (len(script.asked), len(script.connections)) == (3, 1)
    asked = script.asked[0]
    assert (asked["path"], asked["Authorization"]) == ("/v1/classify?top=3", "Bearer 0123456789abcdef")
    assert asked["Content-Type"] == f"application/x-pocketvit-features; split={head.manifest.split.id}"
    with scripted(OK, keep=False) as (url, script):
        client = TailServer(url)
        for _ in range(3):
            assert client.ask("/", b"x", "a/b") == ANSWER
    assert (len(script.asked), len(script.connections)) == (3, 3)


def test_a_full_server_is_asked_again_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", slept.append)
    with scripted((429, {"Retry-After": "7"}, {"error": "full"}), (503, {}, b"down"), OK) as (url, _):
        assert TailServer(url).ask("/", b"x", "a/b") == ANSWER
    assert slept[:2] == [7.0, 1.0]
    slept.clear()
    with scripted((429, {"Retry-After": "9999999999"}, {"error": "all places are taken."})) as (url, script):
        with pytest.raises(ServerError, match=r"answers 429 \(all places are taken\)"):
            TailServer(url).ask("/", b"x", "a/b")
        assert len(script.asked) == TRIES
    assert [each for each in slept if each > 1] == [30.0] * (TRIES - 1)


def test_a_server_that_is_gone_or_slow_is_a_clear_error(halves: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(ServerError, match=r"cannot be reached \(Connection refused\)"):
        TailServer(nobody).ask("/", b"x", "a/b")
    with scripted(OK, wait_s=2.0) as (url, _), pytest.raises(ServerError, match=r"did not answer within 0\.2 s"):
        TailServer(url, timeout_s=0.2).ask("/", b"x", "a/b")
    for name in ("a", "b"):
        Image.fromarray(photo(40, 50)).save(tmp_path / f"{name}.png")
    with pytest.raises(ServerError, match="cannot be reached"):  # at once, and not for each photo
        predict(str(halves / "cut1" / "head"), [str(tmp_path)], server=nobody)


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        ((200, {}, b"<html>"), VerificationError, "something else than JSON"),
        ((200, {}, [1]), VerificationError, "something else than JSON"),
        ((200, {}, {"path": []}), VerificationError, "something else than a tail"),
        ((200, {}, b" " * 16_000_001), VerificationError, "more than an answer can be"),
        ((401, {}, {"error": "a bearer token is needed."}), UsageError, "--token_file"),
        ((404, {}, {"error": "no model for 'classify'"}), UsageError, "answers 404"),
        ((422, {}, {"error": "of split ffffffff"}), UsageError, "answers 422 .of split ffffffff"),
        ((500, {}, b""), UsageError, "answers 500"),
    ],
)
def test_what_else_a_server_may_say(halves: Path, answer: Any, error: type[Exception], says: str) -> None:
    with scripted(answer) as (url, _), pytest.raises(error) as caught:
        RemoteModel(load(halves / "cut1" / "head"), TailServer(url))(photo(60, 70))
    assert says in str(caught.value) or says.replace(".", "(") in str(caught.value)


def test_wrong_addresses_and_options_are_refused(halves: Path, tmp_path: Path) -> None:
    for url in (
        "",
        "host:80",
        "ftp://host",
        "http://",
        "http://a@host",
        "http://host?x=1",
        "http://host:99999",
        "http://h\n",
    ):
        with pytest.raises(UsageError, match="is no address of a server"):
            TailServer(url)
    with pytest.raises(UsageError, match="unencrypted"):
        TailServer("http://example.org", token="0123456789abcdef")
    with pytest.raises(UsageError, match="timeout must be more than 0"):
        TailServer("http://host", timeout_s=0)
    Image.fromarray(photo(40, 50)).save(tmp_path / "a.png")
    picture = [str(tmp_path / "a.png")]
    for name, options, says in (
        ("cut1/head", {}, "Send them to a server of its tail"),
        ("cut1/tail", {}, "takes the features of its head, not photos"),
        ("whole", {"server": "http://127.0.0.1:9"}, "is not the head of a split model but a whole model"),
        ("whole", {"token_file": "x"}, "token_file goes with --server"),
    ):
        with pytest.raises(UsageError) as caught:
            predict(str(halves / name), picture, **options)
        assert says in str(caught.value)


def test_predict_on_a_real_server_answers_as_the_pair_does(
    halves: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        Image.fromarray(photo(60, 70, seed)).save(tmp_path / f"{seed}.png")
    token = tmp_path / "token"
    token.write_text("a-token-of-some-length")
    head, tail = str(halves / "cut1" / "head"), str(halves / "cut1" / "tail")
    joined = Joined(load(head), load(tail))
    with server(tail, "--token_file", token) as running:
        words = ["predict", head, str(tmp_path), "--server", running.url, "--token_file", str(token)]
        assert main([*words, "--out", str(tmp_path / "a.csv"), "--top", "2"]) == 0
        rows = (tmp_path / "a.csv").read_text().splitlines()
        assert main([*words, "--json"]) == 0
        document = json.loads(capsys.readouterr().out.partition("{\n")[2].join(["{\n", ""]))
        assert main(words[:5]) == 2  # no token
        assert "--token_file" in capsys.readouterr().err
    results = [joined(Image.open(tmp_path / f"{seed}.png")) for seed in range(3)]
    for result, row, entry in zip(results, rows[1:], document["predictions"], strict=True):
        assert row.split(",")[1:] == list(result.cells(2).values())
        assert entry["path"] == list(result.path)  # type: ignore[attr-defined]
