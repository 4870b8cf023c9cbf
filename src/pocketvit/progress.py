"""Progress on standard error for work that may take longer than two seconds: a bar with count, rate and remaining time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

DELAY_SECONDS = 2.0


@contextmanager
def track(label: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Yield ``advance(count=1, note="")`` to call after each finished part, or ``count`` of them; the note is shown.

    The bar appears after two seconds, and only where standard error is a terminal; it goes away when the work is done.

    Args:
        label: what is going on, a few words.
        total: number of parts, ``None`` if unknown.
    """
    if not sys.stderr.isatty():
        yield lambda count=1, note="": None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}/s"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task, began, done, shown = bar.add_task(label, total=total, rate="-", note=""), time.monotonic(), 0, False

    def advance(count: int = 1, note: str = "") -> None:
        nonlocal done, shown
        done += count
        seconds = time.monotonic() - began
        if not shown and seconds > DELAY_SECONDS:
            bar.start()
            shown = True
        bar.update(task, completed=done, rate=f"{done / max(seconds, 1e-9):.3g}", note=note)

    try:
        yield advance
    finally:
        if shown:
            bar.stop()
