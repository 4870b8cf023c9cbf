"""The ``stream`` command: an artifact on a camera, a broadcast, a video or a folder of images, frame by frame."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pocketvit.errors import DataError, UsageError
from pocketvit.files import make_folder
from pocketvit.interrupts import Interrupted, deferred
from pocketvit.progress import track
from pocketvit.runtimes.model import Model, load
from pocketvit.runtimes.strength import check_strength
from pocketvit.serve.streaming.drawing import Painter, painter
from pocketvit.serve.streaming.feeds import RETRIES, Health
from pocketvit.serve.streaming.pipeline import Answered, Counts, Plan, run
from pocketvit.serve.streaming.sources import Source, open_source
from pocketvit.serve.streaming.stream_report import StreamReport, ending, faults_of, notes_of
from pocketvit.serve.streaming.video_file import VideoFile, encoder
from pocketvit.serve.streaming.window import Window
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.base import Follower, Result
from pocketvit.spec.typed import Range, check_range
from pocketvit.terminal import shown

NONE, WINDOW, SUFFIX = "none", "window", ".mp4"


def stream(
    artifact: str,
    *,
    source: str = "0",
    output: str = NONE,
    frames: Literal["auto", "newest", "every"] = "auto",
    view: Literal["both", "answer"] = "both",
    target: str | None = None,
    strength: float | None = None,
    smooth: float | None = None,
    seconds: float | None = None,
    fps: float | None = None,
    retries: int = RETRIES,
    overwrite: bool = False,
    trust: bool = False,
) -> StreamReport:
    """Run an artifact on a camera, a video or a folder of images, frame by frame.

    The newest frame wins: a model that is slower than its camera answers for fewer frames and not later and later, and
    what is dropped is counted. A file or folder that is written to a video is answered whole (--frames every); a file
    without output is played at its own speed, as if it were a camera, and shows whether the model keeps up.

    Restored frames are drawn beside the originals, depth as colours in a range that stays, masks in colours and boxes
    over the frame, labels on it. A live source that breaks is opened again. Ctrl-C and SIGTERM end the stream and leave
    a file that plays. Latency counts from when a frame comes from the camera or network (exposure and the camera's own
    encoding are not seen), or is due in a played file, to when its answer is there, drawn where it is drawn; of
    --frames every from when it is read.

    Args:
        artifact: artifact folder, run folder, .pvit file or the name of a shipped artifact.
        source: number of a camera (Linux), an address such as rtsp://..., a video file, or a folder of images.
        output: file to write, ending in .mp4; window shows the frames on the screen (Esc, q or closing it ends the
            stream); none does neither.
        frames: newest drops frames that come while the model works, every waits for it (not with live sources). By
            default every for folders, and for files that are written to a video; else newest.
        view: both shows each frame beside its answer, answer only the answer.
        target: runtime:precision[:threads]; by default the artifact's own.
        strength: how strongly frames are restored, 0 to 2; see predict.
        smooth: of depth and masks, the share that each answer keeps of those before it, 0 (off) to below 1; by default
            0.8 and 0.7.
        seconds: end after so many seconds of the stream.
        fps: frames in a second of a folder of images; 25 by default.
        retries: how often a live source that broke is opened again before it is given up, after 0.5, 1, 2, 4, 8 s.
        overwrite: replace a file that is there already.
        trust: also run files that are programs (TorchScript), which may do anything on this machine.

    Raises:
        DataError: the source is not there, is no video or gives no frame, or the output cannot be written.
        UsageError: no such artifact or variant, or options that do not go together.
        MissingDependencyError: PyAV is not installed.
    """
    source = os.fsdecode(source) if isinstance(source, os.PathLike) else str(source)
    check_range("seconds", seconds, Range(0, 1e9, above=True))
    check_range("fps", fps, Range(0.01, 1000))
    check_range("retries", retries, Range(0, 1000))
    model = load(artifact, target, trust=trust)
    check_strength(model.manifest, strength)
    follower = _follower(model, smooth)
    place = _place(output, source, overwrite)
    opened = open_source(source, fps=fps, retries=retries)
    newest = _newest(opened, frames, place)
    job = _Job(model, opened, newest, place, strength, seconds, follower, view == "both", overwrite)
    job.window = output == WINDOW
    return job.run()


def _follower(model: Model, smooth: float | None) -> Follower | None:
    task = TASKS[model.manifest.task]
    if smooth is not None and task.follow is None:
        what = f"smooth goes with depth and masks; {model.manifest.name} {task.purpose}."
        raise UsageError(what, "Leave it out.")
    return task.follow(smooth) if task.follow is not None else None


def _place(output: str, source: str, overwrite: bool) -> Path | None:
    """The file to write, found to be free and writable before any work."""
    if output in (NONE, WINDOW):
        return None
    path = Path(output)
    if path.suffix.lower() != SUFFIX:
        raise UsageError(f"output {output}: is no .mp4 file.", "Name a file that ends in .mp4, window or none.")
    if os.path.realpath(path) == os.path.realpath(source):
        raise UsageError(f"output {output} is the source itself.", "Name another file; inputs are never overwritten.")
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"output {output} is there already.", "Name another file, or replace it with --overwrite.")
    encoder()
    make_folder(path.parent)
    return path


def _newest(source: Source, frames: str, place: Path | None) -> bool:
    """Whether the newest frame wins."""
    if source.live:
        if frames == "every":
            what = f"frames every: {source.name} is live and does not wait."
            raise UsageError(what, "Leave it out, or save the stream to a file first.")
        return True
    return frames == "newest" or (frames == "auto" and place is None and not source.folder)


@dataclass
class _Job:
    """One run of the command."""

    model: Model
    source: Source
    newest: bool
    place: Path | None
    strength: float | None
    seconds: float | None
    follower: Follower | None
    both: bool
    overwrite: bool
    window: bool = False
    last: Result | None = None
    """The newest answer."""

    def run(self) -> StreamReport:
        """Stream, and say what came of it."""
        health, stop = Health(), threading.Event()
        sink: VideoFile | Window | None = None
        with ExitStack() as stack:
            if self.place is not None:
                endless, rate = self.source.live, self.source.rate
                sink = stack.enter_context(VideoFile(self.place, rate, endless=endless, overwrite=self.overwrite))
            elif self.window:
                sink = stack.enter_context(Window(f"{self.model.manifest.name} - {self.source.name}"))
            feed = self.source.play(stop, health, self.newest)
            answer, deliver = self._answer(health), self._deliver(sink)
            counts = Counts()
            with suppress(Interrupted), track(f"stream {self.source.name}", self.source.count) as advance:
                tick = self._tick(advance, sink if isinstance(sink, Window) else None, stop)
                plan = Plan(answer, deliver, self.newest, self.source.live, self.seconds, tick)
                with deferred() as check:  # raises again at its end what stands in the counts
                    counts = run(feed, plan, stop, health, check)
            self._need_frames(counts, health)
        return self._report(counts, health, sink)

    def _answer(self, health: Health) -> Callable[[Pixels], Result]:
        found = health.reconnects

        def answer(pixels: Pixels) -> Result:
            nonlocal found
            result = self.model(pixels, strength=self.strength)
            if self.follower is None:
                return result
            if health.reconnects != found:
                found = health.reconnects
                self.follower.reset()
            steady: Result = self.follower.steady(result)
            return steady

        return answer

    def _deliver(self, sink: VideoFile | Window | None) -> Callable[[Answered], float]:
        paint: Painter | None = None
        if sink is not None:
            paint = painter(TASKS[self.model.manifest.task], self.follower, self.both)

        def deliver(answered: Answered) -> float:
            self.last = answered.result
            if sink is None or paint is None:
                return time.perf_counter()
            picture = paint(answered.result, answered.pixels)
            seen = time.perf_counter()
            sink.write(picture, answered.frame.time)
            return time.perf_counter() if isinstance(sink, Window) else seen

        return deliver

    def _tick(
        self, advance: Callable[..., None], window: Window | None, stop: threading.Event
    ) -> Callable[[Counts], None]:
        before, shown_at = 0, -1.0

        def tick(counts: Counts) -> None:
            nonlocal before, shown_at
            if window is not None:
                window.poll()
                if window.closed:
                    stop.set()
            if counts.seconds - shown_at < 0.25:  # answers in words cost time
                return
            shown_at = counts.seconds
            note = f"{counts.answered} out, {counts.dropped} dropped"
            if counts.answered:
                note += f", {counts.latency.at(50):.0f} ms (p90 {counts.latency.at(90):.0f} ms)"
            if self.last is not None:
                note += f", {shown(self.last.line)}"
            advance(counts.came - before, note)
            before = counts.came

        return tick

    def _need_frames(self, counts: Counts, health: Health) -> None:
        """Refuse a source of which nothing could be answered, unless somebody ended it before."""
        if counts.answered or counts.interrupted is not None:
            return
        reasons = [*self.source.faults, *([health.lost] if health.lost else []), *counts.reasons]
        if reasons or not self.source.live:
            what = f"{reasons[0].rstrip('.')}; no frame came of it." if reasons else "there is no frame in it."
            named = what if self.source.name in what else f"{self.source.name}: {what}"
            raise DataError(named, "Look whether another program plays it, and copy it again or take another.")

    def _report(self, counts: Counts, health: Health, sink: VideoFile | Window | None) -> StreamReport:
        manifest, output, video = self.model.manifest, None, None
        if isinstance(sink, VideoFile) and sink.size is not None:
            height, width = sink.size
            output, video = self.place, {"codec": sink.codec, "width": width, "height": height, "frames": sink.frames}
        return StreamReport(
            artifact=manifest.name,
            variant=self.model.target.key,
            task=manifest.task,
            source=self.source.name,
            live=self.source.live,
            frames="newest" if self.newest else "every",
            counts=counts,
            health=health,
            ended="window" if isinstance(sink, Window) and sink.closed else ending(counts, health),
            output=output,
            video=video,
            answer=self.last.to_dict(1) if self.last is not None else None,
            followed=self.follower.to_dict() if self.follower is not None else {},
            faults=tuple(faults_of(self.source, counts, health)),
            notes=(*self._measured(), *notes_of(self.source, counts, health, output)),
            strength=self.strength,
        )

    def _measured(self) -> tuple[str, ...]:
        line = self.follower.line if self.follower is not None else ""
        measured = (f"Measured: {line}.",) if line else ()
        nowhere = self.place is None and not self.window and not self.source.live
        told = "Nothing was written or shown: --output out.mp4 or --output window does."
        return (*measured, told) if nowhere else measured
