"""Progress of a training run on standard error: a bar with images per second and time left, and a line for each epoch."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Reporter:
    """Shows how training goes; silent when ``quiet``. Usable as a context manager around the epochs."""

    def __init__(self, *, quiet: bool = False, label: str = "train") -> None:
        self.quiet, self.label = quiet, label
        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=quiet,
        )
        self._task = self._bar.add_task(label, total=None, note="")
        self._began, self._images = time.monotonic(), 0

    def __enter__(self) -> Reporter:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start_epoch(self, epoch: int, epochs: int, batches: int, done: int, batch_size: int) -> None:
        """Begin an epoch of ``batches`` batches of which ``done`` are behind it."""
        self._began, self._images, self._left = time.monotonic(), 0, (epochs - epoch) * batches - done
        self._bar.reset(
            self._task, total=batches, completed=done, description=f"{self.label} epoch {epoch + 1}/{epochs}", note=""
        )

    def advance(self, batches: int, images: int, loss: float, elapsed: float, minutes: float | None) -> None:
        """Count finished batches and images; show rate, mean loss and time left."""
        self._images += images
        self._left -= batches
        seconds = max(time.monotonic() - self._began, 1e-9)
        rate = self._images / seconds
        left = 60 * minutes - elapsed if minutes else self._left / max(batches, 1) * images / max(rate, 1e-9)
        self._bar.update(self._task, advance=batches, note=f"{rate:.0f} images/s  loss {loss:.4f}  {_clock(left)} left")

    def end_epoch(self, row: dict[str, Any], metric: str) -> None:
        """Print the epoch's line."""
        if self.quiet:
            return
        rate = self._images / max(time.monotonic() - self._began, 1e-9)
        score = f"  {metric} {row[metric]:.2f}" if metric in row else ""
        self._console.print(
            f"{self.label} epoch {int(row['epoch'])}: {rate:.0f} images/s incl. validation, loss {row['train_loss']:.4f}, lr {row['lr']:.2e}{score}",
            soft_wrap=True,
        )
