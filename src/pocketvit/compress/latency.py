"""What units cost, in multiplications or in measured milliseconds, and how fast a cut network is before retraining.

The table of milliseconds is that of NetAdapt (Yang et al. 2018, section 3.3): one row for each kind of layer and number
of units, looked up instead of measuring every network. Rows are measured here on whole exported networks in which all
layers of the kind are that narrow, so that they hold what the engine makes of a layer among its neighbours.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from pocketvit.compress.importance import Observed
from pocketvit.compress.step import Context
from pocketvit.errors import UsageError
from pocketvit.export.artifact import pixel_model_of
from pocketvit.export.built import Built
from pocketvit.export.formats import exporter
from pocketvit.models.narrow import Units, keep_units
from pocketvit.models.trained import Trained, copy_of

SLOWER = 4.0
"""A layer's time is at most so many times what its multiplications would take at the network's own rate."""
Costs = Callable[[int, int], float]
"""(index of the units, number of them that is left) to what they cost."""


def macs(model: nn.Module, units: Sequence[Units], observed: Sequence[Observed]) -> Costs:
    """Multiply-accumulates of one image in writer, reader and, for heads, the two products of attention."""
    totals = []
    for each, seen in zip(units, observed, strict=True):
        products = 2 * seen.positions * seen.tokens * each.size * each.count if each.kind == "heads" else 0
        writer, reader = (model.get_submodule(name).get_parameter("weight") for name in (each.writer, each.reader))
        totals.append(seen.written * writer.numel() + seen.positions * reader.numel() + products)
    return lambda index, left: totals[index] * left / units[index].count


@dataclass(frozen=True)
class Table:
    """Milliseconds of one layer of a class, by the number of units that is left."""

    rows: Mapping[str, Mapping[int, float]]
    """Class (e.g. ``neurons 768x197``) to units left to milliseconds above the narrowest measured."""
    classes: tuple[str, ...]
    """Of each of the units."""
    most: tuple[float, ...] = ()
    """Of each of the units, milliseconds that it cannot cost more than; empty sets no limit."""

    def cost(self, index: int, left: int) -> float:
        """Interpolated between measured numbers of units.

        A tenth is linear, so that noise makes no unit worthless, and what has few multiplications is not taken for
        slow, which noise would make of the only layer of its class.
        """
        points = sorted(self.rows[self.classes[index]].items())
        (least, low), (whole, high) = points[0], points[-1]
        line = low + (high - low) * (left - least) / max(whole - least, 1)
        scale = min(1.0, self.most[index] / max(high, 1e-12)) if self.most else 1.0
        return scale * (0.9 * float(np.interp(left, [x for x, _ in points], [y for _, y in points])) + 0.1 * line)


def class_of(units: Units, observed: Observed) -> str:
    """Layers of one class cost the same: kind, number of units, positions."""
    return f"{units.kind} {units.count}x{observed.positions}"


def measure_table(
    trained: Trained, units: Sequence[Units], observed: Sequence[Observed], context: Context, points: int = 4
) -> Table:
    """Export and time the network with all layers of each class at ``points`` numbers of units, in turns.

    Raises UsageError: there is nothing to time with.
    """
    members: dict[str, list[int]] = defaultdict(list)
    classes = tuple(class_of(each, seen) for each, seen in zip(units, observed, strict=True))
    for index, name in enumerate(classes):
        members[name].append(index)
    plan = [(name, left) for name, indices in members.items() for left in numbers(units[indices[0]], points)]
    narrowed = [trained]
    for name, left in plan:
        network = copy_of(trained)
        for index in members[name]:
            keep_units(network.model, units[index], range(left))
        narrowed.append(network)
    whole, *times = milliseconds(narrowed, context)
    rows: dict[str, dict[int, float]] = {}
    for name, indices in members.items():
        mine = {left: ms for (other, left), ms in zip(plan, times, strict=True) if other == name}
        rows[name] = monotone(mine | {units[indices[0]].count: whole}, len(indices))
    work = macs(trained.model, units, observed)
    shares = [work(index, each.count) for index, each in enumerate(units)]
    return Table(rows, classes, tuple(SLOWER * whole * share / sum(shares) for share in shares))


def numbers(units: Units, points: int) -> list[int]:
    """Numbers of units to measure below the whole, ascending; 0 where all may go."""
    least = 0 if units.removable else 1
    return sorted({max(least, round(units.count * k / points)) for k in range(points)} - {units.count})


def monotone(times: Mapping[int, float], layers: int) -> dict[int, float]:
    """Milliseconds of one layer above the narrowest: fewer units never cost more, whatever noise says."""
    lefts = sorted(times)
    rising = np.maximum.accumulate([times[left] for left in lefts])
    return {left: float((ms - rising[0]) / layers) for left, ms in zip(lefts, rising, strict=True)}


def milliseconds(networks: Sequence[Trained], context: Context) -> list[float]:
    """Median milliseconds of networks, exported for the context's engine and timed in turns; the files are deleted.

    Raises UsageError: there is nothing to time with.
    """
    with _folder(context, "table") as folder:
        files = [built_of(network, context.runtime, folder, f"n{index}") for index, network in enumerate(networks)]
        return list(_clock(context)(files))


@contextmanager
def compared_with(whole: Trained, context: Context) -> Iterator[Callable[[Trained], float]]:
    """A function that says how many times faster than ``whole`` a network is, exported and timed in turns with it.

    Raises UsageError: there is nothing to time with.
    """
    clock = _clock(context)
    with _folder(context, "speed") as folder:
        base = built_of(whole, context.runtime, folder, "whole")

        def faster(network: Trained) -> float:
            before, after = clock([base, built_of(network, context.runtime, folder, "cut")])
            return before / after

        yield faster


def _clock(context: Context) -> Callable[[Sequence[Built]], Sequence[float]]:
    if context.time is None:
        todo = "Give keep and rank: taylor, or carry it out in a fit or compress, which time."
        raise UsageError("a step that goes by milliseconds has nothing to time with.", todo)
    return context.time


@contextmanager
def _folder(context: Context, name: str) -> Iterator[Path]:
    """A folder for files that are only timed, deleted at the end."""
    folder = context.folder / f"timing-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def built_of(trained: Trained, runtime: str, folder: Path, stem: str) -> Built:
    """The float file of a network; a copy is exported, since exporting moves and freezes."""
    own = copy_of(trained)
    return exporter(runtime)(pixel_model_of(replace(own, model=own.model.eval())), own.preprocess.size, folder, stem)
