"""A slow network on this machine: a relay on the loopback, through which bytes come as late as over a link.

Each direction has a rate and half of the round trip; a new connection pays one round trip more, for its handshake. It
is a plain process without privileges, so what the kernel does on a real link is left out: TCP's slow start, losses,
radio that sleeps. Real links are slower than this, above all for the first bytes.
"""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pocketvit.errors import UsageError, did_you_mean

CHUNK = 1448
"""Bytes that travel together: what a packet carries."""
_WINDOW = 4096
"""Chunks that may be under way in one direction."""


@dataclass(frozen=True)
class Link:
    """A network between a client and a server."""

    name: str
    up_mbit: float
    """Megabits a second from client to server."""
    down_mbit: float
    rtt_ms: float
    """There and back, of an empty line."""

    def __str__(self) -> str:
        return f"{self.name} ({self.up_mbit:g} up, {self.down_mbit:g} down Mbit/s, {self.rtt_ms:g} ms)"


LINKS = {
    link.name: link
    for link in (
        Link("wifi", 15, 30, 2),  # Firefox's developer tools, Wi-Fi
        Link("lte", 12, 12, 70),  # WebPageTest, connectivity.ini.sample: LTE
        Link("4g", 9, 9, 170),  # WebPageTest: 4G
        Link("3g", 0.768, 1.6, 300),  # WebPageTest: 3G
    )
}


def parse_link(text: str) -> Link:
    """A name in ``LINKS``, or ``UP/DOWN/RTT`` in Mbit/s, Mbit/s and ms.

    Raises:
        UsageError: it is neither.
    """
    if text in LINKS:
        return LINKS[text]
    try:
        up, down, rtt = map(float, text.split("/"))
    except ValueError:
        todo = did_you_mean(text, LINKS, f"Take {', '.join(LINKS)}, or UP/DOWN/RTT, e.g. 5/20/40.")
        raise UsageError(f"unknown link {text[:40]!r}.", todo) from None
    if not (0 < up <= 1e5 and 0 < down <= 1e5 and 0 <= rtt <= 1e5):
        raise UsageError(f"link {text[:40]!r} is out of range.", "Write UP/DOWN/RTT in Mbit/s and ms, e.g. 5/20/40.")
    return Link(text, up, down, rtt)


@contextmanager
def shaped(link: Link, host: str, port: int) -> Iterator[int]:
    """A port of this machine behind which ``host:port`` is reached as over ``link``, until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay = _Relay(link, (host, port), listener)
        threading.Thread(target=relay.accept, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            relay.close()


class _Relay:
    """Takes connections and carries each one's bytes both ways."""

    def __init__(self, link: Link, server: tuple[str, int], listener: socket.socket) -> None:
        self._link, self._server, self._listener = link, server, listener
        self._open: list[socket.socket] = []
        self._closed, self._lock = False, threading.Lock()

    def accept(self) -> None:
        """Until the listener is closed."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._server, timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                if self._closed:  # while the server was being reached: nobody else would end these two
                    client.close()
                    server.close()
                    return
                self._open += [client, server]
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            start = time.monotonic() + self._link.rtt_ms / 1e3
            for source, sink, mbit in ((client, server, self._link.up_mbit), (server, client, self._link.down_mbit)):
                _Direction(source, sink, mbit, self._link.rtt_ms / 2e3, start).begin()

    def close(self) -> None:
        """End everything."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._closed = True
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@dataclass
class _Direction:
    """One way of one connection: a thread that lets bytes onto the line, and one that takes them off at its end."""

    source: socket.socket
    sink: socket.socket
    mbit: float
    delay_s: float
    free: float
    """When the line has sent all that was put onto it."""

    def begin(self) -> None:
        """Start both."""
        line: queue.Queue[tuple[float, bytes]] = queue.Queue(_WINDOW)
        for work in (self._put, self._take):
            threading.Thread(target=work, args=(line,), daemon=True).start()

    def _put(self, line: queue.Queue[tuple[float, bytes]]) -> None:
        while True:
            try:
                # What was there already goes on where the line left off, so that oversleeping does not add up.
                idle = not select.select([self.source], [], [], 0)[0]
                chunk = self.source.recv(CHUNK)
            except (OSError, ValueError):
                chunk, idle = b"", False
            now = time.monotonic()
            self.free = max(self.free, now if idle or self.free < now - 0.05 else self.free)
            self.free += len(chunk) * 8 / (self.mbit * 1e6)
            _sleep_until(self.free)
            line.put((self.free + self.delay_s, chunk))
            if not chunk:
                return

    def _take(self, line: queue.Queue[tuple[float, bytes]]) -> None:
        alive: Any = True
        while True:
            due, chunk = line.get()
            _sleep_until(due)
            with contextlib.suppress(OSError):
                if not chunk:
                    self.sink.shutdown(socket.SHUT_WR)
                elif alive:
                    self.sink.sendall(chunk)
                    continue
            alive = False
            if not chunk:
                return


def _sleep_until(moment: float) -> None:
    if (left := moment - time.monotonic()) > 0:
        time.sleep(left)
