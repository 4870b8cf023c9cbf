"""A row: one file with what was measured on it and what became of it; kept on disk, so that a killed fit goes on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pocketvit.bench.timing import Timing
from pocketvit.errors import DataError
from pocketvit.export.built import Built
from pocketvit.files import write_json
from pocketvit.spec.target import CPU, variant_key
from pocketvit.spec.tasks.base import Measure

ROW = "row.json"


@dataclass(frozen=True)
class Row:
    """One file, or one candidate of which no file was measured."""

    name: str
    runtime: str = ""
    precision: str = ""
    device: str = CPU
    origin: str = ""
    """Which trained model it was made from."""
    before: str = ""
    """Name of the row whose file the step started from; empty for a float file."""
    step: str = ""
    """Name of the step; empty for a float file."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the step."""
    model: str = ""
    """Folder of the network where steps changed it; empty where it is the one that was trained."""
    built: Built | None = None
    measures: tuple[Measure, ...] = ()
    main: str = ""
    """Name of the metric that decides."""
    timing: Timing | None = None
    image: tuple[int, int] | None = None
    """Height and width of the image that was timed."""
    photos: int = 1
    """How many photos were timed in turns, of which the times are means: 1 where the time does not depend on them."""
    speedup: float | None = None
    """Median of the round-by-round ratios against the float file in the same runtime."""
    gain: float | None = None
    """The same against the file the step started from."""
    certain: bool = True
    """Both ratios lie above 1 with their whole 95 % interval."""
    attempt: int = 0
    """Which attempt of the step it was: 0 is the boldest."""
    memory_mb: float | None = None
    kept: bool = False
    baseline: bool = False
    """A library's default, to compare with; never handed over."""
    chosen: bool = False
    misses: tuple[str, ...] = ()
    """Limits of budget and floor that a kept row misses."""
    reason: str = ""
    ranking: tuple[tuple[str, float], ...] = ()
    calibration: tuple[int, str] | None = None
    """Number and SHA-256 of the images that the step was calibrated on."""
    exits: tuple[dict[str, Any], ...] = ()
    """Of a file with early exits what each threshold gives (:class:`pocketvit.compress.early_exit.Point`)."""
    rules: dict[str, Any] = field(default_factory=dict)
    """What it was measured and judged by, in plain JSON types: under other rules it is measured anew."""

    @property
    def key(self) -> str:
        """``runtime:precision``."""
        return variant_key(self.runtime, self.precision, self.device)

    @property
    def bytes(self) -> int | None:
        """Bytes on disk of the files."""
        return self.built.bytes if self.built else None

    @property
    def measure(self) -> Measure | None:
        """The metric that decides, with its interval."""
        return next((m for m in self.measures if m.name == self.main), None)

    @property
    def metric(self) -> float | None:
        """Value of the metric that decides."""
        return self.measure.value if self.measure else None

    def latency(self, percent: int) -> float | None:
        """A percentile of the latency in ms."""
        return None if self.timing is None else self.timing.percentile(percent)

    def slowest(self, percent: int) -> float | None:
        """Upper end of the 95 % interval of a percentile of the latency, in ms."""
        return None if self.timing is None else self.timing.interval(percent)[1]


def save_row(folder: Path, row: Row) -> None:
    """Write ``row.json``; files and the network's folder are stored as seen from ``folder``'s parent."""
    plain = asdict(row)
    if row.built is not None:
        files = [str(path.relative_to(folder.parent)) for path in (row.built.path, *row.built.companions)]
        plain["built"] = {"runtime": row.built.runtime, "precision": row.built.precision, "files": files}
        plain["built"] |= {"varies": row.built.varies}
    if row.model:
        plain["model"] = str(Path(row.model).relative_to(folder.parent))
    write_json(folder / ROW, plain)


def load_row(folder: Path, rules: dict[str, Any]) -> Row | None:
    """The row in ``folder``, or ``None`` where there is none, its files are gone, or it was judged by other rules.

    Raises:
        DataError: ``row.json`` is damaged.
    """
    file = folder / ROW
    if not file.is_file():
        return None
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        if plain["rules"] != rules:
            return None
        if plain["built"] is not None:
            path, *companions = (folder.parent / name for name in plain["built"]["files"])
            if not all(part.is_file() for part in (path, *companions)):
                return None
            known = plain["built"]
            built = Built(known["runtime"], known["precision"], path, tuple(companions))
            plain["built"] = replace(built, varies=bool(known.get("varies", False)))
        plain["measures"] = tuple(Measure(**measure) for measure in plain["measures"])
        plain["timing"] = plain["timing"] and Timing(tuple(plain["timing"]["times_ms"]))
        plain["image"] = plain["image"] and tuple(plain["image"])
        plain["model"] = plain["model"] and str(folder.parent / plain["model"])
        plain |= {"misses": tuple(plain["misses"]), "ranking": tuple(map(tuple, plain["ranking"]))}
        plain["calibration"] = tuple(plain["calibration"]) if plain.get("calibration") else None
        plain["exits"] = tuple(plain.get("exits", ()))
        return TypeAdapter(Row).validate_python(plain)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: cannot be read ({' '.join(str(error).split())[:120]}).", "Delete it.") from error
