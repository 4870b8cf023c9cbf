"""Frames to an MP4 file that plays, also when the stream is interrupted or goes on for days."""

from __future__ import annotations

from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

from pocketvit.errors import DataError, MissingDependencyError
from pocketvit.files import replacing
from pocketvit.serve.streaming.drawing import onto
from pocketvit.spec.preprocess import Pixels

_CODECS = {"libx264": {"preset": "veryfast", "crf": "20"}, "libopenh264": {}, "mpeg4": {"qmax": "5"}}
"""Encoders in the order of preference with their settings; builds of FFmpeg under the LGPL have no libx264."""
_TICKS = 60_000
"""Of a second, for 24, 25, 29.97, 30 and 60 frames exact; the encoder mpeg4 takes 65535 at most."""
_BT601, _LIMITED = 6, 1
"""What the conversion from RGB makes, told to players (SMPTE 170M matrix, 16 to 235)."""
LARGEST = 4096
"""Longer side in pixels: what the decoders of phones and graphics cards take."""


def encoder() -> str:
    """The encoder that this installation has.

    Raises:
        MissingDependencyError: PyAV is not installed. DataError: it has no encoder for MP4.
    """
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError.of("av", "stream") from error
    for name in _CODECS:
        try:
            av.Codec(name, "w")
        except ValueError:  # also av's own UnknownCodecError
            continue
        return name
    raise DataError("this build of PyAV has no encoder for MP4.", "Run: pip install --force-reinstall av")


class VideoFile:
    """Written under another name, and there as ``path`` once it is closed well (:func:`pocketvit.files.replacing`).

    The first picture decides the size, rounded up to even numbers; others are made to fit. ``endless`` files are
    written in fragments, so that the index of a recording of days is not held in memory; the header waits for the
    first of them, because without it B-frames would shift all times.
    """

    def __init__(self, path: Path, rate: Fraction, *, endless: bool, overwrite: bool = False) -> None:
        self.path, self.codec, self.frames = path, encoder(), 0
        self.size: tuple[int, int] | None = None
        """Height and width."""
        self._rate, self._endless, self._overwrite = rate, endless, overwrite
        self._stack, self._last = ExitStack(), -1
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *error: Any) -> None:
        """Finish the file; after an error it is deleted, and what stood at ``path`` stays."""
        if error[0] is not None:
            self._stack.__exit__(*error)
            return
        with self._stack:  # what fails here, a full disk, deletes it too
            if self._stream is not None:
                self._mux(None)

    def write(self, picture: Pixels, seconds: float) -> None:
        """Append (H, W, 3) uint8 RGB that is shown from ``seconds`` on; times must rise.

        Raises:
            DataError: the file cannot be written.
        """
        import av

        if self.size is None:
            self._open(picture)
        assert self.size is not None
        frame = av.VideoFrame.from_ndarray(onto(picture, self.size), format="rgb24")
        self._last = max(self._last + 1, round(seconds * _TICKS))
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
        self._mux(frame)
        self.frames += 1

    def _open(self, picture: Pixels) -> None:
        import av

        scale = min(1.0, LARGEST / max(picture.shape[:2]))
        height, width = (2 * -(-max(1, round(side * scale)) // 2) for side in picture.shape[:2])
        self.size = height, width
        partial = self._stack.enter_context(replacing(self.path, overwrite=self._overwrite))
        options = {"movflags": "frag_keyframe+delay_moov+default_base_moof"} if self._endless else {}
        container: Any = av.open(f"file:{partial}", "w", format="mp4", options=options)
        self._container = self._stack.enter_context(container)
        stream = container.add_stream(self.codec, rate=self._rate, options=dict(_CODECS[self.codec]))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        stream.codec_context.colorspace, stream.codec_context.color_range = _BT601, _LIMITED
        self._stream = stream

    def _mux(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)
