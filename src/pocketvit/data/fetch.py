"""Large files over HTTP: resumed, retried, held against what the server says of them, few connections to one host.

A file grows as ``NAME.part``; beside it ``NAME.part.json`` keeps its address, its size and the server's validator
(ETag or Last-Modified), so that a later run goes on only with a file that is still the same. Only http and https are
followed, and never from https to http. Only the standard library: proxies are those of the environment, certificates
those of the system. There is one connection for each file; ranges of one file are not fetched side by side.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib import request
from urllib.error import HTTPError
from urllib.parse import urlsplit

from pocketvit.errors import DataError, UsageError
from pocketvit.files import need_space, write_json, writing
from pocketvit.terminal import shown

CHUNK = 1 << 20
SLOWEST = 100
"""Bytes per second, over the time limit; a server that sends less has stalled."""
ENOUGH = 1_000_000
"""Bytes that make an attempt a good one: failures are counted from there anew."""
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Manners:
    """How a server is treated."""

    connections: int = 2
    """To one host at a time."""
    retries: int = 5
    """Without progress in between."""
    timeout_s: float = 30.0
    """Without data, or with hardly any."""
    wait_s: float = 1.0
    """Before the first retry; doubled each time, up to a minute. A server's Retry-After counts more."""
    longest_wait_s: float = 600.0
    """A server that asks for more patience ends the download."""


@dataclass
class Download:
    """One file to be fetched, and how far it is."""

    url: str
    path: Path
    """Where it is when it is complete; it grows beside that."""
    bytes: int | None = None
    """The size that it must have."""
    done: int = 0
    total: int | None = None
    notes: list[str] = field(default_factory=list)
    """What happened on the way, one sentence each."""
    error: BaseException | None = None

    @property
    def part(self) -> Path:
        """What is there of it before it is complete."""
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def state(self) -> Path:
        """What is known of the part."""
        return self.path.with_name(f"{self.path.name}.part.json")


class _AgainError(Exception):
    """An attempt failed in a way that the next one may not; ``wait``: seconds that the server asks for; ``heard``:
    whether there was an answer."""

    def __init__(self, reason: str, wait: float | None = None, heard: bool = True) -> None:
        super().__init__(reason)
        self.wait, self.heard = wait, heard


def fetch_all(jobs: Sequence[Download], manners: Manners, watch: Callable[[], None]) -> None:
    """Fetch all files, as many at a time as ``manners`` allow for each host; ``watch`` is called ten times a second.

    What failed has its ``error``. An exception in ``watch`` or a signal ends all; the parts are kept.
    """
    stop = threading.Event()
    slots = {urlsplit(job.url).netloc: threading.Semaphore(manners.connections) for job in jobs}

    def work(job: Download) -> None:
        with slots[urlsplit(job.url).netloc]:
            try:
                fetch(job, manners, stop)
            except BaseException as error:
                job.error = error

    threads = [threading.Thread(target=work, args=(job,), daemon=True) for job in jobs]
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(0.1 / len(threads))
            watch()
        watch()
    finally:
        stop.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join(1)  # one that waits for the network dies with the process


def fetch(job: Download, manners: Manners, stop: threading.Event) -> None:
    """Fetch one file, from where its part ends; when ``stop`` is set it ends early, with the part.

    Raises:
        DataError: the server has no such file, or another than the one that is wanted; it failed too often; the disk
            is full. UsageError: another process fetches the same file.
    """
    failures, heard = 0, False
    with writing(job.part), open(job.part, "ab") as file:
        _hold(file, job)
        try:
            while not stop.is_set():
                before = job.done
                try:
                    _attempt(job, file, manners, stop)
                    break
                except _AgainError as error:
                    heard = heard or error.heard
                    failures = 1 if job.done - before > ENOUGH else failures + 1
                    # Where nothing was ever heard of a server, it will hardly be there half a minute later.
                    most = manners.retries if heard else min(manners.retries, 2)
                    wait = _patience(job, manners, error, failures, most)
                    job.notes.append(f"{job.path.name}: {error}; again in {wait:g} s ({failures} of {most}).")
                    stop.wait(wait)
        finally:
            if not os.fstat(file.fileno()).st_size and job.done != job.total:
                job.part.unlink(missing_ok=True)
                job.state.unlink(missing_ok=True)
    if job.done == job.total:
        with writing(job.path):
            os.replace(job.part, job.path)
            job.state.unlink(missing_ok=True)


def _patience(job: Download, manners: Manners, error: _AgainError, failures: int, most: int) -> float:
    """Seconds until the next attempt; raises ``DataError`` where there shall be none."""
    goes_on = f"which goes on from the {job.done / 1e6:.1f} MB in {job.part}" if job.done else "or look at its page"
    if failures > most:
        todo = f"Try again later, {goes_on}; or name a mirror: --from URL."
        raise DataError(f"{job.url}: cannot be fetched ({error}).", todo) from None
    if error.wait is None:
        return min(manners.wait_s * 2 ** (failures - 1), 60.0)
    if error.wait > manners.longest_wait_s:
        what = f"{job.url}: the server asks to come back in {error.wait:.0f} s."
        raise DataError(what, f"Try again then, {goes_on}.") from None
    return error.wait


def _hold(file: BinaryIO, job: Download) -> None:
    """Keep other processes from the part, where the system has locks; a killed process lets go of it."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        what = f"{job.part} is being fetched by another process."
        raise UsageError(what, "Wait until it has ended, or name another --to.") from None
    except OSError:
        return  # a file system without locks


def _attempt(job: Download, file: BinaryIO, manners: Manners, stop: threading.Event) -> None:
    """One request, and what comes of it into ``file``; raises :class:`_AgainError` where another may do better."""
    known = _state(job)
    job.done = file.seek(0, os.SEEK_END)
    if job.done and known.get("url") != job.url:
        _begin_anew(job, file, f"the part came from {known.get('url') or 'elsewhere'}")
    if job.done and job.done == known.get("bytes"):  # killed between the last byte and the name
        job.total = job.done
        return
    headers = {"Range": f"bytes={job.done}-"} if job.done else {}
    if job.done and known.get("validator"):
        headers["If-Range"] = known["validator"]
    with _open(job.url, headers, manners.timeout_s) as response:
        start, total = _place(response, job)
        most = total if total is not None else job.bytes and job.bytes + 1  # one more tells that it is another file
        body = _body(response, None if most is None else most - (start or 0), manners, stop)
        first = _first(body, job, response) if start == 0 else b""
        if job.bytes is not None and total not in (None, job.bytes):
            what = f"{job.url}: has {total} bytes, but {job.bytes} are published."
            raise DataError(what, "It is another file: look at the publisher's page, or name a mirror: --from URL.")
        if start is None:
            if total != job.done:
                _begin_anew(job, file, "the file changed on the server")
                raise _AgainError("the file changed", 0.0)
            job.total = total
            return
        validator = _validator(response)
        same = known.get("validator") == validator
        if start and not (same and start == job.done and known.get("bytes") == total):
            _begin_anew(job, file, "the file changed on the server")
            raise _AgainError("the file changed", 0.0)
        if not start:
            if job.done:
                changed = "the server sends only whole files" if same else "the file changed on the server"
                _begin_anew(job, file, changed)
            write_json(job.state, {"url": job.url, "bytes": total, "validator": validator})
        need_space(job.path.parent, 2 * (total or 0) - job.done)  # once packed, once unpacked
        job.total = total
        _write(job, file, first)
        for chunk in body:
            _write(job, file, chunk)
    if not stop.is_set():
        _hold_end(job, total)


def _hold_end(job: Download, total: int | None) -> None:
    """Hold what came against what was announced or, where nothing was, against what is published."""
    wanted = job.bytes if total is None else total
    if wanted is not None and job.done < wanted:
        raise _AgainError(f"the connection ended after {job.done} of {wanted} bytes")
    if wanted is not None and job.done > wanted:
        what = f"{job.url}: sends more than the {wanted} bytes that are published."
        raise DataError(what, f"It is another file: look at the publisher's page. What came is in {job.part}.")
    job.total = job.done


def _write(job: Download, file: BinaryIO, chunk: bytes) -> None:
    file.write(chunk)
    file.flush()
    job.done += len(chunk)


def _begin_anew(job: Download, file: BinaryIO, why: str) -> None:
    job.notes.append(f"{job.path.name}: {why}; it begins anew, {job.done} bytes are dropped.")
    file.truncate(0)
    job.done = 0


def _state(job: Download) -> dict[str, Any]:
    """What was known when the part began; empty where nothing is, or what stands there makes no sense."""
    with suppress(OSError, ValueError):
        found = json.loads(job.state.read_text(encoding="utf-8"))
        if isinstance(found, dict) and all(isinstance(found.get(key, ""), str | None) for key in ("url", "validator")):
            return found
    return {}


def _place(response: Any, job: Download) -> tuple[int | None, int | None]:
    """First byte that an answer holds (``None``: it has no more) and size of the whole file (``None``: not said)."""
    status, headers = response.status, response.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        raise DataError(f"{job.url}: comes packed as {headers['Content-Encoding']}.", "Name a mirror: --from URL.")
    said = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", headers.get("Content-Range", "").strip())
    if status in (206, 416):
        total = int(said[2]) if said and said[2] != "*" else None
        return (int(said[1]) if status == 206 and said and said[1] else -1 if status == 206 else None), total
    if status != 200:
        raise DataError(f"{job.url}: the server answers {status}, without the file.", "Look at the publisher's page.")
    length = headers.get("Content-Length", "")
    return 0, int(length) if re.fullmatch(r"\d{1,18}", length) else None


def _validator(response: Any) -> str | None:
    """What the server tells versions of the file by; a weak ETag does not tell bytes."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _body(response: Any, length: int | None, manners: Manners, stop: threading.Event) -> Iterator[bytes]:
    """The answer as it comes, no more than ``length``; raises :class:`_AgainError` where it breaks off or stalls."""
    began, got, left = time.monotonic(), 0, CHUNK if length is None else length
    while left and not stop.is_set():
        try:
            chunk = response.read1(min(CHUNK, left))
        except TimeoutError:
            raise _AgainError(f"nothing came for {manners.timeout_s:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise _AgainError(f"the connection broke ({_words(error)})") from None
        if not chunk:
            return
        yield chunk
        got += len(chunk)
        left -= len(chunk) if length is not None else 0
        if (seconds := time.monotonic() - began) > manners.timeout_s:
            if left and got < SLOWEST * seconds:
                raise _AgainError(f"hardly anything came for {seconds:.0f} s")
            began, got = time.monotonic(), 0


def _first(body: Iterator[bytes], job: Download, response: Any) -> bytes:
    """The beginning of a file that is sent from the start, where it is that of a zip archive; nothing is written yet.

    Raises:
        DataError: it is something else, such as a page that asks for consent.
    """
    first = b""
    for chunk in body:
        first += chunk
        if len(first) >= 4:
            break
    if first[:4] in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08") or (
        len(first) < 4 and b"PK\x03\x04"[: len(first)] == first
    ):
        return first
    todo = f"Fetch {job.path.name} with a browser and name the folder that it lies in: --from FOLDER."
    if "html" in response.headers.get("Content-Type", "").lower() or first.lstrip()[:1] == b"<":
        raise DataError(f"{job.url}: is a web page and no archive; it may ask for consent or a log-in.", todo)
    raise DataError(f"{job.url}: is no zip archive (it begins with {first[:4]!r}).", todo)


class _Redirects(request.HTTPRedirectHandler):
    """Ten at most, to http and https only, and never from https to http."""

    def redirect_request(self, req: request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl).scheme not in ("https", req.type):
            raise HTTPError(req.full_url, code, f"redirects to {newurl}", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str, headers: dict[str, str], timeout: float) -> Any:
    """The server's answer with status 200, 206 or 416; raises DataError, or :class:`_AgainError`."""
    from pocketvit import __version__

    opener = request.OpenerDirector()
    proxies = () if urlsplit(url).hostname in _LOCAL else (request.ProxyHandler(),)
    handlers = (request.HTTPHandler, request.HTTPSHandler, _Redirects, request.HTTPDefaultErrorHandler)
    for handler in (*proxies, *(kind() for kind in handlers), request.HTTPErrorProcessor()):
        opener.add_handler(handler)
    agent = f"pocketvit/{__version__} (fetches public data sets)"
    wanted = {"User-Agent": agent, "Accept-Encoding": "identity", "Accept": "*/*"} | headers
    try:
        return opener.open(request.Request(url, headers=wanted), timeout=timeout)
    except HTTPError as error:
        if error.code == 416:
            return error
        with error:
            raise _refusal(url, error) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = getattr(error, "reason", error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            todo = "Check the clock and the certificates of this machine; nothing is fetched past them."
            raise DataError(f"{url}: its certificate is not trusted ({_words(cause)}).", todo) from None
        if isinstance(error, ValueError):  # InvalidURL, and what IDNA does not take
            raise DataError(f"{url}: is no usable address ({_words(error)}).", "Check --from.") from None
        raise _AgainError(f"no answer ({_words(cause)})", heard=False) from None


def _refusal(url: str, error: HTTPError) -> Exception:
    """What an answer without the file means: try again, or what to do instead."""
    if error.code in _BUSY:
        return _AgainError(f"the server answers {error.code}", _asked(error.headers.get("Retry-After")))
    if 300 <= error.code < 400:
        to = error.headers.get("Location") or "nowhere"
        what = f"{url}: redirects in a circle or where it is not followed (to {to[:200]})."
        return DataError(what, "Look at the publisher's page, or name a mirror: --from URL.")
    if error.code in (401, 403, 407):
        todo = "Fetch it with a browser, where there is a form to fill in, and name its folder: --from FOLDER."
        return DataError(f"{url}: the server refuses it ({error.code}).", todo)
    todo = "Look at the publisher's page for its new address, and name it: --from URL."
    return DataError(f"{url}: the server answers {error.code} {shown(error.reason)[:80]}.".replace(" .", "."), todo)


def _asked(retry_after: str | None) -> float | None:
    """Seconds that a server asks to wait: a number, or a date; ``None`` where it says nothing that can be read."""
    if retry_after is None:
        return None
    if re.fullmatch(r"\d{1,9}", retry_after.strip()):
        return float(retry_after)
    with suppress(ValueError, TypeError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    return None


def _words(error: object) -> str:
    return shown(getattr(error, "strerror", None) or error or type(error).__name__)[:200].rstrip(".")
