"""The client of a split model: the head runs here, its features go to a server of the tail, its answer comes back.

Only the standard library: one connection is kept open, for on a slow network each new one costs a round trip or two.
A full queue (429) or a server that is not ready (503) is waited for as long as it says, a few times.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from pocketvit.errors import PocketvitError, UsageError, VerificationError
from pocketvit.runtimes.model import Model
from pocketvit.runtimes.parts import encoded, split_of
from pocketvit.serve.tokens import read_token
from pocketvit.spec.features import MEDIA
from pocketvit.spec.images import ImageLike
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.split import check_whole
from pocketvit.terminal import shown

TRIES = 4
"""How often one photo's features are sent at most."""
MOST_WAIT_S = 30.0
"""What is waited for a server that says when to come again, at most and each time."""
MOST_BYTES = 16_000_000
"""Of an answer."""
_LOCAL = ("localhost", "127.0.0.1", "::1")


class ServerError(PocketvitError):
    """The server of a tail does not answer (exit 1): no photo is at fault, and none would fare better."""


@dataclass(frozen=True)
class RemoteAnswer:
    """What a server of a tail says: a :class:`pocketvit.spec.tasks.base.Result` without the numbers behind it."""

    document: Mapping[str, Any]
    line: str
    shown_cells: Mapping[str, str]

    def to_dict(self, top: int = 5) -> dict[str, Any]:
        """JSON form, as the server gives it for the ``top`` that it was asked for."""
        return dict(self.document)

    def cells(self, top: int = 5) -> dict[str, str]:
        """One row of a table of answers."""
        return dict(self.shown_cells)

    def draw(self, source: Pixels) -> Pixels:
        """The photo itself: answers that are pictures are not asked for over a wire."""
        return source


@dataclass
class TailServer:
    """One server of a tail, by an address like ``http://host:8000``."""

    url: str
    token: str = field(default="", repr=False)
    timeout_s: float = 30.0
    ms: float = 0.0
    """What the server says its last answer took."""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            usable = usable and not (parts.query or parts.fragment or "@" in parts.netloc) and self.url.isprintable()
        except ValueError:
            usable = False
        if not usable:
            what = f"{shown(self.url)[:200]}: is no address of a server."
            raise UsageError(what, "Name one that `pocketvit serve` prints, e.g. http://127.0.0.1:8000.")
        if self.token and parts.scheme != "https" and parts.hostname not in _LOCAL:
            raise UsageError(f"{self.url}: a token would be sent unencrypted.", "Name an https address.")
        if not 0 < self.timeout_s <= 3600:
            what = f"timeout must be more than 0 and at most 3600 seconds, not {self.timeout_s:g}."
            raise UsageError(what, "30 is usual.")
        self._place, self._secure = parts, parts.scheme == "https"
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, path: str, body: bytes, kind: str) -> dict[str, Any]:
        """The JSON object that a POST is answered with.

        Raises:
            ServerError: the server is not there, too slow or always full.
            UsageError: it refuses what it got.
            VerificationError: what answers is no such server.
        """
        for attempt in range(1, TRIES + 1):
            status, headers, content = self._once(path, body, kind)
            if status not in (429, 503) or attempt == TRIES:
                break
            stated = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
            time.sleep(_pause(stated, attempt))
        document = _object(content) if status < 500 or status == 503 else {}
        if status == 200:
            if not document:
                raise VerificationError(f"{self.url}: answers with something else than JSON.", "Check --server.")
            return document
        raise self._refused(status, str(document.get("error", ""))[:300])

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _once(self, path: str, body: bytes, kind: str) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body; a connection that the server has closed meanwhile is opened anew, once."""
        headers = {"Content-Type": kind, "Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        ends = time.monotonic() + self.timeout_s
        while True:
            kept = self._connection is not None
            try:
                connection = self._connection = self._connection or self._opened()
                connection.request("POST", self._place.path.rstrip("/") + path, body, headers)
                answer = connection.getresponse()
                content = self._read(answer, ends)
                if answer.will_close:
                    self.close()
                return answer.status, dict(answer.headers.items()), content
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if not kept or isinstance(error, TimeoutError):
                    raise self._unreachable(error) from None

    def _read(self, answer: http.client.HTTPResponse, ends: float) -> bytes:
        chunks, size = list[bytes](), 0
        while chunk := answer.read1(1 << 16):
            size += len(chunk)
            if size > MOST_BYTES:
                self.close()
                raise VerificationError(f"{self.url}: answers with more than an answer can be.", "Check --server.")
            if time.monotonic() > ends:
                raise TimeoutError("timed out")
            chunks.append(chunk)
        answer.close()  # of the answer; only then may the connection be used again
        return b"".join(chunks)

    def _opened(self) -> http.client.HTTPConnection:
        host, port = self._place.hostname or "", self._place.port
        if self._secure:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=self.timeout_s, context=context)
        return http.client.HTTPConnection(host, port, timeout=self.timeout_s)

    def _unreachable(self, error: Exception) -> ServerError:
        if isinstance(error, TimeoutError):
            what = f"{self.url}: did not answer within {self.timeout_s:g} s."
            return ServerError(what, "Try again, or give it more time with --timeout.")
        if isinstance(error, ssl.SSLCertVerificationError):
            what = f"{self.url}: its certificate is not trusted ({error.verify_message})."
            return ServerError(what, "Name its authority in SSL_CERT_FILE.")
        why = shown(getattr(error, "strerror", None) or error or type(error).__name__)[:200].rstrip(".")
        return ServerError(f"{self.url}: cannot be reached ({why}).", "Check that the server runs, and --server.")

    def _refused(self, status: int, said: str) -> PocketvitError:
        told = f"{self.url}: answers {status}" + (f" ({shown(said).rstrip('.')})" if said else "") + "."
        if status == 401:
            return UsageError(told, "Name a file with the token: --token_file FILE.")
        if status in (429, 503):
            return ServerError(told, f"It was asked {TRIES} times; try again later.")
        return UsageError(told, "Check that it serves the tail of this very head.")


def _pause(stated: str, attempt: int) -> float:
    """Seconds before the next try: what the server says, or half a second, one, two."""
    seconds = 0.25 * 2**attempt
    if stated.isascii() and stated.isdigit():
        seconds = float(stated[:6])
    return min(seconds, MOST_WAIT_S)


def _object(content: bytes) -> dict[str, Any]:
    """A JSON object; empty where it is none."""
    with suppress(ValueError, RecursionError):
        found = json.loads(content)
        if isinstance(found, dict):
            return found
    return {}


@dataclass
class RemoteModel:
    """A head here and its tail on a server: called like a model, with the answers that the server gives."""

    head: Model
    server: TailServer
    top: int = 5

    def __post_init__(self) -> None:
        """Raises UsageError: the model is no head."""
        self.kind = f"{MEDIA}; split={split_of(self.head, 'head').id}"
        self.manifest, self.session, self.target = self.head.manifest, self.head.session, self.head.target
        self.tiled = self.head.tiled
        self.path = f"/v1/{self.manifest.task}?{urlencode({'top': self.top})}"

    def __call__(
        self, image: ImageLike, on_tile: Callable[[], None] | None = None, *, strength: float | None = None
    ) -> RemoteAnswer:
        """Answer for one image. Raises what the head and :meth:`TailServer.ask` raise."""
        return self.answer(encoded(self.head, image))

    def answer(self, body: bytes) -> RemoteAnswer:
        """The server's answer to encoded features."""
        document = self.server.ask(self.path, body, self.kind)
        line, cells = document.pop("line", None), document.pop("cells", None)
        if not isinstance(line, str) or not isinstance(cells, dict):
            raise VerificationError(f"{self.server.url}: answers with something else than a tail.", "Check --server.")
        ms = document.pop("ms", 0.0)
        self.server.ms = float(ms) if isinstance(ms, int | float) else 0.0
        return RemoteAnswer(document, line, {str(key): str(value) for key, value in cells.items()})


def answering(
    model: Model, server: str | None, token_file: str | None, timeout: float, top: int
) -> Model | RemoteModel:
    """What answers: the model itself, or of a head the server of its tail.

    Raises:
        UsageError: half a model without the other, or a server for a whole one.
    """
    if server is not None:
        return RemoteModel(model, TailServer(server, read_token(token_file), timeout), top)
    if token_file is not None:
        raise UsageError("token_file goes with --server.", "Leave it out, or name the server.")
    check_whole(model.manifest.name, model.manifest.split)
    return model
