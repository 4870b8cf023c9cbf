"""The addresses that a phone gets, and the QR code."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from pocketvit.serve.phone.address import announce, phone_urls, qr


@pytest.fixture
def interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    family = __import__("socket").AF_INET
    addresses = {"lo": "127.0.0.1", "vpn": "100.64.0.7", "wifi": "192.168.1.20", "down": "10.0.0.9"}
    entries = {name: [SimpleNamespace(family=family, address=each)] for name, each in addresses.items()}
    states = {name: SimpleNamespace(isup=name != "down") for name in addresses}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: entries)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: states)


@pytest.mark.usefixtures("interfaces")
def test_everywhere_is_each_address_of_the_network_private_ones_first() -> None:
    assert phone_urls("0.0.0.0", 8000, True) == ["https://192.168.1.20:8000/phone/", "https://100.64.0.7:8000/phone/"]


def test_a_host_is_taken_as_it_is_and_a_token_stands_behind_the_sharp() -> None:
    assert phone_urls("::1", 80, False, "a/b c") == ["http://[::1]:80/phone/#token=a%2Fb%20c"]


def modules(text: str) -> list[list[bool]]:
    """Dark modules of a drawn code, without its border."""
    dark = {"█": (0, 0), "▀": (0, 1), "▄": (1, 0), " ": (1, 1)}
    rows: list[list[bool]] = []
    for line in text.splitlines():
        rows += [[bool(dark[sign][half]) for sign in line] for half in (0, 1)]
    return [row[2:-2] for row in rows[2:]]


def test_the_code_is_the_text() -> None:
    import segno

    url = "https://192.168.1.20:8000/phone/"
    wanted = [[bool(cell) for cell in row] for row in segno.make(url, error="m", micro=False).matrix]
    assert modules(qr(url))[: len(wanted)] == wanted
    assert all(line.startswith("\x1b[") and line.endswith("\x1b[0m") for line in qr(url, colour=True).splitlines())


@pytest.mark.parametrize(
    ("host", "secure", "said"),
    [
        ("127.0.0.1", False, "--host 0.0.0.0"),
        ("192.168.1.20", False, "--tls auto"),
        ("192.168.1.20", True, "certificate"),
    ],
)
def test_what_a_phone_would_lack_is_said(host: str, secure: bool, said: str) -> None:
    stream = io.StringIO()
    announce(["http://a/phone/"], host, secure, stream)
    assert said in stream.getvalue()
    assert "  http://a/phone/\n" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_without_blocks_gets_the_address() -> None:
    raw = io.BytesIO()
    stream: Any = io.TextIOWrapper(raw, encoding="ascii")
    announce(["http://a/phone/"], "127.0.0.1", False, stream)
    stream.flush()
    assert b"http://a/phone/" in raw.getvalue()
