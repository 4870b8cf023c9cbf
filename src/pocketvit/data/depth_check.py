"""What is wrong with the depth maps of a data set: unreadable, empty, of another unit, or not of their photo.

An error is a map that readers stumble over, a warning one that trains or scores a model on something else than depth.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pocketvit.data.entries import Entry
from pocketvit.errors import DataError, MissingDependencyError, UsageError, did_you_mean
from pocketvit.progress import track
from pocketvit.spec.depth_files import NO_VALUE, read_depth, same_view
from pocketvit.spec.images import size_of
from pocketvit.terminal import shown

FARTHEST, NEAREST = 200.0, 0.05
"""Metres; no photo has more or less as the median of its depths: then the unit is another one."""
FEW = 0.001
"""A map with a smaller share of valid pixels says next to nothing; projected laser points have about 0.04."""


@dataclass(frozen=True)
class DepthFinding:
    """Something odd about one depth map."""

    path: Path
    text: str
    """A phrase for people, the same for the same kind of oddity up to numbers."""
    severity: Literal["error", "warning"]
    kind: str = ""
    """What findings are counted by."""


@dataclass(frozen=True)
class MapFacts:
    """One readable depth map. Depths are of its valid pixels, in metres; NaN where there is none."""

    path: Path
    valid: float
    """Share of pixels, 0 to 1."""
    low: float
    """1st percentile."""
    median: float
    high: float
    """99th percentile."""
    neighbours: float
    """Share of the valid pixels whose right neighbour is valid: near 1 for dense maps, little for laser points."""
    smaller: bool = False
    """It has another size than its photo, and the same aspect."""


@dataclass(frozen=True)
class DepthReport:
    """What was found in all depth maps."""

    maps: int
    readable: int
    valid: float
    """Mean share of valid pixels of a map."""
    low: float
    """Metres, the least 1st percentile of a map."""
    median: float
    """Median of the maps' medians."""
    high: float
    """The largest 99th percentile."""
    neighbours: float
    """Mean share of valid pixels with a valid neighbour."""
    smaller: int
    """Maps of another size than their photo, with its aspect."""
    findings: tuple[DepthFinding, ...]
    """Sorted by path."""
    layout: str = ""
    """As which they were read."""

    @property
    def errors(self) -> tuple[Path, ...]:
        """Maps that readers stumble over."""
        return tuple(dict.fromkeys(finding.path for finding in self.findings if finding.severity == "error"))

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return plain | {"findings": [{**vars(each), "path": str(each.path)} for each in self.findings]}

    def lines(self, most: int) -> list[str]:
        """Lines for people, at most ``most`` files of each kind of finding."""
        first = f"{self.maps} depth maps"
        if self.valid:
            dense = f"{100 * self.valid:.1f} % of the pixels have a depth"
            first += f", {dense}, {self.low:.2f} to {self.high:.2f} m, median {self.median:.2f} m"
        lines = [first]
        if self.valid and self.neighbours < 0.5:
            share = f"{100 * self.neighbours:.0f} % of these have a neighbour"
            lines.append(f"sparse ground truth: {share}, so that losses of slopes have nothing to work on")
        if self.smaller:
            lines.append(f"{self.smaller} maps have another size than their photo, and its aspect")
        kinds: dict[tuple[str, str], list[DepthFinding]] = defaultdict(list)
        for finding in self.findings:
            kinds[finding.severity, finding.kind].append(finding)
        for (severity, kind), found in sorted(kinds.items()):
            lines += [f"{severity}: depth map {kind}: {len(found)}"]
            lines += [f"  {shown(str(each.path))}: {shown(each.text)}" for each in found[:most]]
            lines += [f"  ... and {len(found) - most} more (--json lists all)"] if len(found) > most else []
        return lines


Reader = Callable[[Path, str], tuple[list[Entry], list[str]]]


def depth_entries(roots: Sequence[Path], layout: str, readers: dict[str, Reader]) -> list[Entry]:
    """Photos with their depth maps below ``roots``, of all splits, each map once.

    Args:
        roots: folders as ``layout`` has them.
        layout: one of ``readers``.
        readers: the layouts that have depth maps.

    Raises:
        UsageError: an unknown layout. DataError: no split of a root can be read; what is wrong with the training part.
    """
    if layout not in readers:
        todo = did_you_mean(layout, readers, f"Layouts with depth maps: {', '.join(readers)}.")
        raise UsageError(f"there is no layout {layout[:60]!r} with depth maps.", todo)
    found: dict[Path, Entry] = {}
    for root in roots:
        parts: list[list[Entry]] = []
        wrong: list[DataError] = []
        for split in ("train", "val", "test"):  # some have no test, some nothing but one
            try:
                parts.append(readers[layout](root, split)[0])
            except DataError as error:
                wrong.append(error)
        if not parts:
            raise wrong[0]
        found |= {row.clean: row for part in parts for row in part if row.clean}
    return [found[path] for path in sorted(found)]


def check_depths(entries: Sequence[Entry], workers: int = 1, layout: str = "") -> DepthReport:
    """Read every depth map and hold it against its photo's size; never raises for what is wrong with a file."""
    with ThreadPoolExecutor(workers) as pool, track("depth maps", len(entries)) as advance:
        facts, findings = list[MapFacts](), list[DepthFinding]()
        for seen, odd in pool.map(look_at_map, entries):
            facts += [seen] if seen else []
            findings += odd
            advance()
    known = [seen for seen in facts if seen.valid]

    def over(values: list[float], what: Callable[[list[float]], Any]) -> float:
        return float(what(values)) if values else 0.0

    return DepthReport(
        maps=len(entries),
        readable=len(facts),
        valid=over([seen.valid for seen in facts], np.mean),
        low=over([seen.low for seen in known], min),
        median=over([seen.median for seen in known], np.median),
        high=over([seen.high for seen in known], max),
        neighbours=over([seen.neighbours for seen in known], np.mean),
        smaller=sum(seen.smaller for seen in facts),
        findings=tuple(sorted(findings, key=lambda each: (each.path, each.kind))),
        layout=layout,
    )


def look_at_map(entry: Entry) -> tuple[MapFacts | None, list[DepthFinding]]:
    """What one depth map holds, and what is odd about it; no facts where it cannot be read."""
    assert entry.clean is not None  # depth_entries gives no others
    path = entry.clean
    tell = partial(DepthFinding, path)
    try:
        depth = read_depth(path, entry.unit)
    except DataError as error:
        reason = error.what.removeprefix(f"{path}").lstrip(": ").rstrip(".")
        return None, [tell(reason, "error", "cannot be read")]
    photo = _size(entry.path)
    findings: list[DepthFinding] = []
    if photo and not same_view(photo, depth.shape):
        sizes = [f"{width}x{height}" for height, width in (depth.shape, photo)]
        text = f"{sizes[0]}, but its photo {entry.path.name} is {sizes[1]}"
        findings.append(tell(text, "error", "does not fit its photo"))
    known = depth[depth > 0]
    findings += [tell(text, "warning", kind) for kind, text in _oddities(depth, known)]
    low, median, high = (float(x) for x in np.percentile(known, (1, 50, 99))) if len(known) else (np.nan,) * 3
    share = len(known) / depth.size
    smaller = photo is not None and photo != depth.shape and not any(each.severity == "error" for each in findings)
    return MapFacts(path, share, low, median, high, _neighbours(depth > 0), smaller), findings


def _oddities(depth: NDArray[np.float32], known: NDArray[np.float32]) -> list[tuple[str, str]]:
    """Kinds of what is odd about the values of a map, and phrases with numbers."""
    if not len(known):
        return [("is empty", "no pixel has a depth")]
    found, share, median = [], len(known) / depth.size, float(np.median(known))
    if share < FEW:
        found.append(("is nearly empty", f"{100 * share:.3f} % of the pixels have a depth"))
    if known.min() == known.max():
        found.append(("is constant", f"all depths are {median:.3f} m"))
    if median > FARTHEST:
        found.append(("has another unit", f"median {median:.0f} m: are these millimetres? state data.depth_unit"))
    elif median < NEAREST:
        found.append(("has another unit", f"median {median:.5f} m: are these metres? state data.depth_unit"))
    for value in (NO_VALUE, NO_VALUE / 1000):  # of integers it counts as none; floats were made of such files
        at = float((np.abs(known - value) < 1e-6 * value).mean())
        if at > FEW:
            text = f"{100 * at:.1f} % of the depths are {value:g}, which stands for no value: write 0 there"
            found.append(("has 65535 as a depth", text))
    return found


def _neighbours(valid: NDArray[np.bool_]) -> float:
    inner = valid[:, :-1]
    return float((inner & valid[:, 1:]).sum() / max(1, inner.sum()))


def _size(photo: Path) -> tuple[int, int] | None:
    """Height and width as readers see it; of a damaged photo the doctor says so elsewhere."""
    with suppress(DataError, MissingDependencyError):
        return size_of(photo)
    return None
