"""A window on a screen that is not there for anybody (Xvfb), and what is said where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageGrab

from pocketvit.cli import main
from pocketvit.errors import UsageError
from pocketvit.serve.stream import stream
from pocketvit.serve.streaming.window import Window
from tests.serve.videos import write_video
from tests.tiny import make_tiny_artifact


@pytest.fixture(scope="module")
def screen() -> Iterator[str]:
    """The name of a screen of 640x480 pixels."""
    if shutil.which("Xvfb") is None:
        if os.environ.get("POCKETVIT_PHONE_TESTS") == "must":
            pytest.fail("Xvfb is missing: apt-get install xvfb")
        pytest.skip("no Xvfb on this machine")
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "640x480x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL) as process:
        os.close(write)
        with open(read) as pipe:
            name = f":{pipe.readline().strip()}"
        yield name
        process.terminate()


@pytest.fixture
def shown(screen: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DISPLAY", screen)
    return screen


def colours_on(screen: str) -> dict[tuple[int, ...], int]:
    seen = np.asarray(ImageGrab.grab(xdisplay=screen).convert("RGB")).reshape(-1, 3)
    values, counts = np.unique(seen, axis=0, return_counts=True)
    return {tuple(map(int, value)): int(count) for value, count in zip(values, counts, strict=True)}


def test_pictures_are_seen_large_ones_smaller_and_keys_close_it(shown: str) -> None:
    with Window("a title") as window:
        window.write(np.full((48, 64, 3), (250, 10, 20), np.uint8), 0.0)
        window._root.update()
        assert colours_on(shown)[250, 10, 20] == 48 * 64
        window.write(np.full((1200, 1600, 3), (10, 200, 20), np.uint8), 0.1)
        window._root.update()
        assert 0.7 * 640 * 480 < colours_on(shown)[10, 200, 20] < 0.9 * 640 * 480
        assert (window.frames, window.closed) == (2, False)
        window._root.focus_force()
        window._root.event_generate("<Escape>")
        window.poll()
        assert window.closed
        window.write(np.zeros((4, 4, 3), np.uint8), 0.2)  # nothing to show it on, and no error
        assert window.frames == 2


def test_a_stream_is_shown_and_ends_when_its_window_is_closed(
    shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, video = make_tiny_artifact(tmp_path / "a").path, write_video(tmp_path / "in.mp4", 30)
    whole = stream(str(artifact), source=str(video), output="window", seconds=0.4)
    assert (whole.ended, whole.exit_code, whole.output) == ("seconds", 0, None)
    assert whole.counts.answered > 0
    write = Window.write

    def closing(window: Window, picture: np.ndarray, seconds: float) -> None:
        write(window, picture, seconds)
        if window.frames == 3:
            window._close()

    monkeypatch.setattr(Window, "write", closing)
    report = stream(str(artifact), source=str(video), output="window")
    assert (report.ended, report.exit_code) == ("window", 0)
    assert 3 <= report.counts.answered < 30


def test_without_a_screen_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    artifact, video = make_tiny_artifact(tmp_path / "a").path, write_video(tmp_path / "in.mp4", 3)
    assert main(["stream", str(artifact), "--source", str(video), "--output", "window"]) == UsageError.exit_code
    error = capsys.readouterr().err
    assert "no window can be opened" in error
    assert "--output out.mp4" in error
    monkeypatch.setitem(__import__("sys").modules, "tkinter", None)
    with pytest.raises(UsageError, match="tkinter is missing"):
        Window("x")
