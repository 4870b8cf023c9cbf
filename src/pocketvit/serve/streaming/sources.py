"""What a stream can come from: a camera, an address, a video file, a folder of images.

Cameras are those of Linux (Video4Linux); PyAV decodes them, addresses and files. A folder needs nothing but Pillow.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pocketvit.errors import DataError, MissingDependencyError, UsageError
from pocketvit.serve.streaming.feeds import Feed, Frame, Health, paced, retried
from pocketvit.spec.images import IMAGE_SUFFIXES, MAX_PIXELS, list_images, not_looked_at, read_image
from pocketvit.spec.preprocess import Pixels

SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "tcp", "srt", "rtp")
FPS = 25
"""Of a folder, where nobody says, and of a source that does not know its own."""
PATIENCE = 10.0
"""Seconds that an address may take to answer, and each of its packets to come."""
_NO_VIDEO = {"tty", "image2", "png_pipe", "jpeg_pipe", "bmp_pipe", "webp_pipe", "tiff_pipe"}
"""Formats that FFmpeg takes texts and single pictures for."""
_TODO = "Name a video, a folder of images, the number of a camera or an address (rtsp://...)."


@dataclass(frozen=True)
class Source:
    """An opened source."""

    name: str
    """For people: an address without its password."""
    live: bool
    """A camera or a broadcast: it does not wait, and has no end of its own."""
    rate: Fraction
    """Frames in a second, as it says."""
    count: int | None
    """How many frames there are, where that is known."""
    play: Callable[[threading.Event, Health, bool], Feed]
    """(stop, health, whether a recording is played at its own speed) to the frames; may be called once."""
    faults: tuple[str, ...] = ()
    """What is wrong with it, in sentences, although there are frames."""
    notes: tuple[str, ...] = ()
    folder: bool = False
    """Images that have no clock."""


def open_source(text: str, *, fps: float | None = None, retries: int = 5) -> Source:
    """Find and open what ``text`` names.

    Args:
        text: the number of a camera, ``/dev/video0``, an address, a file or a folder.
        fps: frames in a second of a folder, 25 by default.
        retries: attempts after the loss of a live source.

    Raises:
        DataError: it is not there, cannot be opened, or holds no picture.
        UsageError: ``fps`` goes with something else than a folder, or cameras are not opened on this system.
        MissingDependencyError: PyAV is not installed; for a folder it is not needed.
    """
    if not text:
        raise UsageError("source is empty.", _TODO)
    if os.path.isdir(text):
        return _folder(Path(text), fps or FPS)
    if fps is not None:
        raise UsageError("fps is the speed of a folder of images; other sources have their own.", "Leave it out.")
    if (text.isdecimal() and not os.path.lexists(text)) or re.fullmatch(r"/dev/video\d+", text):
        return _camera(text, retries)
    if match := re.match(r"([A-Za-z][\w+.-]*)://", text):
        if match[1].lower() not in SCHEMES:
            what = f"source {hidden(text)}: {match[1]}:// is not read."
            raise UsageError(what, f"Addresses begin with {', '.join(SCHEMES)}; a file is named without one.")
        return _address(text, retries)
    return _file(Path(text))


def hidden(address: str) -> str:
    """An address without user and password."""
    return re.sub(r"//[^/@]*@", "//***@", address)


def _av() -> Any:
    try:
        import av
        import av.error
    except ImportError as error:
        raise MissingDependencyError.of("av", "stream") from error
    return av


def _folder(folder: Path, fps: float) -> Source:
    files, rate = list_images(folder), Fraction(fps).limit_denominator(1001)

    def frames() -> Feed:
        for index, file in enumerate(files):
            yield Frame(float(index / rate), time.perf_counter(), partial(read_image, file))

    def play(stop: threading.Event, health: Health, at_speed: bool) -> Feed:
        return paced(frames(), stop, health) if at_speed else frames()

    return Source(str(folder), False, rate, len(files), play, notes=tuple(not_looked_at(folder)), folder=True)


def _camera(text: str, retries: int) -> Source:
    if not sys.platform.startswith("linux"):
        todo = "Take an address (rtsp://...), which cameras and other programs offer, or a video file."
        raise UsageError(f"camera {text}: cameras are opened on Linux alone.", todo)
    device = f"/dev/video{int(text)}" if text.isdecimal() else text
    name = f"camera {text}"
    if not os.path.exists(device):
        there = sorted(str(path) for path in Path("/dev").glob("video*"))
        todo = f"There are: {', '.join(there)}." if there else "There is none here; is it plugged in?"
        raise DataError(f"{name}: there is no {device}.", todo)
    if not os.access(device, os.R_OK | os.W_OK):
        raise DataError(f"{name}: {device} may not be read.", "Join its group: sudo usermod -aG video $USER.")
    return _live(name, partial(_open, name, device, format="v4l2"), retries)


def _address(text: str, retries: int) -> Source:
    name, rtsp = hidden(text), text.lower().startswith("rtsp")
    options = {"rtsp_transport": "tcp"} if rtsp else {}  # over UDP frames come torn where packets are lost
    again = partial(_open, name, text, options=options, timeout=(PATIENCE, PATIENCE))
    opened = again()
    if text.lower().startswith("http") and opened.container.duration:  # a file that lies elsewhere
        return _recorded(name, opened)
    return _live(name, again, retries, opened)


def _file(path: Path) -> Source:
    name = str(path)
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", "") or error
        raise DataError(f"{name}: {reason}.", _TODO) from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{name} is a device or pipe, not a video.", _TODO)
    if status.st_size == 0:
        raise DataError(f"{name}: the file is empty (0 bytes).", "Copy it again.")
    if path.suffix.lower() in IMAGE_SUFFIXES - {".gif"}:
        raise DataError(f"{name} is an image, not a video.", "Use `pocketvit predict`, or name a folder of images.")
    opened = _open(name, f"file:{path}")  # "file:": a colon in the name is no protocol
    places = [entry.pos + entry.size for entry in opened.stream.index_entries]
    whole = sum(place <= status.st_size for place in places)
    there = f"; {whole} of {len(places)} frames are there" if len(places) == opened.stream.frames else ""
    cut = f"{name}: the file is cut off{there}."
    return _recorded(name, opened, (cut,) if whole < len(places) else ())


def _recorded(name: str, opened: _Opened, faults: tuple[str, ...] = ()) -> Source:
    def play(stop: threading.Event, health: Health, at_speed: bool) -> Feed:
        feed = _frames(name, opened, health)
        return paced(feed, stop, health) if at_speed else feed

    return Source(name, False, opened.rate, opened.stream.frames or None, play, faults)


def _live(name: str, again: Callable[[], _Opened], retries: int, opened: _Opened | None = None) -> Source:
    first = opened or again()

    def play(stop: threading.Event, health: Health, at_speed: bool) -> Feed:
        def anew() -> Feed:
            return _frames(name, again(), health)

        return retried(name, _frames(name, first, health), anew, stop, health, retries)

    return Source(name, True, first.rate, None, play)


@dataclass(frozen=True)
class _Opened:
    container: Any
    stream: Any

    @property
    def rate(self) -> Fraction:
        known = self.stream.average_rate or self.stream.guessed_rate
        return Fraction(known) if known and 0 < known <= 1000 else Fraction(FPS)


def _open(name: str, address: str, **how: Any) -> _Opened:
    """Open with PyAV and find the first video in it."""
    av = _av()
    try:
        container = av.open(address, **how)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"{name}: cannot be opened ({_reason(error)}).", _todo(error)) from error
    streams = [x for x in container.streams.video if x.codec_context is not None]  # None: no decoder, a broken header
    videos = [x for x in streams if not x.disposition & type(x.disposition).attached_pic]
    if not videos or container.format.name in _NO_VIDEO:
        container.close()
        raise DataError(f"{name}: holds no video.", _TODO)
    width, height = videos[0].codec_context.width, videos[0].codec_context.height
    if width * height > MAX_PIXELS:
        container.close()
        what = f"{name}: {width}x{height} are {width * height / 1e6:.0f} megapixels, above {MAX_PIXELS // 1_000_000}."
        raise DataError(what, "Make it smaller first.")
    return _Opened(container, videos[0])


def _reason(error: Exception) -> str:
    """What FFmpeg says, without the address that it repeats (it may hold a password)."""
    if type(error).__name__ == "ExitError":  # how PyAV ends a call that took too long
        return f"nothing came for {PATIENCE:g} s"
    return str(getattr(error, "strerror", None) or type(error).__name__)


_ANSWERS = {
    "HTTPUnauthorizedError": "Put user and password into the address: rtsp://USER:PASSWORD@HOST/PATH.",
    "HTTPForbiddenError": "Ask who runs the camera to let you in.",
    "HTTPNotFoundError": "Check the path behind the host in the address; each camera has its own.",
}
"""What to do about the refusals of RTSP and HTTP servers, by PyAV's errors."""


def _todo(error: Exception) -> str:
    if todo := _ANSWERS.get(type(error).__name__):
        return todo
    if isinstance(error, ConnectionError | TimeoutError) or type(error).__name__ == "ExitError":
        return "Check address and network; is the sender on?"
    if "Invalid data" in _reason(error):
        return "It is no video, or damaged (a copy that was cut off?): copy it again, or take another."
    if isinstance(error, OSError):
        return "Check the address, and that no other program holds it."
    return _TODO


def _frames(name: str, opened: _Opened, health: Health) -> Feed:
    """Decoded frames in order; the container is closed at the end.

    Packets that cannot be decoded are counted and passed over. ``DataError`` where reading itself fails.
    """
    av = _av()
    step = float(1 / opened.rate)
    begin, last = None, -step
    try:
        for born, packet in _packets(name, opened, av):
            try:
                decoded = packet.decode()
            except (av.error.FFmpegError, ValueError):
                health.damaged += 1
                continue
            for frame in decoded:
                at = None if frame.time is None else float(frame.time)
                begin = at if begin is None else begin
                moved = last + step if at is None or begin is None else at - begin
                last = moved if moved > last else last + step  # times that jump back (two files in one) go on
                yield Frame(last, born, partial(_pixels, name, frame))
    finally:
        opened.container.close()


def _packets(name: str, opened: _Opened, av: Any) -> Iterator[tuple[float, Any]]:
    """When each packet came, and the packet; the last one is empty and flushes the decoder."""
    try:
        for packet in opened.container.demux(opened.stream):
            yield time.perf_counter(), packet
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(f"{name}: {_reason(error)}.", _todo(error)) from error


def _pixels(name: str, frame: Any) -> Pixels:
    """(H, W, 3) uint8 RGB, turned as the file says: phones film sideways and note it."""
    try:
        pixels: Pixels = frame.to_ndarray(format="rgb24")
    except (ValueError, OSError) as error:
        raise DataError(f"{name}: a frame cannot be decoded ({_reason(error)}).", "Leave it out.") from error
    turns = round(frame.rotation / 90) % 4  # anticlockwise, as rot90 turns
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
