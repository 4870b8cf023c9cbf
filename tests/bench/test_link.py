from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from pocketvit.bench.link import LINKS, Link, parse_link, shaped
from pocketvit.errors import UsageError

LINK = Link("test", 8.0, 80.0, 40.0)
"""1 MB/s up, 10 MB/s down."""


@pytest.fixture
def server() -> Iterator[int]:
    """Reads to the end, then answers with as many bytes as it got."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            while True:
                try:
                    end, _ = listener.accept()
                except OSError:
                    return
                with end:
                    got = 0
                    while chunk := end.recv(65536):
                        got += len(chunk)
                    end.sendall(bytes(got))

        threading.Thread(target=run, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def there_and_back(port: int, count: int) -> tuple[float, int]:
    """Milliseconds for so many bytes both ways on a new connection, and how many came back."""
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as end:
        end.sendall(bytes(count))
        end.shutdown(socket.SHUT_WR)
        got = 0
        while chunk := end.recv(65536):
            got += len(chunk)
    return 1e3 * (time.perf_counter() - began), got


def test_bytes_come_whole_and_no_sooner_than_the_link_lets_them(server: int) -> None:
    with shaped(LINK, "127.0.0.1", server) as port:
        times = {}
        for count in (1, 100_000):
            times[count], got = min(there_and_back(port, count) for _ in range(3))
            assert got == count
    assert 80 <= times[1] < 160  # a round trip for the handshake, one for the question
    assert 80 + 100 + 10 <= times[100_000] < 320


def test_an_end_and_an_absent_server_are_passed_on(server: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = closed.getsockname()[1]
    with (
        shaped(LINK, "127.0.0.1", nobody) as port,
        socket.create_connection(("127.0.0.1", port)) as end,
        suppress(ConnectionResetError),
    ):
        assert end.recv(1) == b""
    with shaped(LINK, "127.0.0.1", server) as port:
        end = socket.create_connection(("127.0.0.1", port))
    end.settimeout(60)
    with end, suppress(ConnectionResetError):
        assert end.recv(1) == b""  # the link is gone
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=60)


def test_a_connection_that_is_being_made_when_the_link_goes_is_ended_too(
    server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, gone, connect = threading.Event(), threading.Event(), socket.create_connection

    def slowly(*args: object, **kwargs: object) -> socket.socket:
        reached.set()
        assert gone.wait(60)
        return connect(("127.0.0.1", server))

    with shaped(LINK, "127.0.0.1", server) as port:
        end = connect(("127.0.0.1", port))
        monkeypatch.setattr(socket, "create_connection", slowly)
        assert reached.wait(60)
    end.settimeout(60)
    gone.set()
    with end, suppress(ConnectionResetError):
        assert end.recv(1) == b""


def test_links_are_named_or_written() -> None:
    assert parse_link("3g") is LINKS["3g"]
    assert parse_link("5/20/40") == Link("5/20/40", 5, 20, 40)
    assert "0.768 up, 1.6 down Mbit/s, 300 ms" in str(LINKS["3g"])
    for text, says in (
        ("wify", "Did you mean wifi"),
        ("5/20", "UP/DOWN/RTT"),
        ("0/1/1", "out of range"),
        ("nan/1/1", "out of range"),
        ("1/1/-1", "out of range"),
    ):
        with pytest.raises(UsageError) as caught:
            parse_link(text)
        assert says in str(caught.value)
