"""Progress of a training run on standard error: a bar with rate and time left, and a line for each epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from pocketvit.progress import track


def clock(seconds: float) -> str:
    """``1:02:03``, or ``2:03`` below an hour."""
    minutes, seconds = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


Advance = Callable[[int, int, float, float], None]
"""(batches, images, mean loss, share of the run that is done, 0 to 1) since the call before."""


class Reporter:
    """Shows how training goes; silent when ``quiet``."""

    def __init__(self, *, quiet: bool = False, label: str = "train") -> None:
        self.quiet, self.label, self._rate = quiet, label, 0.0

    @contextmanager
    def epoch(self, epoch: int, epochs: int | None, batches: int, done: int, start: float) -> Iterator[Advance]:
        """A bar for ``epoch``, counted from 0, of ``epochs`` (``None`` for a run by time, which ends in mid epoch).

        ``done`` of its ``batches`` and the share ``start`` of the run are behind it.
        """
        began, images_seen = time.monotonic(), 0
        name = f"{self.label} epoch {epoch + 1}" + (f"/{epochs}" if epochs else "")
        with track(name, batches, quiet=self.quiet) as step:
            step(done)

            def advance(batches: int, images: int, loss: float, share: float) -> None:
                nonlocal images_seen
                images_seen += images
                seconds = max(time.monotonic() - began, 1e-9)
                self._rate = images_seen / seconds
                left = clock(seconds / max(share - start, 1e-9) * (1 - share))
                step(batches, f"{self._rate:.0f} images/s  loss {loss:.4f}  {left} left of the run")

            yield advance

    def end_epoch(self, row: dict[str, Any], metric: str) -> None:
        """Print the epoch's line."""
        if self.quiet:
            return
        score = f"  {metric} {row[metric]:.2f}" if metric in row else ""
        Console(stderr=True, highlight=False).print(
            f"{self.label} epoch {row['epoch']} ({clock(row['seconds'])}): {self._rate:.0f} images/s, "
            f"loss {row['train_loss']:.4f}, lr {row['lr']:.2e}{score}",
            soft_wrap=True,
            markup=False,
        )
