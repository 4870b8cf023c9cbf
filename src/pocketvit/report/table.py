"""The table of candidates in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from pocketvit.report.data import CandidateRow, figure

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
    table.add_column(f"{metric_name}{f' {metric_unit}' if metric_unit else ''}", justify="right", no_wrap=True)
    table.add_column("ms p50/p90", justify="right", no_wrap=True)
    table.add_column("MB", justify="right", no_wrap=True)
    memory = any(row.memory_mb is not None for row in rows)
    if memory:
        table.add_column("RAM MB", justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for row in rows:
        style = STYLES.get("chosen" if row.chosen else row.verdict.split(" ")[0], "")
        verdict = f"{row.verdict}\n{row.reason}" if reasons and row.reason else row.verdict
        cells = [
            row.name,
            figure(row.metric),
            f"{figure(row.p50_ms, digits=3)} / {figure(row.p90_ms, digits=3)}",
            figure(row.size_mb, digits=3),
        ]
        cells += [figure(row.memory_mb, digits=3)] if memory else []
        # Text: names and reasons are no rich markup.
        table.add_row(*(Text(cell) for cell in [*cells, verdict]), style=style)
    return table
