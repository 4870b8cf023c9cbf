"""Content negotiation, and image files within bodies."""

from __future__ import annotations

import asyncio

import pytest

from pocketvit.serve.http.bodies import accepted, discard, image_in
from pocketvit.serve.http.refusal import Refusal

OFFERED = ("image/png", "application/json")


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("", "image/png"),
        ("*/*", "image/png"),
        ("application/json", "application/json"),
        ("APPLICATION/JSON", "application/json"),
        ("text/html, application/json;q=0.1", "application/json"),
        ("image/*;q=0.5, application/json;q=0.4", "image/png"),
        ("*/*;q=1, image/png;q=0", "application/json"),
        ("image/png;q=0.3, */*;q=0.8", "application/json"),
        ("image/png;q=nonsense, application/json;q=0.1", "application/json"),
        ("application/json;q=nan, image/png;q=0.1", "image/png"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", "image/png"),
    ],
)
def test_the_preferred_type_is_taken(header: str, kind: str) -> None:
    assert accepted(header, OFFERED) == kind


@pytest.mark.parametrize("header", ["text/html", "image/gif", "*/*;q=0", ";;;", ",", "image/png;q=0"])
def test_none_is_acceptable(header: str) -> None:
    with pytest.raises(Refusal, match="image/png or application/json") as caught:
        accepted(header, OFFERED)
    assert caught.value.status == 406


def form(*parts: tuple[str, bytes]) -> bytes:
    rows = (b"--b\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + data for head, data in parts)
    return b"\r\n".join([*rows, b"--b--\r\n"])


def test_the_file_of_a_form_is_found_among_other_fields() -> None:
    data = bytes(range(256)) * 50 + b"\r\n--not the boundary\r\n"
    body = form(('name="note"', b"hello"), ('name="picture"; filename="a b.png"', data), ('name="x"', b""))
    assert image_in(body, "multipart/form-data; boundary=b") == data
    assert image_in(form(('name="image"', data)), 'multipart/form-data; boundary="b"') == data


@pytest.mark.parametrize("kind", ["", "image/png", "IMAGE/JPEG", "application/octet-stream", "image/x-odd; a=b"])
def test_the_body_may_be_the_file(kind: str) -> None:
    assert image_in(b"abc", kind) == b"abc"


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "multipart/mixed; boundary=b", "words", "im age"])
def test_other_types_are_refused(kind: str) -> None:
    with pytest.raises(Refusal) as caught:
        image_in(b"abc", kind)
    assert caught.value.status == 415


def test_what_is_not_wanted_is_read_only_so_far() -> None:
    calls = []

    async def receive() -> dict[str, object]:
        calls.append(1)
        return {"type": "http.request", "body": bytes(100), "more_body": True}

    asyncio.run(discard(receive, 1000))
    assert len(calls) == 11
