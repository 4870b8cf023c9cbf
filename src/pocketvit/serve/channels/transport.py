"""Where a channel of model updates lies: a folder, or an address that answers GET and takes PUT.

Nothing that comes from there is believed; here it is only kept from being too large or from taking too long. Nothing is
resumed: what breaks off is deleted and begun anew, since a part of an unproven file proves nothing. Only the standard
library: proxies are those of the environment, certificates those of the system.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib import request
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit

from pocketvit.errors import DataError, UsageError
from pocketvit.files import need_space, replacing, writing
from pocketvit.terminal import shown

CHUNK = 1 << 18
_LOCAL = ("localhost", "127.0.0.1", "::1")
_AGAIN = "What runs stays; it is tried again later."


class Place(Protocol):
    """What a channel needs of the place that it lies at."""

    def read(self, name: str, limit: int) -> bytes | None:
        """A small file; ``None`` where there is none. Raises ``DataError``: not to be reached, or above ``limit``."""

    def download(self, name: str, to: Path, size: int, stop: threading.Event | None = None) -> str:
        """Write a file of just ``size`` bytes to ``to`` and return its hex SHA-256.

        Raises:
            DataError: it is not there, of another size, too slow, or the disk is full; nothing is left at ``to``.
        """

    def upload(self, name: str, source: Path | bytes, *, replace: bool = True) -> None:
        """Store a file whole or not at all; without ``replace`` only where there is none of that name yet."""


def place_of(where: str, token: str = "", timeout_s: float = 30.0, longest_s: float = 900.0) -> Place:
    """The folder or address ``where``.

    Args:
        where: a folder, or http://... or https://... of one.
        token: sent as a bearer token to an address; over http only to this machine.
        timeout_s: seconds without any data after which a server is given up.
        longest_s: seconds that one file may take.

    Raises:
        UsageError: it is no usable address, or the token would be sent where all can read it.
    """
    scheme = where.partition("://")[0].lower() if "://" in where else ""
    if scheme in ("http", "https"):
        return Web(where.rstrip("/"), token, timeout_s, longest_s)
    if scheme:
        raise UsageError(f"{where[:200]}: {scheme[:20]} is no way to a channel.", "Name a folder or an https address.")
    return Folder(Path(where), longest_s)


@dataclass(frozen=True)
class Folder:
    """A channel in a folder, on this disk or one that is mounted."""

    path: Path
    longest_s: float = 900.0

    def read(self, name: str, limit: int) -> bytes | None:
        """See :class:`Place`."""
        with self._open(name) as file:
            return None if file is None else _all(file.read, limit, self._deadline(), self.path / name)

    def download(self, name: str, to: Path, size: int, stop: threading.Event | None = None) -> str:
        """See :class:`Place`."""
        with self._open(name) as file:
            if file is None:
                raise DataError(f"{self.path / name}: is not there.", _AGAIN)
            return _save(file.read, to, size, self._deadline(), self.path / name, stop)

    def upload(self, name: str, source: Path | bytes, *, replace: bool = True) -> None:
        """See :class:`Place`."""
        with replacing(self.path / name, overwrite=replace) as partial:
            if isinstance(source, bytes):
                partial.write_bytes(source)
            else:
                shutil.copyfile(source, partial)
            flush(partial)

    def _open(self, name: str) -> Any:
        """The file as a context, ``None`` in it where there is none; pipes and devices are not waited for."""
        path = self.path / name
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        except FileNotFoundError:
            if not self.path.is_dir():
                raise DataError(f"{self.path}: there is no such folder.", _AGAIN) from None
            return nullcontext()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({_words(error)}).", _AGAIN) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise DataError(f"{path}: is no regular file.", _AGAIN)
        return os.fdopen(descriptor, "rb")

    def _deadline(self) -> float:
        return time.monotonic() + self.longest_s


@dataclass(frozen=True)
class Web:
    """A channel below an address. Redirects are followed when reading, without the token, and never to http."""

    url: str
    token: str = field(default="", repr=False)
    timeout_s: float = 30.0
    longest_s: float = 900.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            usable = parts.hostname and parts.port != 0 and not (parts.query or parts.fragment or "@" in parts.netloc)
        except ValueError:
            usable = False
        if not usable or not self.url.isprintable() or " " in self.url:
            what = f"{shown(self.url)[:200]}: is no usable address of a channel."
            raise UsageError(what, "Name the folder alone, e.g. https://example.org/models, without ? # or a password.")
        if self.token and parts.scheme != "https" and parts.hostname not in _LOCAL:
            raise UsageError(f"{self.url}: a token would be sent unencrypted.", "Name an https address.")

    def read(self, name: str, limit: int) -> bytes | None:
        """See :class:`Place`."""
        with self._ask("GET", name) as answer:
            if answer is None:
                return None
            return _all(answer.read1, limit, time.monotonic() + self.longest_s, self._address(name))

    def download(self, name: str, to: Path, size: int, stop: threading.Event | None = None) -> str:
        """See :class:`Place`."""
        address, deadline = self._address(name), time.monotonic() + self.longest_s
        with self._ask("GET", name) as answer:
            if answer is None:
                raise DataError(f"{address}: is not there.", _AGAIN)
            stated = answer.headers.get("Content-Length", "")
            if stated.isascii() and stated.isdigit() and int(stated[:20]) != size:
                raise DataError(f"{address}: has {stated[:20]} bytes, not the {size} that are signed.", _AGAIN)
            return _save(answer.read1, to, size, deadline, address, stop)

    def upload(self, name: str, source: Path | bytes, *, replace: bool = True) -> None:
        """See :class:`Place`. Without ``replace`` the server is asked to refuse (If-None-Match), which not all do."""
        headers = {"Content-Type": "application/octet-stream"} | ({} if replace else {"If-None-Match": "*"})
        if isinstance(source, bytes):
            with self._ask("PUT", name, source, headers | {"Content-Length": str(len(source))}):
                return
        with source.open("rb") as file:
            headers["Content-Length"] = str(os.fstat(file.fileno()).st_size)
            with self._ask("PUT", name, file, headers):
                return

    def _address(self, name: str) -> str:
        return f"{self.url}/{quote(name)}"

    def _ask(self, method: str, name: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """The answer as a context; ``None`` in it where a GET finds nothing. Raises DataError, UsageError."""
        from pocketvit import __version__

        address = self._address(name)
        given = {"User-Agent": f"pocketvit/{__version__}", "Accept-Encoding": "identity"} | (headers or {})
        asked = request.Request(address, data=body, headers=given, method=method)
        if self.token:  # this kind of header does not go along to where a redirect leads
            asked.add_unredirected_header("Authorization", f"Bearer {self.token}")
        try:
            answer = self._opener().open(asked, timeout=self.timeout_s)
        except HTTPError as error:
            with error:
                if error.code in (404, 410) and method == "GET":
                    return nullcontext()
                raise self._refused(method, address, error) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = getattr(error, "reason", error)
            untrusted = isinstance(cause, ssl.SSLCertVerificationError)
            why = f"its certificate is not trusted: {_words(cause)}" if untrusted else f"no answer: {_words(cause)}"
            raise DataError(f"{address}: cannot be reached ({why}).", "Check the address and the network.") from None
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            answer.close()
            raise DataError(f"{address}: comes compressed, which nobody asked for.", "Turn that off on the server.")
        return answer

    def _opener(self) -> request.OpenerDirector:
        """Only http and https: no files, no FTP. This machine is not asked through a proxy."""
        opener = request.OpenerDirector()
        proxies = () if urlsplit(self.url).hostname in _LOCAL else (request.ProxyHandler(),)
        kinds = (request.HTTPHandler, request.HTTPSHandler, _Redirects, request.HTTPDefaultErrorHandler)
        for handler in (*proxies, *(kind() for kind in kinds), request.HTTPErrorProcessor()):
            opener.add_handler(handler)
        return opener

    def _refused(self, method: str, address: str, error: HTTPError) -> DataError | UsageError:
        said = f"the server answers {error.code} {shown(error.reason)[:80]}".rstrip()
        if error.code in (401, 403, 407):
            return DataError(f"{address}: {said}.", "Name a file with a token that it takes: --token-file FILE.")
        if method == "PUT" and error.code == 412:
            return UsageError(f"{address}: is there already.", "Somebody else has just published: run it again.")
        if method == "PUT" and error.code in (404, 405, 409, 501):
            todo = "Name the address of a folder there that takes PUT, or publish to a folder and copy it."
            return DataError(f"{address}: cannot be written ({said}).", todo)
        return DataError(f"{address}: cannot be {'read' if method == 'GET' else 'written'} ({said}).", _AGAIN)


class _Redirects(request.HTTPRedirectHandler):
    """Ten at most, of GET alone, to http and https only, and never from https to http."""

    def redirect_request(self, req: request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.get_method() != "GET" or urlsplit(newurl).scheme not in ("https", req.type):
            raise HTTPError(req.full_url, code, "a redirect that is not followed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def flush(path: Path) -> None:
    """Bring a file to the disk itself, so that it outlives a loss of power."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _chunks(read: Callable[[int], bytes], most: int, deadline: float, where: object) -> Iterator[bytes]:
    """What ``read`` gives, ``most`` bytes at most."""
    while most > 0:
        if time.monotonic() > deadline:
            raise DataError(f"{where}: comes too slowly.", _AGAIN)
        try:
            chunk = read(min(CHUNK, most))
        except (OSError, http.client.HTTPException) as error:
            raise DataError(f"{where}: breaks off ({_words(error)}).", _AGAIN) from error
        if not chunk:
            return
        most -= len(chunk)
        yield chunk


def _all(read: Callable[[int], bytes], limit: int, deadline: float, where: object) -> bytes:
    content = b"".join(_chunks(read, limit + 1, deadline, where))
    if len(content) > limit:
        raise DataError(f"{where}: has more than {limit} bytes.", _AGAIN)
    return content


def _save(
    read: Callable[[int], bytes], to: Path, size: int, deadline: float, where: object, stop: threading.Event | None
) -> str:
    """Write just ``size`` bytes to ``to``; on any error nothing is left there. Returns their hex SHA-256."""
    need_space(to.parent, size)
    digest, got = hashlib.sha256(), 0
    try:
        with writing(to), to.open("wb") as file:
            for chunk in _chunks(read, size + 1, deadline, where):
                if stop is not None and stop.is_set():
                    raise DataError(f"{where}: the download was ended.", _AGAIN)
                file.write(chunk)
                digest.update(chunk)
                got += len(chunk)
        if got != size:
            what = f"breaks off after {got} of {size} bytes" if got < size else f"has more than the {size} signed bytes"
            raise DataError(f"{where}: {what}.", _AGAIN)
    except BaseException:
        with suppress(OSError):
            to.unlink(missing_ok=True)
        raise
    return digest.hexdigest()


def _words(error: object) -> str:
    return shown(getattr(error, "strerror", None) or error or type(error).__name__)[:200].rstrip(".")
