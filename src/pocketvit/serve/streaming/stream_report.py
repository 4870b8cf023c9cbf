"""What is said of a stream that ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pocketvit.errors import DataError
from pocketvit.files import plain
from pocketvit.serve.streaming.feeds import Health
from pocketvit.serve.streaming.pipeline import Counts
from pocketvit.serve.streaming.sources import Source
from pocketvit.terminal import cell, shown

if TYPE_CHECKING:
    from rich.console import RenderableType

Ended = Literal["source", "seconds", "signal", "lost", "window"]
SLIPPED = 1.0
"""Seconds that decoding may be late before it is worth saying."""


@dataclass(frozen=True)
class StreamReport:
    """What came, what was answered, how late, and how it ended."""

    artifact: str
    variant: str
    task: str
    source: str
    frames: Literal["newest", "every"]
    """Whether frames were dropped where the model is slower than they come."""
    counts: Counts
    health: Health
    ended: Ended
    """What ended it: the source was over, the time was, a signal came, the source was lost, or its window
    was closed."""
    output: Path | None
    video: dict[str, Any] | None
    """Codec, size and number of frames of the file that was written."""
    live: bool
    answer: dict[str, Any] | None
    """The newest answer."""
    followed: dict[str, Any]
    """Of depth: smoothing, and flicker before and after."""
    faults: tuple[str, ...] = ()
    """What was wrong with the source."""
    notes: tuple[str, ...] = ()
    strength: float | None = None

    @property
    def exit_code(self) -> int:
        """0; 3 where the source was damaged or lost; that of the signal where a recording was interrupted.

        A live source has no end of its own: to stop it with Ctrl-C is how one ends it.
        """
        if (signal := self.counts.interrupted) is not None and not self.live:
            return signal.exit_code
        return DataError.exit_code if self.faults else 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        counts, health, seconds = self.counts, self.health, max(self.counts.seconds, 1e-9)
        who = ("artifact", "variant", "task", "strength", "source", "live", "frames", "ended", "output", "video")
        return plain(
            {
                **{name: getattr(self, name) for name in who},
                "frames_in": counts.came,
                "frames_out": counts.answered,
                "frames_dropped": counts.dropped,
                "frames_skipped": counts.skipped,
                "seconds": counts.seconds,
                "fps_in": counts.came / seconds,
                "fps_out": counts.answered / seconds,
                "latency_ms": counts.latency,
                "model_ms": counts.model,
                "losses": health.losses,
                "reconnects": health.reconnects,
                "events": health.events,
                "packets_damaged": health.damaged,
                **self.followed,
                "answer": self.answer,
                "faults": self.faults,
                "notes": self.notes,
                "exit_code": self.exit_code,
            }
        )

    def render(self) -> RenderableType:
        """A few lines."""
        return cell("\n".join(self._lines()))

    def _lines(self) -> list[str]:
        counts, seconds = self.counts, max(self.counts.seconds, 1e-9)
        knob = "" if self.strength is None else f", strength {self.strength:g}"
        lines = [
            f"{counts.answered} of {counts.came} frames of {shown(self.source)} answered in {counts.seconds:.1f} s "
            f"({counts.answered / seconds:.1f} frames/s) with {self.artifact} ({self.variant}{knob}); "
            f"{counts.dropped} dropped, {counts.skipped} skipped."
        ]
        if counts.answered:
            late, model = counts.latency, counts.model
            since = "From the camera" if self.live else "From reading a frame"
            since = "From when a frame is due" if self.frames == "newest" and not self.live else since
            lines.append(
                f"{since} to the answer p50 {late.at(50):.1f} ms, p90 {late.at(90):.1f} ms, "
                f"at most {late.most:.1f} ms; of it the model p50 {model.at(50):.1f} ms, p90 {model.at(90):.1f} ms."
            )
        if self.output is not None and self.video is not None:
            size = f"{self.video['width']}x{self.video['height']}, {self.video['frames']} frames"
            lines.append(f"Written to {shown(self.output)}: {self.video['codec']}, {size}.")
        if self.health.losses:
            lines.append(f"Lost {self.health.losses} times, found again {self.health.reconnects} times.")
        return [*lines, *map(shown, self.faults), *map(shown, self.notes)]


def ending(counts: Counts, health: Health) -> Ended:
    """What ended a stream."""
    if counts.interrupted is not None:
        return "signal"
    return "lost" if health.lost else "seconds" if counts.limited else "source"


def faults_of(source: Source, counts: Counts, health: Health) -> Iterator[str]:
    """What was wrong with a source, in sentences."""
    yield from source.faults
    if health.lost:
        yield f"Lost: {health.lost.rstrip('.')}."
    if health.damaged and not source.live:  # of a broadcast some always are, when one comes in the middle
        yield f"{source.name}: {health.damaged} packets could not be decoded."
    if counts.skipped:
        yield f"{counts.skipped} frames were skipped: {'; '.join(reason.rstrip('.') for reason in counts.reasons[:3])}."


def notes_of(source: Source, counts: Counts, health: Health, output: Path | None) -> Iterator[str]:
    """What else there is to say."""
    yield from source.notes
    if health.slipped > SLIPPED:
        yield f"{source.name} was decoded slower than it plays, by {health.slipped:.1f} s in all; its clock waited."
    if counts.interrupted is not None and not source.live:
        kept = f"; {output} holds what came before it" if output is not None else ""
        yield f"The stream was ended by a signal{kept}."
