"""The command as a process of its own: shutdown with requests inside, TLS, tokens, sockets that misbehave."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from packaging.requirements import Requirement

import pocketvit
from pocketvit import cli
from pocketvit.errors import DataError, UsageError
from pocketvit.serve.http.server import listen
from pocketvit.serve.options import Limits
from pocketvit.serve.serve import ServeReport, serve, url_of
from tests.serve.asking import Running, pixels_of, png, server
from tests.tiny import make_tiny_artifact, noisy, photo


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_artifact(tmp_path_factory.mktemp("serve") / "c", "classify").path


@pytest.fixture(scope="module")
def running(classifier: Path) -> Iterator[Running]:
    with server(classifier, "--limits.body_seconds", "1", "--limits.max_body_mb", "1") as one:
        yield one


@pytest.mark.slow
def test_sigterm_finishes_what_is_inside_and_refuses_what_is_new() -> None:
    body = png(noisy(photo(400, 500)))
    with server("denoise-color", "--target", "onnxruntime:fp32:1", "--limits.workers", "1") as one:
        url = f"{one.url}/v1/restore"
        with ThreadPoolExecutor(8) as pool, httpx.Client(timeout=120) as http:
            assert http.get(f"{one.url}/v2/health/ready").json() == {"ready": True}
            inside = [pool.submit(httpx.post, url, content=body, timeout=120) for _ in range(4)]
            while "pocketvit_queue_depth 3.0" not in http.get(f"{one.url}/metrics").text:
                time.sleep(0.02)
            one.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            late = httpx.post(url, content=body)
            ready = httpx.get(f"{one.url}/v2/health/ready")
            answers = [each.result() for each in inside]
        assert (late.status_code, late.headers["connection"]) == (503, "close")
        assert (ready.status_code, ready.json()) == (503, {"ready": False})
        assert [answer.status_code for answer in answers] == [200] * 4
        expected = pocketvit.load("denoise-color", "onnxruntime:fp32:1")(noisy(photo(400, 500))).image
        for answer in answers:
            np.testing.assert_array_equal(pixels_of(answer.content), expected)
        assert one.process.wait(60) == 0
        assert one.process.stdout is not None
        assert "all that were taken in were answered" in one.process.stdout.read()
    requests = [line for line in one.lines if line["event"] == "request" and line["path"] == "/v1/restore"]
    assert sorted(line["status"] for line in requests) == [200, 200, 200, 200, 503]
    assert one.lines[0]["models"] == ["denoise-color 1.0.0"]
    assert one.lines[-1] == {**one.lines[-1], "event": "ended", "unfinished": 0}
    assert one.other == []


@pytest.mark.slow
def test_an_idle_server_of_the_denoiser_is_small_and_its_extras_bring_no_torch(tmp_path: Path) -> None:
    with server("denoise-photo") as one:
        assert httpx.get(f"{one.url}/v2/health/ready").json() == {"ready": True}
        assert psutil.Process(one.process.pid).memory_info().rss < 200e6
    with server("denoise-photo", "--watch.folder", tmp_path / "watched") as one:
        assert httpx.get(f"{one.url}/v1/drift").json()["models"][0]["status"] == "learning"
        assert psutil.Process(one.process.pid).memory_info().rss < 200e6  # river comes when there is what to compare
    wanted, found = ["pocketvit[serve,stream]"], set[str]()
    while wanted:
        requirement = Requirement(wanted.pop())
        for text in distribution(requirement.name).requires or []:
            needed = Requirement(text)
            extras = requirement.extras or {""}
            applies = needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras)
            if applies and str(needed) not in found:
                found.add(str(needed))
                wanted.append(text)
    names = {Requirement(text).name.lower() for text in found}
    assert {"fastapi", "uvicorn", "av", "onnxruntime", "river"} <= names
    assert not names & {"torch", "torchvision", "lightning", "timm", "openvino"}


@pytest.mark.slow
def test_grace_has_an_end() -> None:
    body, options = png(noisy(photo(1500, 1500))), ("--memory_mb", "100", "--limits.grace_seconds", "0")
    with server("denoise-color", "--target", "onnxruntime:fp32:1", *options) as one, ThreadPoolExecutor(1) as pool:
        inside = pool.submit(httpx.post, f"{one.url}/v1/restore", content=body, timeout=120)
        while not _is_inside(one.url):
            time.sleep(0.02)
        assert one.terminate()[0] == 1
        assert inside.result().status_code == 503
    assert one.lines[-1]["unfinished"] == 1


def _is_inside(url: str) -> bool:
    return "pocketvit_requests_in_flight 2.0" in httpx.get(f"{url}/metrics").text


@pytest.mark.slow
def test_tls_and_a_token(classifier: Path, tmp_path: Path) -> None:
    token, folder = "a-token-of-the-test-0123456789", tmp_path / "tls"
    (tmp_path / "token").write_text(f"{token}\n")
    args = (classifier, "--tls", "auto", "--tls_folder", folder, "--token_file", tmp_path / "token")
    with server(*args) as one:
        assert one.url.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=folder / "certificate.pem")
        with httpx.Client(verify=trusting) as http:
            assert http.get(f"{one.url}/v2").status_code == 401
            assert http.get(f"{one.url}/v2", headers={"authorization": f"Bearer {token}"}).status_code == 200
            assert http.get(f"{one.url}/v2/health/live").status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{one.url}/v2/health/live")
        assert one.terminate()[0] == 0
    before = (folder / "certificate.pem").read_bytes()
    pair = f"{folder / 'certificate.pem'},{folder / 'key.pem'}"
    with server(classifier, "--tls", pair) as one, httpx.Client(verify=trusting) as http:
        assert http.get(f"{one.url}/v2").json()["name"] == "pocketvit"
    assert (folder / "certificate.pem").read_bytes() == before
    assert token not in json.dumps(one.lines)


def raw(url: str, data: bytes, seconds: float = 20) -> bytes:
    """Bytes sent as they are; what comes back until the server closes."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(data)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
        return b"".join(parts)


HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\n"


def test_half_a_body_gets_408_and_the_connection_is_closed(running: Running) -> None:
    answer = raw(running.url, HEAD + b"Content-Length: 1000\r\n\r\n" + bytes(500))
    assert answer.startswith(b"HTTP/1.1 408 ")
    chunked = raw(running.url, HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n")
    assert chunked.startswith(b"HTTP/1.1 408 ")


def test_what_is_no_http_is_refused(running: Running) -> None:
    for data in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", HEAD + b"Content-Length: x\r\n\r\n"):
        answer = raw(running.url, data)
        assert b" 400 " in answer.partition(b"\r\n")[0]
        assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"error": "this is not HTTP/1.1."}


def test_a_damaged_chunk_ends_its_request_without_a_trace(running: Running) -> None:
    """Behind a head whose request is being answered already, or is refused before its body is read."""
    chunked = b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    for path in (b"/v1/classify", b"/v1/nothing", b"/v2/models/x/infer"):
        answer = raw(running.url, b"POST " + path + chunked + b"xyz\r\nabc")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1
    host, _, port = running.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"POST /v1/nothing" + chunked + b"5\r\nabcde\r\n")
        first = connection.recv(65536)
        connection.sendall(b"xyz\r\n")
        while part := connection.recv(65536):
            first += part
    assert first.startswith(b"HTTP/1.1 404 ")
    text = httpx.get(f"{running.url}/metrics").text
    assert "pocketvit_requests_in_flight 1.0" in text
    assert "pocketvit_body_bytes 0.0" in text
    assert not [line for line in running.lines if "trace" in line]
    assert running.other == []


def test_clients_that_go_away_and_large_bodies_leave_it_well(running: Running, classifier: Path) -> None:
    host, _, port = running.url.removeprefix("http://").partition(":")
    for _ in range(20):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n" + bytes(500))
    large = httpx.post(f"{running.url}/v1/classify", content=bytes(3_000_000))
    assert large.status_code == 413
    answer = httpx.post(f"{running.url}/v1/classify", content=png(photo(40, 40)))
    assert answer.json()["path"] == list(pocketvit.load(str(classifier))(photo(40, 40)).path)
    text = httpx.get(f"{running.url}/metrics").text
    assert "pocketvit_body_bytes 0.0" in text
    assert "pocketvit_requests_in_flight 1.0" in text


def test_many_clients_at_once(running: Running) -> None:
    body = png(photo(40, 40))
    with httpx.Client(limits=httpx.Limits(max_connections=16)) as http, ThreadPoolExecutor(16) as pool:
        codes = list(pool.map(lambda i: http.post(f"{running.url}/v1/classify", content=body).status_code, range(200)))
    assert codes == [200] * 200
    ids = [line["id"] for line in running.lines if line["event"] == "request"]
    assert len(set(ids)) == len(ids)


@pytest.mark.slow
def test_idle_and_slow_connections_are_closed(monkeypatch: pytest.MonkeyPatch, classifier: Path) -> None:
    code = "import pocketvit.serve.http.server as s; s.HEAD_SECONDS = 0.5; from pocketvit.cli import main; "
    code += f"import sys; sys.exit(main(['serve', {str(classifier)!r}, '--port', '0']))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        url = json.loads(process.stderr.readline())["url"]
        assert raw(url, b"") == b""
        assert raw(url, b"GET /v2 HTTP/1.1\r\nHost: ") == b""
        kept = raw(url, b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\nGET /v2 HTT")
        assert kept.startswith(b"HTTP/1.1 200 ")
    finally:
        process.kill()
        process.wait(60)


def test_a_port_that_is_taken_is_a_usage_error(classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        assert url_of(taken, "127.0.0.1", secure=False) == f"http://127.0.0.1:{port}"
        assert cli.main(["serve", str(classifier), "--port", port]) == 2
        assert f"127.0.0.1:{port} cannot be listened on" in capsys.readouterr().err
    for host, number in (("no.such.host.invalid", 0), ("127.0.0.1", 70_000), ("127.0.0.1", -1)):
        with pytest.raises(UsageError, match="cannot be listened on"), listen(host, number):
            pass


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"workers": 0}, "limits.workers"),
        ({"queue": -1}, "limits.queue"),
        ({"max_body_mb": 0.0}, "limits.max_body_mb"),
        ({"max_held_mb": 1.0}, "less than max_body_mb"),
        ({"request_seconds": float("nan")}, "limits.request_seconds"),
        ({"grace_seconds": -1.0}, "limits.grace_seconds"),
    ],
)
def test_impossible_limits_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Limits(**options)


def test_impossible_options_are_named(classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, words in (({"tls_folder": "x"}, "goes with --tls auto"), ({"tls": "yes"}, "auto, or two files")):
        with pytest.raises(UsageError, match=words):
            serve([str(classifier)], port=0, **options)  # type: ignore[arg-type]
    for words, said in (
        ("--limits.workers 0", "limits.workers"),
        ("--queue 8", "Did you mean --limits.queue?"),
        ("--updates.seconds soon", "--updates.seconds must be a number"),
    ):
        assert cli.main(["serve", str(classifier), *words.split()]) == 2
        assert said in capsys.readouterr().err


def test_without_a_kept_certificate_no_home_folder_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(UsageError, match="no artifact there"):
        serve(["no-such-artifact"], port=0)
    with pytest.raises(DataError, match="no certificate with its key"):
        serve(["no-such-artifact"], port=0, tls="a.pem,b.pem")
    with pytest.raises(UsageError, match="no home folder") as caught:
        serve(["no-such-artifact"], port=0, tls="auto")
    assert "--tls_folder" in caught.value.todo


def test_the_same_version_twice_and_no_artifact(classifier: Path) -> None:
    with pytest.raises(UsageError, match=r"tiny-classify 0\.1\.0 is given twice"):
        serve([str(classifier), str(classifier)], port=0)
    with pytest.raises(UsageError):
        serve(["no-such-artifact"], port=0)


def test_without_the_extra_it_exits_6(classifier: Path) -> None:
    code = "import sys; sys.modules['uvicorn'] = None; from pocketvit.cli import main; "
    code += f"sys.exit(main(['serve', {str(classifier)!r}]))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert (run.returncode, run.stderr) == (6, 'uvicorn is not installed.\nRun: pip install "pocketvit[serve]"\n')


def test_serving_imports_no_torch(classifier: Path) -> None:
    code = (
        "import sys, pocketvit.serve.http.http_app, pocketvit.serve.http.server, pocketvit.serve.http.tls, pocketvit; "
    )
    code += f"pocketvit.load({str(classifier)!r}); print(*{'torch', 'openvino', 'timm'} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert run.stdout.strip() == "", run.stderr


def test_the_report_says_what_was_done() -> None:
    report = ServeReport("http://x:1", 7, 3.2, 0)
    assert (report.exit_code, report.to_dict()["requests"]) == (0, 7)
    assert report.render() == "http://x:1: 7 requests in 3 s; all that were taken in were answered."
    cut = ServeReport("http://x:1", 7, 3.2, 2)
    assert (cut.exit_code, "2 were cut off" in cut.render()) == (1, True)
    assert callable(pocketvit.serve)
