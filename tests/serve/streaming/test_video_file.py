from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from pocketvit.errors import DataError, MissingDependencyError
from pocketvit.serve.streaming import video_file
from pocketvit.serve.streaming.video_file import VideoFile, encoder
from tests.serve.videos import picture, read_video
from tests.tiny import photo


@pytest.mark.parametrize("endless", [False, True])
def test_what_is_written_plays(tmp_path: Path, endless: bool) -> None:
    path, times = tmp_path / "new" / "a:b.mp4", [0.0, 0.04, 0.5, 0.5, 2.0]
    with VideoFile(path, Fraction(25), endless=endless) as file:
        for index, seconds in enumerate(times):
            file.write(picture(4 * index), seconds)
    assert (b"moof" in path.read_bytes()) == endless
    frames, shown = read_video(path)
    assert (len(frames), file.frames, file.size) == (5, 5, (48, 64))
    np.testing.assert_allclose(shown, times, atol=1e-3)  # two of one time: the second follows at once
    assert shown == sorted(set(shown))
    for index, frame in enumerate(frames):
        assert np.abs(frame.astype(int) - picture(4 * index)).mean() < 8
    assert [each.name for each in path.parent.iterdir()] == ["a:b.mp4"]


def test_colours_come_back(tmp_path: Path) -> None:
    for number, colour in enumerate([(200, 40, 90), (20, 180, 60), (255, 255, 255), (0, 0, 0)]):
        path = tmp_path / f"{number}.mp4"
        with VideoFile(path, Fraction(25), endless=False) as file:
            file.write(np.full((48, 64, 3), colour, np.uint8), 0.0)
        np.testing.assert_allclose(read_video(path)[0][0].mean((0, 1)), colour, atol=4)


def test_odd_and_changing_sizes(tmp_path: Path) -> None:
    with VideoFile(tmp_path / "a.mp4", Fraction(25), endless=False) as file:
        for index, size in enumerate([(47, 63), (47, 63), (20, 80), (90, 30)]):
            file.write(photo(*size), index / 25)
    assert {frame.shape for frame in read_video(tmp_path / "a.mp4")[0]} == {(48, 64, 3)}


def test_a_large_picture_is_made_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_file, "LARGEST", 100)
    with VideoFile(tmp_path / "a.mp4", Fraction(25), endless=False) as file:
        file.write(photo(100, 200), 0.0)
    assert read_video(tmp_path / "a.mp4")[0][0].shape == (50, 100, 3)


def test_without_frames_there_is_no_file_and_after_an_error_the_old_one(tmp_path: Path) -> None:
    with VideoFile(tmp_path / "a.mp4", Fraction(25), endless=False):
        pass
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.mp4").write_text("old")

    def fail() -> None:
        with VideoFile(tmp_path / "a.mp4", Fraction(25), endless=False, overwrite=True) as file:
            file.write(picture(0), 0.0)
            raise RuntimeError("model")

    with pytest.raises(RuntimeError, match="model"):
        fail()
    assert (tmp_path / "a.mp4").read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    real = av.open
    monkeypatch.setattr(av, "open", lambda name, *given, **how: real("file:/dev/full", *given, **how))

    def fill() -> None:
        with VideoFile(tmp_path / "a.mp4", Fraction(25), endless=True) as file:
            for index in range(600):
                file.write(np.random.default_rng(index).integers(0, 255, (48, 64, 3), np.uint8), index / 25)

    with pytest.raises(DataError, match=r"a\.mp4: cannot be written .No space left"):
        fill()
    assert not list(tmp_path.iterdir())


def test_the_encoder_and_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert encoder() in video_file._CODECS
    monkeypatch.setattr(video_file, "_CODECS", {"no_such_encoder": {}, "mpeg4": {}})
    assert encoder() == "mpeg4"
    monkeypatch.setattr(video_file, "_CODECS", {"no_such_encoder": {}})
    with pytest.raises(DataError, match="no encoder"):
        encoder()
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError, match="av is not installed"):
        encoder()


def test_the_second_choice_of_encoder_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_file, "encoder", lambda: "mpeg4")
    with VideoFile(tmp_path / "a.mp4", Fraction(25), endless=False) as file:
        for index in range(10):
            file.write(picture(index), index / 25)
    assert len(read_video(tmp_path / "a.mp4")[0]) == 10
