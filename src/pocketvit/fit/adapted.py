"""What training on corrections reached, against what was shipped before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvit.files import plain

LEVEL = 0.025


@dataclass(frozen=True)
class Difference:
    """How much better the adapted model is on the corrections that were kept out, of the same photos."""

    metric: str
    before: float
    after: float
    gain: float
    """Mean of the differences, above 0 where it is better."""
    low: float
    high: float
    """95 % interval of the gain, by resampling the photos."""
    count: int
    p: float | None = None
    """Of right and wrong answers: exact one-sided sign test of those that differ (McNemar, Psychometrika 1947)."""

    @property
    def sure(self) -> bool:
        """Whether the gain is above 0 at 2.5 % one-sided; never where it is no number."""
        return self.low > 0 and (self.p is None or self.p <= LEVEL)

    @property
    def line(self) -> str:
        """For people."""
        gain = f"{self.gain:+.3g} ({self.low:+.3g} to {self.high:+.3g})"
        gain += "" if self.p is None else f", sign test p {self.p:.2g}"
        return f"{self.metric} of {self.count} corrections kept out: {self.before:.4g} -> {self.after:.4g}, {gain}"


@dataclass(frozen=True)
class AdaptReport:
    """What adapting reached and where it lies."""

    folder: Path
    artifact: Path
    version: str
    metric: str
    before: float
    """Of the shipped model on the original validation photos."""
    after: float
    corrections: Difference
    chosen: str
    published: str = ""
    notes: tuple[str, ...] = ()
    exit_code: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**plain(vars(self)), "trial": "adapted"}

    def render(self) -> str:
        """Lines for people."""
        lines = [f"note: {note}" for note in self.notes]
        lines.append(f"{self.metric} of the original validation photos: {self.before:.4g} -> {self.after:.4g}")
        lines += [self.corrections.line, f"artifact: {self.artifact} {self.version} ({self.chosen})"]
        return "\n".join(lines + ([f"published: {self.published}"] if self.published else []))
