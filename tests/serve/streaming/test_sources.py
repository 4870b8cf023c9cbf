from __future__ import annotations

import re
import socket
import struct
import sys
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvit.errors import DataError, MissingDependencyError, UsageError
from pocketvit.serve.streaming import feeds, sources
from pocketvit.serve.streaming.feeds import Frame, Health
from pocketvit.serve.streaming.sources import Source, hidden, open_source
from pocketvit.spec.images import write_image
from tests.serve.videos import picture, tcp_server, write_video
from tests.tiny import photo

CARS = Path("../shared/data/video/car-detection.mp4")


def play(source: Source, at_speed: bool = False) -> tuple[list[Frame], Health]:
    health = Health()
    return list(source.play(threading.Event(), health, at_speed)), health


def test_a_video_gives_its_frames_in_order(tmp_path: Path) -> None:
    source = open_source(str(write_video(tmp_path / "a:b.mp4", 30, 10)))
    assert (source.live, source.folder, source.rate, source.count, source.faults) == (False, False, 10, 30, ())
    frames, health = play(source)
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(30) / 10, atol=1e-6)
    for index in (0, 17, 29):
        pixels = frames[index].pixels()
        assert (pixels.shape, pixels.dtype) == ((48, 64, 3), np.uint8)
        assert np.abs(pixels.astype(int) - picture(index)).mean() < 8
    assert (health.damaged, health.lost) == (0, "")


def test_at_speed_a_video_takes_its_time(tmp_path: Path) -> None:
    frames, _ = play(open_source(str(write_video(tmp_path / "a.mp4", 11, 25))), at_speed=True)
    assert frames[-1].born - frames[0].born == pytest.approx(0.4, abs=0.25)


def test_a_folder_is_played_in_the_order_of_names(tmp_path: Path) -> None:
    for index, name in enumerate(("c.png", "a.jpg", "b.png")):
        write_image(tmp_path / name, photo(20, 30 + index))
    (tmp_path / "notes.txt").write_text("x")
    source = open_source(str(tmp_path), fps=2)
    assert (source.live, source.folder, source.rate, source.count) == (False, True, Fraction(2), 3)
    assert "1 .txt" in source.notes[0]
    frames, _ = play(source)
    assert [frame.pixels().shape[1] for frame in frames] == [31, 32, 30]
    assert [frame.time for frame in frames] == [0.0, 0.5, 1.0]


def test_a_phone_video_is_turned_upright(tmp_path: Path) -> None:
    """A quarter turn clockwise in the header, as phones held upright write it."""
    path = write_video(tmp_path / "a.mp4", 3)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # behind version, times, number, duration, layer, group and volume
    assert struct.unpack(">9i", data[at : at + 36])[0] == 1 << 16
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    path.write_bytes(data)
    frames, _ = play(open_source(str(path)))
    pixels = frames[0].pixels()
    assert pixels.shape == (64, 48, 3)
    want = np.rot90(picture(0), -1)
    assert np.abs(pixels.astype(int) - want).mean() < 8


def test_a_video_that_is_cut_off_gives_what_is_there_and_says_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    source = open_source(str(path))
    frames, _ = play(source)
    assert 5 < len(frames) < 60
    assert "the file is cut off" in source.faults[0]
    assert f"{len(frames)} of 60 frames" in source.faults[0] or f"{len(frames) - 1} of 60" in source.faults[0]


def test_damaged_packets_are_passed_over(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 40)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    middle = start + (len(data) - start) // 2
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    frames, health = play(open_source(str(path)))
    assert 10 < len(frames) <= 40
    assert health.damaged > 0 or len(frames) == 40
    assert [frame.time for frame in frames] == sorted({frame.time for frame in frames})


def bad_sources(folder: Path) -> dict[str, tuple[str, str]]:
    """Name to source and a part of what is said."""
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("<html>404</html>\n" * 100)
    (folder / "text.txt").write_text("hello\n" * 100)
    (folder / "empty").mkdir()
    (folder / "no images").mkdir()
    (folder / "no images" / "a.txt").write_text("x")
    Image.fromarray(photo(20, 30)).save(folder / "a.png")
    Image.fromarray(photo(20, 30)).save(folder / "png.mp4", format="PNG")
    late = write_video(folder / "whole.mp4", 20).read_bytes()
    (folder / "cut.mp4").write_bytes(late[:400])
    return {
        "missing": ("nope.mp4", "nope.mp4: no such file"),
        "empty file": ("empty.mp4", "is empty"),
        "no video": ("text.mp4", "text.mp4: cannot be opened"),
        "a text": ("text.txt", "text.txt: "),
        "empty folder": ("empty", "holds no image"),
        "other folder": ("no images", "holds no image"),
        "an image": ("a.png", "is an image"),
        "an image by another name": ("png.mp4", "png.mp4: "),
        "cut in the header": ("cut.mp4", "cut.mp4: "),
        "nobody answers": ("rtsp://me:secret@127.0.0.1:9/x", "cannot be opened (Connection refused)"),
        "no camera": ("97", "there is no /dev/video97"),
        "no device": ("/dev/video97", "there is no /dev/video97"),
        "a long name": ("x" * 5000, "File name too long"),
        "a NUL": ("a\0b", "embedded null"),
    }


BAD = (
    *("missing", "empty file", "no video", "a text", "empty folder", "other folder", "an image"),
    *("an image by another name", "cut in the header", "nobody answers", "no camera", "no device", "a long name"),
    "a NUL",
)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_source_is_one_clear_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name in ("no camera", "no device") and not sys.platform.startswith("linux"):
        pytest.skip("cameras of Linux")
    source, text = bad_sources(tmp_path)[name]
    with pytest.raises(DataError) as error:
        open_source(source)
    assert text in error.value.what
    assert "secret" not in str(error.value)
    assert "\n" not in error.value.what + error.value.todo
    assert error.value.exit_code == 3


@pytest.mark.parametrize(
    ("source", "fps", "text"),
    [("", None, "source is empty"), ("ftp://x/y.mp4", None, "ftp:// is not read"), ("a.mp4", 5.0, "fps is the speed")],
)
def test_what_cannot_be_meant_is_a_usage_error(source: str, fps: float | None, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        open_source(source, fps=fps)


def test_cameras_elsewhere_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UsageError, match="on Linux alone"):
        open_source("0")


def test_a_file_named_like_a_camera_is_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4", 4).rename("0")
    assert open_source("0").count == 4


def test_without_pyav_videos_need_the_extra_and_folders_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mp4", 4)
    write_image(tmp_path / "in" / "a.png", photo(20, 30))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError) as error:
        open_source(str(tmp_path / "a.mp4"))
    assert error.value.todo == 'Run: pip install "pocketvit[stream]"'
    assert len(play(open_source(str(tmp_path / "in")))[0]) == 1


def test_passwords_are_not_shown() -> None:
    assert hidden("rtsp://me:s3cret@cam.local:554/x") == "rtsp://***@cam.local:554/x"
    assert hidden("rtsp://cam.local/x@y") == "rtsp://cam.local/x@y"


def test_a_broadcast_that_breaks_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a socket: two callers are served, then nobody answers."""
    monkeypatch.setattr(feeds, "FIRST_WAIT", 0.05)
    data = write_video(tmp_path / "a.ts", 40, form="mpegts").read_bytes()
    with tcp_server([data, data]) as address:
        source = open_source(address, retries=2)
        assert source.live
        frames, health = play(source)
    assert 60 <= len(frames) <= 80
    assert [frame.time for frame in frames] == sorted(frame.time for frame in frames)
    assert (health.losses, health.reconnects) == (2, 1)
    assert health.lost == f"{address}: cannot be opened (Connection refused)"
    assert "the stream ended; attempt 1 of 2" in health.events[0]


def test_a_frame_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_PIXELS", 1000)
    with pytest.raises(DataError, match="64x48 are"):
        open_source(str(write_video(tmp_path / "a.mp4", 2)))


@pytest.mark.skipif(not CARS.exists(), reason="no shared data")
def test_the_sample_video() -> None:
    source = open_source(str(CARS))
    assert (source.count, source.rate) == (377, Fraction(25, 2))
    frames, _ = play(source)
    assert len(frames) == 377
    assert frames[100].pixels().shape == (432, 768, 3)
    assert frames[-1].time == pytest.approx(30.08, abs=0.1)


@pytest.mark.parametrize(
    ("status", "words", "todo"),
    [
        (401, "Unauthorized", "rtsp://USER:PASSWORD@HOST"),
        (403, "Forbidden", "let you in"),
        (404, "Not Found", "the path behind the host"),
    ],
)
def test_a_camera_that_refuses_says_what_to_do(status: int, words: str, todo: str) -> None:
    """A server that answers RTSP with a refusal, as GStreamer's does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                while asked := connection.recv(4096):
                    sequence = re.search(rb"CSeq: (\d+)", asked)
                    assert sequence is not None
                    code = b"200 OK" if asked.startswith(b"OPTIONS") else b"%d %b" % (status, words.encode())
                    connection.sendall(b"RTSP/1.0 " + code + b"\r\nCSeq: " + sequence[1] + b"\r\n\r\n")

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        with pytest.raises(DataError, match=words) as caught:
            open_source(f"rtsp://me:secret@127.0.0.1:{listener.getsockname()[1]}/cam")
        thread.join(5)
    assert todo in caught.value.todo
    assert "secret" not in str(caught.value)


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(DataError, match=r"cannot be opened \(nothing came for 0\.5 s\)") as error:
            open_source(f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        assert "network" in error.value.todo
