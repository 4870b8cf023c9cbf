"""The one progress bar, on standard error: count, rate, remaining time and a note for work that may take long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pocketvit.terminal import is_watched

if TYPE_CHECKING:
    from rich.progress import Progress

DELAY_SECONDS = 2.0
_open: list[Progress] = []
"""The display of the outermost work; work within it adds its line there, for a terminal has one display."""


@contextmanager
def track(label: str, total: int | None, *, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """Yield ``advance(count=1, note="")``, to be called after finished parts.

    The bar appears after two seconds, also while the first part still runs, and only where standard error is a
    terminal; it goes away when the work is done. Work may be nested: each has its line.

    Args:
        label: what is going on, a few words.
        total: number of parts, ``None`` if unknown.
        quiet: show nothing.
    """
    if quiet or not is_watched():
        yield lambda count=1, note="": None
        return
    outermost = not _open
    if outermost:
        _open.append(_display())
    bar, began, done, said = _open[0], time.monotonic(), 0, ""
    task = bar.add_task(label, total=total, rate="-", note="", visible=False)

    def show() -> None:
        bar.update(task, visible=True)
        bar.start()  # nothing happens if it is shown already

    def advance(count: int = 1, note: str = "") -> None:
        nonlocal done, said
        done, said = done + count, note or said
        seconds = max(time.monotonic() - began, 1e-9)
        bar.update(task, completed=done, rate=f"{done / seconds:.3g}", note=said)

    timer = threading.Timer(DELAY_SECONDS, show)
    timer.daemon = True
    timer.start()
    try:
        yield advance
    finally:
        timer.cancel()
        timer.join()
        if outermost:
            _open.clear()
            if bar.live.is_started:
                bar.stop()
        else:
            bar.remove_task(task)


def _display() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}/s"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)
