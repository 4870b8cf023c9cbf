"""The table of candidates in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from pocketvit.report.data import CandidateRow, figure
from pocketvit.terminal import cell

STYLES = {"chosen": "bold green", "fits": "", "dropped": "dim", "rejected": "yellow", "too": "dim"}


def candidates_table(
    rows: Sequence[CandidateRow],
    metric_name: str,
    metric_unit: str = "",
    *,
    title: str | None = None,
    reasons: bool = False,
) -> Table:
    """A rich table: candidate, metric, ms p50/p90, MB, verdict (with its reason on a line below if ``reasons``).

    The memory column appears where it was measured.
    """
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", header_style="bold", pad_edge=False)
    table.add_column("candidate", overflow="fold")
    memory = ["RAM MB"] if any(row.memory_mb is not None for row in rows) else []
    sizes = {row.image for row in rows if row.image is not None}
    timed = "".join(f"\non {height}x{width}" for height, width in sizes) if len(sizes) == 1 else ""
    for name in (f"{metric_name} {metric_unit}".rstrip(), f"ms p50/p90{timed}", "MB", *memory):
        table.add_column(cell(name), justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    # All of one model: the run's title has its name, and narrow terminals need the room.
    heads = {row.name.partition(" ")[0] for row in rows}
    alone = len(heads) == 1 and all(" " in row.name for row in rows)
    for row in rows:
        style = STYLES.get("chosen" if row.chosen else row.verdict.split(" ")[0], "")
        verdict = f"{row.verdict}\n{row.reason}" if reasons and row.reason else row.verdict
        p50, p90, size, ram = (figure(x, digits=3) for x in (row.p50_ms, row.p90_ms, row.size_mb, row.memory_mb))
        low, high = row.metric_interval or (None, None)
        interval = f" ({figure(low, digits=3)} to {figure(high, digits=3)})" if row.metric_interval else ""
        cells = [
            row.name.partition(" ")[2] if alone else row.name,
            f"{figure(row.metric)}{interval}",
            f"{p50} / {p90}",
            size,
            *([ram] if memory else []),
            verdict,
        ]
        table.add_row(*map(cell, cells), style=style)
    return table
