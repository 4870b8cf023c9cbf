from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pocketvit
from pocketvit.cli import main
from pocketvit.errors import DataError, MissingDependencyError, UsageError
from pocketvit.runtimes.model import load
from pocketvit.serve import stream as module
from pocketvit.serve.stream import stream
from pocketvit.serve.streaming import feeds
from pocketvit.spec.images import write_image
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.tasks.depth import Depth
from pocketvit.spec.tasks.restore import Restored
from tests.serve.videos import FakeModel, picture, read_video, tcp_server, write_video
from tests.tiny import coloured, make_tiny_artifact, noisy, photo

CARS = Path("../shared/data/video/car-detection.mp4")


@pytest.fixture(scope="module")
def restorer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_artifact(tmp_path_factory.mktemp("stream") / "restore").path)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_artifact(tmp_path_factory.mktemp("stream") / "classify", "classify").path)


@pytest.fixture
def video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """30 frames at 25 a second, in the working folder."""
    monkeypatch.chdir(tmp_path)
    return str(write_video(tmp_path / "in.mp4", 30).relative_to(tmp_path))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``fake(model)``: what ``load`` gives in the command."""
    return lambda model: monkeypatch.setattr(module, "load", lambda *given, **how: model)


def test_a_file_is_answered_whole_and_stands_beside_the_original(restorer: str, video: str) -> None:
    report = pocketvit.stream(restorer, source=video, output="out/new.mp4")
    found = report.to_dict()
    assert [found[f"frames_{x}"] for x in ("in", "out", "dropped", "skipped")] == [30, 30, 0, 0]
    assert (found["frames"], found["ended"], found["exit_code"]) == ("every", "source", 0)
    assert found["video"] == {"codec": "libx264", "width": 128, "height": 48, "frames": 30}
    assert found["output"] == "out/new.mp4"
    assert found["latency_ms"]["count"] == 30
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p90"] <= found["latency_ms"]["max"]
    frames, times = read_video(Path("out/new.mp4"))
    np.testing.assert_allclose(times, np.arange(30) / 25, atol=1e-3)
    model, originals = load(restorer), read_video(Path(video))[0]
    for index in (0, 13, 29):
        want = np.concatenate([originals[index], model(originals[index]).image], axis=1)  # type: ignore[attr-defined]
        assert np.abs(frames[index].astype(int) - want).mean() < 8
    json.dumps(found, allow_nan=False)


def test_only_the_answer_and_strength(restorer: str, video: str) -> None:
    report = stream(restorer, source=video, output="a.mp4", view="answer", strength=0.0)
    assert report.video is not None
    assert (report.video["width"], report.strength) == (64, 0.0)
    frames, originals = read_video(Path("a.mp4"))[0], read_video(Path(video))[0]
    assert np.abs(frames[9].astype(int) - originals[9]).mean() < 4


def test_without_output_a_file_is_played_and_late_frames_are_dropped(video: str, fake: Any) -> None:
    fake(FakeModel("restore", Restored, seconds=0.15))
    report = stream("any", source=video)
    found = report.to_dict()
    assert (found["frames"], found["frames_in"], found["output"]) == ("newest", 30, None)
    assert 4 <= found["frames_out"] <= 12  # 1.2 s at 150 ms each
    assert found["frames_dropped"] == 30 - found["frames_out"] > 0
    assert found["latency_ms"]["p90"] < 1500
    assert 1.1 < found["seconds"] < 6
    assert found["model_ms"]["p50"] >= 149


def test_newest_also_for_files_that_are_written(video: str, fake: Any) -> None:
    fake(FakeModel("restore", Restored, seconds=0.15))
    report = stream("any", source=video, output="a.mp4", frames="newest")
    times = read_video(Path("a.mp4"))[1]
    assert len(times) == report.counts.answered < 30
    assert times[-1] == pytest.approx(29 / 25, abs=0.01)  # each at its own time: the file is as long as the source
    with pytest.raises(UsageError, match="there already"):
        stream("any", source=video, output="a.mp4")
    assert stream("any", source=video, output="a.mp4", overwrite=True, seconds=0.4).counts.answered == 10


def test_seconds_end_it(restorer: str, video: str) -> None:
    report = stream(restorer, source=video, output="a.mp4", seconds=0.4)
    assert (report.ended, report.counts.came, report.exit_code) == ("seconds", 10, 0)


def test_labels_with_their_path_are_written_on_frames(classifier: str, tmp_path: Path) -> None:
    for index in range(4):
        write_image(tmp_path / "in" / f"{index}.png", coloured(index, 96, 256))
    report = stream(classifier, source=str(tmp_path / "in"), output=str(tmp_path / "a.mp4"), fps=5)
    assert report.answer is not None
    assert report.answer["path"] == ["cold", "blue"]
    frames, times = read_video(tmp_path / "a.mp4")
    np.testing.assert_allclose(times, [0, 0.2, 0.4, 0.6], atol=1e-3)
    for index, frame in enumerate(frames):
        assert np.abs(frame[:70].astype(int) - coloured(index, 96, 256)[:70]).mean() < 20
        assert frame[-3:].mean() < 60  # the bar


def test_images_that_cannot_be_read_are_skipped_and_said(restorer: str, tmp_path: Path) -> None:
    for index in range(3):
        write_image(tmp_path / "in" / f"{index}.png", noisy(photo(50, 70, index)))
    (tmp_path / "in" / "1.png").write_bytes(b"no image")
    report = stream(restorer, source=str(tmp_path / "in"))
    assert (report.frames, report.counts.answered, report.counts.skipped) == ("every", 2, 1)
    assert report.exit_code == 3
    assert "1.png" in report.faults[0]
    for index in (0, 2):
        (tmp_path / "in" / f"{index}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"0\.png"):
        stream(restorer, source=str(tmp_path / "in"))


def depth_of(pixels: Pixels) -> Depth:
    """A slope that trembles from frame to frame."""
    rng = np.random.default_rng(int(pixels.sum()))
    slope = np.linspace(1, 4, 24 * 32).reshape(24, 32) * (1 + rng.normal(0, 0.02, (24, 32)))
    return Depth(slope.astype(np.float32))


def test_depth_is_smoothed_coloured_and_its_flicker_measured(video: str, fake: Any) -> None:
    fake(FakeModel("depth", depth_of))
    report = stream("any", source=video, output="a.mp4")
    flicker = report.to_dict()["flicker_percent"]
    assert flicker["pairs"] == 29
    assert flicker["after"] < flicker["before"] / 2
    assert "Measured: flicker" in str(report.render())
    frames = read_video(Path("a.mp4"))[0]
    assert frames[0].shape == (48, 128, 3)
    assert frames[20][:8, 70:].mean() > frames[20][-8:, 70:].mean() + 50  # near, above, is bright
    plain = stream("any", source=video, smooth=0.0, frames="every").to_dict()["flicker_percent"]
    assert plain["after"] == pytest.approx(plain["before"])


def test_a_broadcast_is_lost_found_given_up_and_its_file_plays(
    tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "FIRST_WAIT", 0.05)
    fake(FakeModel("depth", depth_of))
    data = write_video(tmp_path / "a.ts", 60, form="mpegts").read_bytes()
    with tcp_server([data, data], pause=0.005) as address:
        report = stream("any", source=address, output=str(tmp_path / "out.mp4"), retries=2)
    found = report.to_dict()
    assert (found["live"], found["ended"], found["exit_code"]) == (True, "lost", 3)
    assert (found["losses"], found["reconnects"]) == (2, 1)
    assert found["frames_in"] == found["frames_out"] + found["frames_dropped"] > 60
    assert "Connection refused" in found["faults"][0]
    frames, times = read_video(tmp_path / "out.mp4")
    assert len(frames) == found["frames_out"] == found["video"]["frames"]
    assert times == sorted(set(times))


def test_a_truncated_file_gives_what_it_has_and_exits_3(restorer: str, video: str) -> None:
    data = Path(video).read_bytes()
    Path("cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    report = stream(restorer, source="cut.mp4", output="a.mp4")
    assert report.exit_code == 3
    assert "cut off" in report.faults[0]
    assert 0 < len(read_video(Path("a.mp4"))[0]) == report.counts.answered < 30


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"output": "windows"}, "is no .mp4 file"),
        ({"output": "a.avi"}, "is no .mp4 file"),
        ({"output": "in.mp4"}, "is the source itself"),
        ({"smooth": 0.5}, "smooth goes with depth"),
        ({"strength": 3.0}, "strength of tiny-restore"),
        ({"seconds": 0.0}, "seconds must be"),
        ({"fps": 5.0}, "fps is the speed of a folder"),
        ({"retries": -1}, "retries must be"),
        ({"target": "onnxruntime:int8"}, "int8"),
    ],
)
def test_options_that_cannot_be(restorer: str, video: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        stream(restorer, **{"source": video, **options})
    assert os.listdir() == ["in.mp4"]


def test_a_live_source_does_not_wait(tmp_path: Path, fake: Any) -> None:
    fake(FakeModel("restore", Restored))
    data = write_video(tmp_path / "a.ts", 30, form="mpegts").read_bytes()
    with tcp_server([data]) as address, pytest.raises(UsageError, match="is live and does not wait"):
        stream("any", source=address, frames="every")


def test_what_cannot_be_drawn_needs_no_output(video: str, fake: Any) -> None:
    class Bare:
        line = "bare"

        def to_dict(self, top: int = 5) -> dict[str, Any]:
            return {"bare": top}

    fake(FakeModel("restore", lambda pixels: Bare()))
    with pytest.raises(UsageError, match="cannot be drawn"):
        stream("any", source=video, output="a.mp4")
    assert os.listdir() == ["in.mp4"]
    assert stream("any", source=video, frames="every").answer == {"bare": 1}


def test_without_pyav_it_exits_6(
    restorer: str, video: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["stream", restorer, "--source", video]) == 6
    assert capsys.readouterr().err == 'av is not installed.\nRun: pip install "pocketvit[stream]"\n'
    with pytest.raises(MissingDependencyError):
        stream(restorer, source=video, output="a.mp4")


def test_the_command_line(restorer: str, video: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", restorer, "--source", video, "--output", "a.mp4", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["frames_out"] == 30
    assert main(["stream", restorer, "--source", video, "--frames", "every"]) == 0
    assert "30 of 30 frames of in.mp4 answered" in capsys.readouterr().out
    assert main(["stream", restorer, "--source", "nope.mp4", "--json"]) == 3
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"]["exit_code"] == 3
    assert len(printed.err.strip().splitlines()) == 2
    assert main(["stream", restorer, "--source", "97"]) == 3
    assert "97" in capsys.readouterr().err
    assert main(["stream", "--help"]) == 0
    assert "--source" in capsys.readouterr().out


def started(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    """A real process, once it writes its file."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "pocketvit.cli", "stream", *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=folder, text=True, env=environment, **pipes)
    for _ in range(600):
        if list(folder.glob(".*.partial.mp4")) or process.poll() is not None:
            break
        time.sleep(0.1)
    time.sleep(1.0)
    return process


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_file_that_plays(restorer: str, tmp_path: Path, number: int, code: int) -> None:
    write_video(tmp_path / "in.mp4", 600, 10)  # a minute
    process = started([restorer, "--source", "in.mp4", "--output", "out.mp4", "--frames", "newest", "--json"], tmp_path)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    found = json.loads(out)
    assert (found["ended"], found["exit_code"]) == ("signal", code)
    assert found["frames_in"] == found["frames_out"] + found["frames_dropped"] + found["frames_skipped"]
    frames, times = read_video(tmp_path / "out.mp4")
    assert len(frames) == found["frames_out"] > 3
    for frame, seconds in zip(frames, times):  # each at its own time, dropped ones between them or not
        assert np.abs(frame[:, :64].astype(int) - picture(round(10 * seconds))).mean() < 8
    assert times == sorted(set(times))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


@pytest.mark.slow
def test_ctrl_c_is_how_a_live_stream_ends(restorer: str, tmp_path: Path) -> None:
    data = write_video(tmp_path / "a.ts", 3000, form="mpegts").read_bytes()
    with tcp_server([data], pause=0.02) as address:
        process = started([restorer, "--source", address, "--output", "out.mp4", "--json"], tmp_path)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    found = json.loads(out)
    assert (found["ended"], found["live"]) == ("signal", True)
    assert len(read_video(tmp_path / "out.mp4")[0]) == found["frames_out"] > 0


@pytest.mark.slow
@pytest.mark.skipif(not CARS.exists(), reason="no shared data")
def test_the_sample_video_with_a_slow_model_keeps_latency_bounded(tmp_path: Path, fake: Any) -> None:
    fake(FakeModel("restore", Restored, seconds=0.25))
    found = stream("any", source=str(CARS), seconds=8, frames="newest", output=str(tmp_path / "a.mp4")).to_dict()
    assert found["frames_in"] == 100  # 12.5 a second
    assert 15 < found["frames_out"] < 40
    assert found["frames_dropped"] == 100 - found["frames_out"]
    assert found["latency_ms"]["p50"] < 1000  # a queue of all would be 17 s late at the end
    frames, times = read_video(tmp_path / "a.mp4")
    assert len(frames) == found["frames_out"]
    assert frames[0].shape == (432, 1536, 3)
    assert times[-1] == pytest.approx(99 / 12.5, abs=0.4)


@pytest.mark.slow
@pytest.mark.skipif(not CARS.exists(), reason="no shared data")
def test_the_sample_video_with_a_real_denoiser(tmp_path: Path) -> None:
    found = stream("denoise-photo", source=str(CARS), seconds=0.4, output=str(tmp_path / "a.mp4")).to_dict()
    assert (found["frames_out"], found["frames_dropped"], found["exit_code"]) == (5, 0, 0)
    frames = read_video(tmp_path / "a.mp4")[0]
    assert len(frames) == 5
    left, right = frames[2][:, :768].astype(int), frames[2][:, 768:].astype(int)
    assert 0 < np.abs(left - right).mean() < 10


@pytest.mark.slow
def test_memory_does_not_grow_with_the_stream(tmp_path: Path) -> None:
    """A real process on 1000 and on 4000 frames: the same peak."""
    write_video(tmp_path / "in.mp4", 4000)
    code = (
        "import sys, resource; from pocketvit.serve import stream as m; from tests.serve.videos import FakeModel\n"
        "from pocketvit.spec.tasks.restore import Restored\n"
        "m.load = lambda *a, **k: FakeModel('restore', Restored)\n"
        "print(m.stream('x', source='in.mp4', frames='every', seconds=float(sys.argv[1])).counts.answered)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(Path.cwd())])}
    peaks = []
    for seconds, count in (("40", 1000), ("1000", 4000)):
        command = [sys.executable, "-c", code, seconds]
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250)
        assert run.returncode == 0, run.stderr
        answered, peak = map(int, run.stdout.split())
        assert answered == count
        peaks.append(peak)
    assert peaks[1] < 1.05 * peaks[0]


def test_a_file_that_is_played_for_nobody_is_told(restorer: str, video: str) -> None:
    assert "--output window" in stream(restorer, source=video, seconds=0.2).notes[-1]
    assert stream(restorer, source=video, seconds=0.2, output="a.mp4").notes == ()
