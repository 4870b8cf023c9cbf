"""What ``fit``, ``compress`` and ``demo`` return."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

from pocketvit.fit.rows import Row
from pocketvit.fit.tables import candidate_rows
from pocketvit.report.table import candidates_table
from pocketvit.terminal import cell


@dataclass(frozen=True)
class FitReport:
    """What fit measured and what it hands over."""

    folder: Path
    artifact: Path
    chosen: str
    why: str
    metric: str
    unit: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """Lines shown above the table."""
    exit_code: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        table = [vars(row) for row in candidate_rows(self.rows, self.why)]
        places = {"run": str(self.folder), "artifact": str(self.artifact), "report": str(self.folder / "report.html")}
        return {
            **places,
            "chosen": self.chosen,
            "why": self.why,
            "metric": self.metric,
            "candidates": table,
            "notes": list(self.notes),
        }

    def render(self) -> RenderableType:
        """The table of candidates and where things lie."""
        rows = candidate_rows(self.rows, self.why)
        table = candidates_table(rows, self.metric, self.unit)
        reasons = [
            f"{row.verdict}: {row.name}: {row.reason}"
            for row in rows
            if row.reason and not row.chosen and row.verdict != "fits"
        ]
        last = (
            f"chosen: {self.chosen}, {self.why}",
            f"artifact: {self.artifact}",
            f"report:   {self.folder / 'report.html'}",
        )
        return Group(*map(cell, self.notes), table, *map(cell, (*reasons, *last)))
