"""The ``bench`` command: one artifact, or two in turns on the same machine at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketvit.bench.load import quiet
from pocketvit.bench.memory import DEFAULT_SIZE, FreshRun, fresh_run, parse_size, timing_image
from pocketvit.bench.timing import Ratio, Timing, interleave, speedup
from pocketvit.commands import COMMANDS
from pocketvit.errors import UsageError
from pocketvit.progress import track
from pocketvit.runtimes.model import Model, load
from pocketvit.spec.environment import available_cores, environment
from pocketvit.spec.preprocess import Pixels
from pocketvit.terminal import cell, table

if TYPE_CHECKING:
    from rich.console import RenderableType

WARMUP = 3
PARTS = ("total", "pre", "infer", "post")
INCLUDES = "preprocessing + inference + postprocessing of one decoded image"


@dataclass
class Stopwatch:
    """A call to a model that notes how long its three parts took."""

    model: Model
    image: Pixels
    advance: Callable[[], None] = lambda: None
    """Called after each answer (progress)."""
    parts: list[tuple[float, float, float]] = field(default_factory=list)

    def __call__(self) -> None:
        """Answer once."""
        start = time.perf_counter()
        prepared = self.model.prepare(self.image)
        ready = time.perf_counter()
        raw = self.model.infer(prepared)
        answered = time.perf_counter()
        self.model.finish(raw)
        self.parts.append(((ready - start) * 1e3, (answered - ready) * 1e3, (time.perf_counter() - answered) * 1e3))
        self.advance()


@dataclass(frozen=True)
class Result:
    """Figures of one variant of one artifact."""

    name: str
    variant: str
    engine: str
    threads: int
    device: str
    coverage: dict[str, float]
    image_shape: tuple[int, ...]
    runs_per_image: int
    """How often the file runs for the image (tiles)."""
    total: Timing
    pre: Timing
    infer: Timing
    post: Timing
    disk_bytes: int
    fresh: FreshRun | None
    macs: float | None
    """Multiply-accumulates of one run, from the manifest."""
    parameters: float | None
    varies: bool = False
    """How long it takes depends on the image: what was measured holds for this one."""

    @property
    def images_per_s(self) -> float:
        """Images a second, one after the other."""
        return 1e3 / self.total.mean

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        plain = {key: value for key, value in vars(self).items() if key != "fresh"}
        plain |= {part: getattr(self, part).to_dict() for part in PARTS}
        fresh = vars(self.fresh) if self.fresh else None
        return plain | {"image_shape": [*self.image_shape], "images_per_s": self.images_per_s, "fresh_process": fresh}


@dataclass(frozen=True)
class BenchReport:
    """Timings of one artifact or of two side by side, with the environment."""

    results: tuple[Result, ...]
    ratio: Ratio | None
    """How many times faster the second is, where two were timed."""
    environment: dict[str, Any]
    warnings: tuple[str, ...]
    exit_code: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        results, ratio = [result.to_dict() for result in self.results], self.ratio.to_dict() if self.ratio else None
        timed = {"includes": INCLUDES, "results": results, "ratio": ratio}
        return timed | {"environment": self.environment, "warnings": list(self.warnings)}

    def render(self) -> RenderableType:
        """A table with one column for each artifact, then ratio, environment and warnings."""
        from rich.console import Group
        from rich.table import Column

        heads = (Column(cell(f"{result.name} {result.variant}"), justify="right") for result in self.results)
        rows = [(cells[0][0], *(value for _, value in cells)) for cells in zip(*map(_rows, self.results), strict=True)]
        lines = [f"Times are for {INCLUDES}."]
        if self.ratio is not None:
            low, high = self.ratio.ci95
            sure = f"(95 % interval {low:.2f} to {high:.2f}, {len(self.ratio.ratios)} rounds in turns)"
            lines.append(f"The second is {self.ratio.p50:.2f} times as fast as the first {sure}.")
        env = self.environment | {"flags": " ".join(self.environment["flags"])}
        lines.append("{cpu}, {cores} cores ({flags}), {os}, Python {python}".format_map(env))
        lines += [f"Warning: {warning}" for warning in self.warnings]
        return Group(table(["", *heads], rows), cell("\n".join(lines)))


def _rows(result: Result) -> list[tuple[str, str]]:
    """Label and value of each line of the table."""
    total, fresh, runs = result.total, result.fresh, result.runs_per_image
    size = f"{result.image_shape[0]}x{result.image_shape[1]}"
    text = "{:.2f} ms ({:.2f} to {:.2f})"
    return [
        ("engine", result.engine),
        ("threads", str(result.threads)),
        ("device", result.device),
        ("graph taken", ", ".join(f"{name} {100 * share:.0f} %" for name, share in result.coverage.items()) or "-"),
        ("image", f"{size}, {runs} run{'s' if runs != 1 else ''}"),
        *((f"p{q} of {size}", text.format(total.percentile(q), *total.interval(q))) for q in (50, 90, 99)),
        ("pre / inference / post", f"{result.pre.p50:.2f} / {result.infer.p50:.2f} / {result.post.p50:.2f} ms"),
        ("throughput", f"{result.images_per_s:.1f} images/s"),
        ("times taken", str(len(total.times_ms))),
        ("load", f"{fresh.load_ms:.0f} ms" if fresh else "-"),
        ("first answer", f"{fresh.first_ms:.1f} ms" if fresh else "-"),
        ("peak memory", f"{fresh.peak_rss_mb:.0f} MB" if fresh else "-"),
        ("on disk", f"{result.disk_bytes / 1e6:.3f} MB"),
        ("MACs of one run", f"{result.macs / 1e9:.3g} G" if result.macs else "-"),
        ("parameters", f"{result.parameters / 1e6:.3g} M" if result.parameters else "-"),
    ]


def bench(
    artifact: str,
    other: str | None = None,
    *,
    target: str | None = None,
    other_target: str | None = None,
    image: str | None = None,
    size: str | None = None,
    seconds: float = 5.0,
    memory: bool = True,
    trust: bool = False,
    split: tuple[str, ...] = (),
) -> BenchReport | Any:
    """Time an artifact, or two of them in turns, and report memory, size and environment.

    Decoding the image file is not part of the times. Two artifacts (or two targets of one) are run A B A B, and their
    ratio is taken within each round, so that a machine that slows down meanwhile slows both down.

    Args:
        artifact: artifact folder, run folder, .pvit file or the name of a shipped artifact.
        other: second artifact to compare with; the first one again where only ``other_target`` is given.
        target: runtime:precision[:threads][@device] of the first; by default its own.
        other_target: the same for the second.
        image: image file to time with.
        size: HEIGHTxWIDTH of a synthetic image instead; 480x640 by default.
        seconds: seconds of timing, for all together.
        memory: also measure load time and peak memory in a fresh process.
        trust: also run files that are programs (TorchScript), which may do anything on this machine.
        split: of a run: links (wifi, lte, 4g, 3g or UP/DOWN/RTT in Mbit/s and ms) over which to find the best cut
            between a client and a server; `pocketvit split` has more options.

    Raises:
        UsageError: no such artifact, variant or size.
        DataError: the image cannot be read.
    """
    if split:  # it needs torch and the server, which are rooms above this one
        return COMMANDS["split"].resolve()(artifact, links=split, seconds=seconds)
    if image is not None and size is not None:
        raise UsageError("image and size exclude each other.", "Give one of them.")
    if not 0 < seconds <= 3600:
        raise UsageError(f"seconds must lie between 0 and 3600, not {seconds:g}.", "5 is usual.")
    shape = parse_size(size) if size is not None else DEFAULT_SIZE
    pixels = timing_image(image, shape)
    sides = [(artifact, target)]
    if other is not None or other_target is not None:
        sides.append((other or artifact, other_target))
    watches = [Stopwatch(load(path, wanted, trust=trust), pixels) for path, wanted in sides]
    # Two engines get a pause in between: threads of the one may still spin when the other starts.
    pause_ms = 5.0 if len({watch.model.target.runtime for watch in watches}) > 1 else 0.0
    busy = quiet(0)
    with track("bench", None) as advance:
        for watch in watches:
            watch.advance = advance
        calls = {str(i): watch for i, watch in enumerate(watches)}
        timings = list(interleave(calls, seconds=seconds, warmup=WARMUP, pause_ms=pause_ms).values())
    results = tuple(
        _result(watch, total, _fresh(watch.model, image, shape, trust) if memory else None)
        for watch, total in zip(watches, timings, strict=True)
    )
    ratio = speedup(*timings) if len(timings) == 2 else None
    return BenchReport(results, ratio, environment(), tuple(_warnings(results, ratio, busy)))


def _fresh(model: Model, image: str | None, shape: tuple[int, int], trust: bool) -> FreshRun:
    return fresh_run(model.path, model.target, image, shape, trust=trust)


def _result(watch: Stopwatch, total: Timing, fresh: FreshRun | None) -> Result:
    model, info = watch.model, watch.model.session.info
    parts = [Timing(tuple(column)) for column in np.array(watch.parts[WARMUP:]).T.tolist()]
    names = (model.variant.path, *model.variant.companions) if model.variant else (model.file.name,)
    values: dict[str, Any] = {key: getattr(info, key) for key in ("threads", "device", "coverage")}
    values |= {key: model.manifest.architecture.get(key) for key in ("macs", "parameters")}
    values |= zip(PARTS, (total, *parts), strict=True)
    return Result(
        name=model.manifest.name,
        variant=model.target.key,
        engine=f"{info.engine} {info.version}",
        image_shape=watch.image.shape,
        runs_per_image=model.count_runs(*watch.image.shape[:2]),
        disk_bytes=sum((model.path / name).stat().st_size for name in names),
        fresh=fresh,
        varies=model.variant is not None and model.variant.varies,
        **values,
    )


def _warnings(results: tuple[Result, ...], ratio: Ratio | None, busy: str = "") -> list[str]:
    found = [f"the machine was busy: {busy}."] if busy else []
    for result in results:
        if result.total.wide:
            low, high = result.total.ci95
            share, interval = f"{100 * result.total.spread:.0f} % of p50", f"interval {low:.2f} to {high:.2f} ms"
            what = (
                f"the times of {result.name} {result.variant} scatter widely (middle half within {share}, {interval})"
            )
            found.append(f"{what}; close other programs or time longer.")
        if result.threads > available_cores():
            found.append(f"{result.name} {result.variant} runs {result.threads} threads on {available_cores()} cores.")
        if result.varies:
            found.append(
                f"how long {result.name} {result.variant} takes depends on the image (early exits): these times are of "
                "this one image; `benchmarks` in its manifest hold means over photos."
            )
    if ratio is not None and ratio.ci95[0] <= 1 <= ratio.ci95[1]:
        found.append("the ratio's interval holds 1: no difference can be told.")
    return found
