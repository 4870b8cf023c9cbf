"""What ``bench`` found: figures of each file, their ratio, the environment, and what to be wary of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pocketvit.bench.memory import FreshRun
from pocketvit.bench.remote import Sustained
from pocketvit.bench.timing import INCLUDES, Ratio, Timing
from pocketvit.runtimes.model import Model
from pocketvit.spec.devices import device_of
from pocketvit.spec.environment import available_cores
from pocketvit.spec.preprocess import Pixels
from pocketvit.terminal import cell, table

if TYPE_CHECKING:
    from rich.console import RenderableType

PARTS = ("total", "pre", "infer", "post")


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

    @classmethod
    def of(cls, model: Model, image: Pixels, parts: Mapping[str, Timing], fresh: FreshRun | None = None) -> Result:
        """Of a model that was timed on an image, with a timing for each of ``PARTS``."""
        info, variant = model.session.info, model.variant
        names = (variant.path, *variant.companions) if variant else (model.file.name,)
        values: dict[str, Any] = {key: getattr(info, key) for key in ("threads", "device", "coverage")}
        values |= {key: model.manifest.architecture.get(key) for key in ("macs", "parameters")} | dict(parts)
        return cls(
            name=model.manifest.name,
            variant=model.target.key,
            engine=f"{info.engine} {info.version}",
            image_shape=image.shape,
            runs_per_image=model.count_runs(*image.shape[:2]),
            disk_bytes=sum((model.path / name).stat().st_size for name in names),
            fresh=fresh,
            varies=variant is not None and variant.varies,
            **values,
        )

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
    sustained: tuple[Sustained, ...] = ()
    """Of a device that was kept busy for minutes."""
    stored: tuple[str, ...] = ()
    """Manifests that hold the rows now: those of a device that is not of this machine are kept beside the file."""
    exit_code: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        results, ratio = [result.to_dict() for result in self.results], self.ratio.to_dict() if self.ratio else None
        timed: dict[str, Any] = {"includes": INCLUDES, "results": results, "ratio": ratio}
        timed |= {"sustained": [each.to_dict() for each in self.sustained], "stored": list(self.stored)}
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
        lines += [each.text() for each in self.sustained]
        lines.append(_machine(self.environment))
        lines += [f"The manifest holds the rows: {path}" for path in self.stored]
        lines += [f"Warning: {warning}" for warning in self.warnings]
        return Group(table(["", *heads], rows), cell("\n".join(lines)))


def _machine(environment: Mapping[str, Any]) -> str:
    """One line on what it was measured with."""
    if "user_agent" in environment:
        cores = f"{environment['cores']} cores" if environment.get("cores") else "cores not told"
        return f"On the {environment['device']}: {environment['user_agent']}, {cores}, {environment['engine']}"
    env = dict(environment) | {"flags": " ".join(environment["flags"])}
    return "{cpu}, {cores} cores ({flags}), {os}, Python {python}".format_map(env)


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


def warnings_of(results: tuple[Result, ...], ratio: Ratio | None, busy: str = "") -> list[str]:
    """What to be wary of, a sentence each; ``busy`` is what else the machine did."""
    found = [f"the machine was busy: {busy}."] if busy else []
    for result in results:
        if result.total.wide:
            low, high = result.total.ci95
            share, interval = f"{100 * result.total.spread:.0f} % of p50", f"interval {low:.2f} to {high:.2f} ms"
            what = (
                f"the times of {result.name} {result.variant} scatter widely (middle half within {share}, {interval})"
            )
            found.append(f"{what}; close other programs or time longer.")
        away = device_of(result.variant.partition("@")[2]) is not None
        if not away and result.threads > available_cores():
            found.append(f"{result.name} {result.variant} runs {result.threads} threads on {available_cores()} cores.")
        if result.varies:
            found.append(
                f"how long {result.name} {result.variant} takes depends on the image (early exits): these times are of "
                "this one image; `benchmarks` in its manifest hold means over photos."
            )
    if ratio is not None and ratio.ci95[0] <= 1 <= ratio.ci95[1]:
        found.append("the ratio's interval holds 1: no difference can be told.")
    return found
