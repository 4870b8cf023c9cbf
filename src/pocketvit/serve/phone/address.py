"""Where a phone reaches the server: addresses in the local network, the first of them as a QR code for a terminal."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import IO
from urllib.parse import quote

import psutil
import segno

from pocketvit.serve.phone.pages import PREFIX

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_EVERYWHERE = frozenset({"", "0.0.0.0", "::"})
_BLOCKS = {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}
"""Two rows in one: what is light is drawn, since terminals are dark."""
_WHITE_ON_BLACK, _PLAIN = "\x1b[38;5;231;48;5;16m", "\x1b[0m"


def phone_urls(host: str, port: int, secure: bool, token: str | None = None) -> list[str]:
    """Addresses of the app, those that a phone is most likely to reach first.

    Args:
        host: that the server listens on; everywhere stands for each address of this machine.
        port: TCP port.
        secure: https.
        token: goes behind ``#``, which browsers keep to themselves.
    """
    hosts = _lan() or ["127.0.0.1"] if host in _EVERYWHERE else [host]
    tail = f"{PREFIX}/" + (f"#token={quote(token, safe='')}" if token else "")
    shown = (f"[{each}]" if ":" in each else each for each in hosts)
    return [f"{'https' if secure else 'http'}://{each}:{port}{tail}" for each in shown]


def _lan() -> list[str]:
    """IPv4 addresses of the interfaces that are up, private networks first."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    found = [
        entry.address
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if name in up and entry.family == socket.AF_INET and not entry.address.startswith("127.")
    ]
    return sorted(found, key=lambda each: not each.startswith(("192.168.", "10.", "172.")))


def qr(text: str, *, colour: bool = False) -> str:
    """``text`` as a QR code of half blocks; ``colour`` makes it white on black whatever the terminal's colours are."""
    rows = [list(row) for row in segno.make(text, error="m", micro=False).matrix_iter(border=2)]
    rows += [[0] * len(rows[0])] * (len(rows) % 2)
    lines = ("".join(_BLOCKS[bool(a), bool(b)] for a, b in zip(*pair)) for pair in zip(rows[::2], rows[1::2]))
    return "\n".join(f"{_WHITE_ON_BLACK}{line}{_PLAIN}" if colour else line for line in lines)


def announce(urls: Sequence[str], host: str, secure: bool, stream: IO[str]) -> None:
    """Write the addresses, the first as a QR code, and what a phone would lack."""
    colour = stream.isatty() and "NO_COLOR" not in os.environ
    lines = [qr(urls[0], colour=colour), "On the phone, open", *(f"  {url}" for url in urls)]
    if host in LOCAL:
        lines.append("Only this machine can reach it: add --host 0.0.0.0 for phones in the same network.")
    elif not secure:
        lines.append("Browsers give cameras, threads and offline use to https alone: add --tls auto.")
    elif urls:
        lines.append("A browser warns of a certificate that this machine has made itself; docs/phone.md says more.")
    try:
        print("\n".join(lines), file=stream, flush=True)
    except UnicodeEncodeError:  # a terminal without such letters
        print("\n".join(lines[1:]), file=stream, flush=True)
