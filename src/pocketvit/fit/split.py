"""The ``split`` command: where to cut a network between a client and a server, measured for each link.

It needs both sides of the house, torch to cut and export, and the server to answer; ``pocketvit bench --split`` calls
it by way of the table of commands.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvit.bench.link import parse_link
from pocketvit.bench.load import machine_was, quiet
from pocketvit.errors import UsageError
from pocketvit.files import make_folder, plain, scratch, write_text
from pocketvit.fit.split_run import (
    HERE,
    PHOTO,
    SHRUNK,
    LinkResult,
    Timed,
    choose,
    run_link,
    serving,
    through_jpeg,
    ways_of,
)
from pocketvit.progress import track
from pocketvit.spec.environment import environment
from pocketvit.spec.tasks import TASKS
from pocketvit.terminal import cell, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pocketvit.data.cases import Case
    from pocketvit.models.trained import Trained
    from pocketvit.runtimes.model import Model

INCLUDES = "from the photo's file to the answer at the client: reading, preprocessing, network, link, server"
WHOLE = "whole"


@dataclass(frozen=True)
class SplitBench:
    """What each cut costs and gives."""

    model: str
    metric: str
    unit: str
    values: dict[str, float]
    """The metric by way, on the same photos."""
    tie: float
    photos: int
    bits: int
    targets: tuple[str, str]
    """Of client and server."""
    links: tuple[LinkResult, ...]
    environment: dict[str, Any]
    machine: str
    exit_code: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        links = [result.to_dict() for result in self.links]
        return plain({**vars(self), "includes": INCLUDES, "links": links})  # type: ignore[no-any-return]

    def render(self) -> RenderableType:
        """A table for each link."""
        from rich.console import Group

        parts: list[Any] = []
        for result in self.links:
            parts += [cell(f"over {result.link}"), self._table(result), cell(self._verdict(result)), cell("")]
        lines = [f"{self.model}; client {self.targets[0]}, server {self.targets[1]}; features of {self.bits} bits."]
        lines.append(f"Times are {INCLUDES}; milliseconds, medians; {self.machine}.")
        lines.append(f"{self.metric} on {self.photos} photos; within {self.tie:.2f} {self.unit} is a tie.")
        env = self.environment
        lines.append(f"{env['cpu']}, {env['cores']} cores, {env['os']}, Python {env['python']}")
        return Group(*parts, cell("\n".join(lines)))

    def _table(self, result: LinkResult) -> Any:
        from rich.table import Column

        heads = ("kB sent", "client", "encode", "link", "server", "total p50", "p90", self.metric)
        rows = []
        for name, x in result.ways.items():
            times = (x.client.p50, x.encode.p50, x.link.p50, x.server.p50, x.total.p50, x.total.percentile(90))
            marked = f"{name} *" if name == result.best else name
            shown = [f"{value:.1f}" for value in times]
            rows.append((marked, f"{x.bytes / 1e3:.1f}", *shown, f"{self.values[name]:.2f} {self.unit}"))
        return table(["cut", *(Column(head, justify="right") for head in heads)], rows)

    def _verdict(self, result: LinkResult) -> str:
        best = result.ways[result.best]
        others = f"; not told apart from it: {', '.join(result.equal)}" if result.equal else ""
        return f"Best over {result.link.name}: {result.best}, {best.total.p50:.0f} ms{others}."


def split(
    checkpoint: str,
    *,
    links: tuple[str, ...] = ("wifi", "4g", "3g"),
    cuts: tuple[int, ...] = (),
    split_bits: int = 8,
    data: str | None = None,
    layout: str | None = None,
    photos: int = 64,
    seconds: float = 30.0,
    client_target: str = "onnxruntime:fp32:1",
    server_target: str = "onnxruntime:fp32:2",
    out: str | None = None,
) -> SplitBench:
    """Find where to cut a network between a client and a server, for each kind of link.

    Every cut is exported to a temporary folder, all tails are served by a process of their own, and photos get their
    answers through a relay that is as slow as the link: one way after the other, in turns. Beside the cuts stand three
    ways without one: the file is sent as it is, it is sent at the model's size as JPEG, or nothing is sent.

    Args:
        checkpoint: folder of a checkpoint or a run.
        links: wifi, lte, 4g, 3g, or UP/DOWN/RTT in Mbit/s, Mbit/s and ms.
        cuts: blocks behind which to cut; all by default.
        split_bits: of each value that is sent, 2 to 8.
        data: folder or list with photos and their classes; by default the run's validation data.
        layout: how ``data`` is laid out.
        photos: how many of them, evenly spread: for the metric, and in turn for the times.
        seconds: of timing, for each link.
        client_target: runtime:precision:threads of what runs here.
        server_target: the same on the server.
        out: folder to write split.json and split.png to.

    Raises:
        UsageError: a network that cannot be cut, an unknown link, or numbers out of range.
        DataError: damaged checkpoint or photos.
        VerificationError: an exported half does not give the trained model's answers.
    """
    wanted = [parse_link(text) for text in ((links,) if isinstance(links, str) else links)]
    if not wanted or not 0 < seconds <= 3600 or photos < 1:
        raise UsageError("seconds (to 3600), photos and links must be more than none.", "Leave them out.")
    trained, cases = _given(checkpoint, data, layout, photos)
    busy = quiet(0)
    with scratch() as folder:
        whole, pairs = _exported(trained, cases, tuple(cuts), split_bits, folder, client_target)
        values = _values(whole, pairs, cases)
        paths = list(dict.fromkeys(case.path for case in cases))
        ways = ways_of(whole, [head for head, _ in pairs])
        tails = [folder / f"cut{_after(head)}" / "tail" for head, _ in pairs]
        results = []
        with serving([folder / WHOLE, *tails], server_target) as server, track("split", None) as advance:
            for link in wanted:
                given: dict[str, Any] = {"seconds": seconds, "advance": advance}
                found = run_link(link, server, trained.task.name, ways, paths, **given)
                results.append((link, {name: Timed.of(samples) for name, samples in found.items()}))
    name = TASKS[trained.task.name].main(trained.levels)
    spec = TASKS[trained.task.name].metric(name)
    tie = spec.tie_of(len(cases))
    good = {way for way, value in values.items() if spec.loss(value, values[HERE]) <= tie + 1e-9}
    named = tuple(LinkResult(link, ways, *choose(ways, good)) for link, ways in results)
    who, targets = trained.model_spec.name, (client_target, server_target)
    report = SplitBench(
        who, name, spec.unit, values, tie, len(cases), split_bits, targets, named, environment(), machine_was(busy)
    )
    if out is not None:
        write_report(report, Path(out))
    return report


def write_report(report: SplitBench, folder: Path) -> None:
    """``split.json`` and ``split.png``. Raises DataError: the folder cannot be written."""
    from pocketvit.fit.split_plot import plot

    make_folder(folder)
    write_text(folder / "split.json", json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n")
    plot(report.links, folder / "split.png")


def _given(checkpoint: str, data: str | None, layout: str | None, photos: int) -> tuple[Trained, list[Case]]:
    """The trained network and photos with their truth."""
    from pocketvit.data.cases import eval_cases, main_condition
    from pocketvit.data.collections import load_collection
    from pocketvit.export.command import data_settings, recipe_of
    from pocketvit.export.split import cutter_of
    from pocketvit.tasks.load import load_checkpoint

    trained, recipe = load_checkpoint(checkpoint), recipe_of(checkpoint)
    cutter_of(trained)  # what is never cut is told before photos are asked for
    task = TASKS[trained.task.name]
    settings = data_settings(data, layout, task, recipe)
    collection = load_collection(settings.val or settings.train, settings, task.name, "val", trained.levels)
    only = main_condition(settings, task.name) or None
    return trained, list(eval_cases(collection, settings, photos, only=only))


def _exported(
    trained: Trained, cases: Sequence[Case], cuts: tuple[int, ...], bits: int, folder: Path, target: str
) -> tuple[Model, list[tuple[Model, Model]]]:
    """The whole model and each cut's head and tail, opened for the client; their folders are ``whole``, ``cutK``."""
    from pocketvit.export.artifact import create_artifact, make_golden, pixel_model_of
    from pocketvit.export.formats import exporter
    from pocketvit.export.split import halve, write_split
    from pocketvit.runtimes.model import load
    from pocketvit.spec.manifest import Licence

    golden, write = make_golden(trained, cases), exporter("onnx")
    first = halve(trained, cuts[0] if cuts else 1, bits, golden.inputs)  # says at once where it cannot be
    numbers = sorted(set(cuts)) or range(1, first.head.split.blocks + 1)
    metric = TASKS[trained.task.name].main(trained.levels)
    pairs = []
    with track("export", len(numbers) + 1) as advance:
        size = trained.preprocess.size
        built = [write(pixel_model_of(trained), size, folder, "model")]
        create_artifact(trained, folder / WHOLE, name=WHOLE, golden=golden, built=built, main_metric=metric)
        advance()
        for after in numbers:
            place, cut = folder / f"cut{after}", halve(trained, after, bits, golden.inputs)
            about: dict[str, Any] = {"name": place.name, "version": "0.1.0", "main_metric": metric}
            write_split(trained, place, cut, golden, [write], licence=Licence(), **about)
            pairs.append((load(place / "head", target), load(place / "tail", target)))
            advance()
    return load(folder / WHOLE, target), pairs


def _after(head: Model) -> int:
    split = head.manifest.split
    assert split is not None
    return split.after


def _values(whole: Model, pairs: Sequence[tuple[Model, Model]], cases: Sequence[Case]) -> dict[str, float]:
    """The main metric of each way; photos that are sent shrunk are answered as JPEG has left them."""
    from pocketvit.runtimes.parts import Joined
    from pocketvit.verify.evaluate import measure

    task, levels = TASKS[whole.manifest.task], whole.manifest.levels
    answering: dict[str, Any] = {PHOTO: whole, SHRUNK: lambda image: whole(through_jpeg(whole, image))}
    answering |= {f"block {_after(head)}": Joined(head, tail) for head, tail in pairs} | {HERE: whole}
    found: dict[str, float] = {}
    with track("metric", len(answering) * len(cases)) as advance:
        for name, model in answering.items():
            evaluator = task.evaluator(levels, "")
            rows, _ = measure(model, cases, evaluator, advance)
            found[name] = next(row.value for row in rows if row.name == evaluator.main)
    return found
