"""Request bodies: read whole within limits of size, time and memory, and the one image file that they hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from pocketvit.serve.http.refusal import GONE, Refusal

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
DISCARD_S = 2.0
"""How long a body that nobody wants is read, so that the client gets to reading the refusal."""
MAX_PARTS = 20


class Bodies:
    """Reads bodies, and counts the bytes that all requests together hold meanwhile."""

    def __init__(self, most: int, most_together: int, seconds: float) -> None:
        """``most`` and ``most_together`` are bytes; ``seconds`` is the time from a body's first byte to its last."""
        self.most, self.most_together, self.seconds = most, most_together, seconds
        self.held = 0

    @asynccontextmanager
    async def read(self, headers: MutableMapping[str, str] | Any, receive: Receive) -> AsyncIterator[bytes]:
        """The whole body; its bytes count as held until the block ends.

        Raises:
            Refusal: 413 too large (told by Content-Length before anything is read, or counted), 415 compressed,
                408 too slow, 429 too much is held already, 499 the client went away.
        """
        if headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise Refusal(415, "compressed bodies are not taken; send it as it is.")
        stated = headers.get("content-length", "")
        if stated.isdecimal() and (len(stated) > 18 or int(stated) > self.most):
            raise self._too_large()
        mine = list[bytes]()
        try:
            try:
                async with asyncio.timeout(self.seconds):
                    await self._collect(receive, mine)
            except TimeoutError:
                text = f"the body did not arrive within {self.seconds:g} s."
                raise Refusal(408, text, {"Connection": "close"}) from None
            mine[:] = [b"".join(mine)]  # not twice in memory
            yield mine[0]
        finally:
            self.held -= sum(map(len, mine))

    async def _collect(self, receive: Receive, chunks: list[bytes]) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refusal(GONE, "the client went away before its body was complete.")
            chunk, more = message.get("body", b""), message.get("more_body", False)
            size += len(chunk)
            if size > self.most:
                raise self._too_large()
            if self.held + len(chunk) > self.most_together:
                raise Refusal(429, "other requests hold too much memory now.", {"Retry-After": "2"})
            chunks.append(chunk)
            self.held += len(chunk)

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body is larger than {self.most / 1e6:g} MB.")


async def discard(receive: Receive, most: int) -> None:
    """Read what a client still sends, at most ``most`` bytes and two seconds, so that closing loses no answer."""
    size, more = 0, True
    try:
        async with asyncio.timeout(DISCARD_S):
            while more and size <= most:
                message = await receive()
                size += len(message.get("body", b""))
                more = message.get("more_body", False)
    except TimeoutError:
        pass


async def disconnected(receive: Receive) -> None:
    """Return when the client goes away; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def image_in(body: bytes, content_type: str) -> bytes:
    """The image file that a body is (``image/*``, ``application/octet-stream``) or holds (``multipart/form-data``).

    Raises:
        Refusal: 415 another content type, 400 a damaged form, or one without or with several files, or nothing at all.
    """
    kind, options = parse_options_header(content_type)
    kind = kind.lower()
    if kind == b"multipart/form-data":
        body = _file_of(body, options.get(b"boundary", b""))
    elif kind not in (b"", b"application/octet-stream") and not kind.startswith(b"image/"):
        text = "send an image as image/*, application/octet-stream or multipart/form-data with one file."
        raise Refusal(415, text)
    if not body:
        raise Refusal(400, "there is no image in the request.")
    return body


@dataclass
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)

    @property
    def is_file(self) -> bool:
        _, options = parse_options_header(self.headers.get(b"content-disposition", b""))
        return b"filename" in options or options.get(b"name") in (b"image", b"file")

    @property
    def name(self) -> str:
        """Of its field."""
        _, options = parse_options_header(self.headers.get(b"content-disposition", b""))
        return options.get(b"name", b"").decode("utf-8", "replace")


class _Form:
    """Collects the parts of a form; the names of methods are those of the parser's events."""

    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self.complete = False
        self._name, self._value = b"", b""

    def on_part_begin(self) -> None:
        if len(self.parts) == MAX_PARTS:
            raise Refusal(400, f"the form has more than {MAX_PARTS} parts.")
        self.parts.append(_Part())

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self.parts[-1].headers[self._name.lower()] = self._value
        self._name, self._value = b"", b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1].chunks.append(data[start:end])

    def on_end(self) -> None:
        self.complete = True


_EVENTS = ("part_begin", "header_field", "header_value", "header_end", "part_data", "end")


def files_in(body: bytes, content_type: str) -> dict[str, bytes]:
    """The files of a form (``multipart/form-data``) by the name of their field.

    Raises:
        Refusal: 415 another content type, 400 a damaged form, or one with two files in one field or an empty one.
    """
    kind, options = parse_options_header(content_type)
    if kind.lower() != b"multipart/form-data":
        raise Refusal(415, "send a form (multipart/form-data).")
    found: dict[str, bytes] = {}
    for part in (part for part in _parts(body, options.get(b"boundary", b"")) if part.is_file):
        content = b"".join(part.chunks)
        if part.name in found or not content:
            raise Refusal(400, f"the form has {'two files' if content else 'nothing'} in field {part.name[:40]!r}.")
        found[part.name] = content
    return found


def _file_of(body: bytes, boundary: bytes) -> bytes:
    files = [part for part in _parts(body, boundary) if part.is_file]
    if len(files) != 1:
        raise Refusal(400, f"the form holds {len(files)} files; send one image in a field called image.")
    return b"".join(files[0].chunks)


def _parts(body: bytes, boundary: bytes) -> list[_Part]:
    form = _Form()
    try:
        if not boundary:
            raise FormParserError("its content type names no boundary")
        events: Any = {f"on_{event}": getattr(form, f"on_{event}") for event in _EVENTS}
        parser = MultipartParser(boundary, events)
        parser.write(body)
        parser.finalize()
        if not form.complete:
            raise FormParserError("it ends too early")
    except (FormParserError, ValueError) as error:
        raise Refusal(400, f"the form is damaged ({' '.join(str(error).split())[:120]}).") from error
    return form.parts


def accepted(header: str, offered: tuple[str, ...]) -> str:
    """Of the media types ``offered``, the preferred one first, the one that an ``Accept`` header asks for.

    Raises:
        Refusal: 406, it accepts none of them.
    """
    weights = dict.fromkeys(offered, 0.0)
    known = dict.fromkeys(offered, -1)
    for entry in header.split(",") if header.strip() else ["*/*"]:
        kind, *parameters = (part.strip().lower() for part in entry.split(";"))
        weight = next((_weight(value[2:]) for value in parameters if value.startswith("q=")), 1.0)
        for media in offered:
            exact = 2 if kind == media else 1 if kind == f"{media.partition('/')[0]}/*" else 0 if kind == "*/*" else -1
            if exact > known[media]:  # the more exact entry counts, wherever it stands
                known[media], weights[media] = exact, weight
    best = max(offered, key=lambda media: weights[media])
    if weights[best] <= 0:
        raise Refusal(406, f"the answer can be {' or '.join(offered)}.")
    return best


def _weight(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text)))  # nan becomes 0
    except ValueError:
        return 0.0
