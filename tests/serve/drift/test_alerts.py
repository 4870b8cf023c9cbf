"""A web hook is told; one that is slow, broken or gone is given up, and nobody waits for it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pocketvit.errors import UsageError
from pocketvit.serve.drift.alerts import Alerts, Patience

EVENT = {"statistic": "noise", "before": 3.0, "after": 25.0}
QUICK = Patience(seconds=0.4, waits=(0.01, 0.02))


@contextmanager
def hook(*statuses: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address that answers with one status after the other, the last one for ever; and what it was sent."""
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(statuses[min(len(told), len(statuses)) - 1])
            self.send_header("location", "http://127.0.0.1:1/")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook?key=1", told
    finally:
        server.shutdown()
        server.server_close()


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_an_event_is_posted_as_json() -> None:
    with hook(204) as (url, told):
        alerts = Alerts(url, QUICK)
        alerts.tell(EVENT)
        until(lambda: alerts.sent == 1)
        alerts.close()
    assert [each["event"] for each in told] == [{**EVENT, "suppressed": 0}]
    assert told[0]["source"].startswith("pocketvit ")


@pytest.mark.parametrize(
    ("statuses", "attempts", "sent"),
    [((500, 503, 200), 3, 1), ((429, 200), 2, 1), ((500,), 3, 0), ((404,), 1, 0), ((302,), 1, 0)],
)
def test_it_is_tried_again_where_that_may_help(statuses: tuple[int, ...], attempts: int, sent: int) -> None:
    with hook(*statuses) as (url, told):
        alerts = Alerts(url, QUICK)
        alerts.tell(EVENT)
        until(lambda: alerts.sent + alerts.failed == 1)
        alerts.close()
    assert (len(told), alerts.sent) == (attempts, sent)


def test_no_more_than_so_many_in_an_hour() -> None:
    now = [0.0]
    with hook(200) as (url, told):
        alerts = Alerts(url, Patience(per_hour=3), clock=lambda: now[0])
        for _ in range(10):
            alerts.tell(EVENT)
        now[0] = 3601.0
        alerts.tell(EVENT)
        until(lambda: alerts.sent == 4)
        alerts.close()
    assert [each["event"]["suppressed"] for each in told] == [0, 0, 0, 7]
    assert alerts.suppressed == 7


@pytest.mark.parametrize("answer", ["nothing", "a byte now and then", "rubbish", "no such port"])
def test_a_broken_hook_costs_nobody_anything(answer: str, caplog: pytest.LogCaptureFixture) -> None:
    listener, ended = socket.create_server(("127.0.0.1", 0)), threading.Event()
    port = listener.getsockname()[1]

    def serve() -> None:
        with suppress(OSError):
            while not ended.is_set():
                connection = listener.accept()[0]
                threading.Thread(target=misbehave, args=(connection,), daemon=True).start()

    def misbehave(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if answer == "rubbish":
                connection.sendall(b"\x00\xff" * 40 + b"\r\n\r\n")
                return
            while not ended.wait(0.05):
                if answer == "a byte now and then":
                    connection.sendall(b"H")

    if answer == "no such port":
        listener.close()
    else:
        threading.Thread(target=serve, daemon=True).start()
    alerts = Alerts(f"http://127.0.0.1:{port}/secret", Patience(seconds=0.3, waits=(0.01,), queue=2))
    began = time.monotonic()
    for _ in range(20):
        alerts.tell(EVENT)
    assert time.monotonic() - began < 0.2
    until(lambda: alerts.failed >= 1)
    assert alerts.suppressed >= 17
    began = time.monotonic()
    alerts.close()
    assert time.monotonic() - began < 3
    ended.set()
    listener.close()
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    "url", ["", "file:///etc/passwd", "ftp://x/y", "http://", "http://x:99999/", "http://u:p@x/", "http://x/a b\r\nc"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="alert_url"):
        Alerts(url)
