"""The ``bench`` command: one artifact, or two in turns on the same machine at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pocketvit.bench.elsewhere import Plan, bench_elsewhere, check_sustained, device_for, targets_there, told
from pocketvit.bench.load import quiet
from pocketvit.bench.memory import DEFAULT_SIZE, FreshRun, fresh_run, parse_size, timing_image
from pocketvit.bench.remote import connect
from pocketvit.bench.results import PARTS, BenchReport, Result
from pocketvit.bench.results import warnings_of as _warnings
from pocketvit.bench.timing import Timing, interleave, speedup
from pocketvit.commands import COMMANDS
from pocketvit.errors import UsageError
from pocketvit.progress import track
from pocketvit.runtimes.model import Model, load
from pocketvit.spec.devices import ContactConfig
from pocketvit.spec.environment import environment
from pocketvit.spec.preprocess import Pixels

WARMUP = 3
_CONTACT = ContactConfig()


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
    sustained_seconds: float | None = None,
    store: bool = True,
    contact: ContactConfig = _CONTACT,
    split: tuple[str, ...] = (),
) -> BenchReport | Any:
    """Time an artifact, or two of them in turns, and report memory, size and environment.

    Decoding the image file is not part of the times. Two artifacts (or two targets of one) are run A B A B, and their
    ratio is taken within each round, so that a machine that slows down meanwhile slows both down.

    With ``--target phone`` it is a phone that runs them, in its browser: an address is printed to be opened there. The
    answers of each file to the golden inputs must be right on the phone before it is timed, a sustained run follows,
    and the artifact's manifest gets the rows.

    Args:
        artifact: artifact folder, run folder, .pvit file or the name of a shipped artifact.
        other: second artifact to compare with; the first one again where only ``other_target`` is given.
        target: runtime:precision[:threads][@device] of the first, or phone; by default its own.
        other_target: the same for the second.
        image: image file to time with.
        size: HEIGHTxWIDTH of a synthetic image instead; 480x640 by default.
        seconds: seconds of timing, for all together.
        memory: also measure load time and peak memory in a fresh process; browsers do not tell.
        trust: also run files that are programs (TorchScript), which may do anything on this machine.
        sustained_seconds: on a phone how long the first file runs without a pause, to see whether the phone slows down
            as it gets warm; 600 by default, 0 leaves it out.
        store: on a phone whether the artifact's manifest gets the rows.
        contact: where a phone finds this machine.
        split: of a run: links (wifi, lte, 4g, 3g or UP/DOWN/RTT in Mbit/s and ms) over which to find the best cut
            between a client and a server; `pocketvit split` has more options.

    Raises:
        UsageError: no such artifact, variant or size.
        DataError: the image cannot be read.
        VerificationError: a file does not do on the phone what it does here.
    """
    if split:  # it needs torch and the server, which are rooms above this one
        return COMMANDS["split"].resolve()(artifact, links=split, seconds=seconds)
    if image is not None and size is not None:
        raise UsageError("image and size exclude each other.", "Give one of them.")
    if not 0 < seconds <= 3600:
        raise UsageError(f"seconds must lie between 0 and 3600, not {seconds:g}.", "5 is usual.")
    shape = parse_size(size) if size is not None else DEFAULT_SIZE
    sides = [(artifact, target)]
    if other is not None or other_target is not None:
        sides.append((other or artifact, other_target))
    if (device := device_for([wanted for _, wanted in sides])) is not None:
        plan = Plan(timing_image(image, shape), seconds, check_sustained(sustained_seconds), store)
        there = [(path, str(wanted)) for path, wanted in sides]
        targets_there(device, there)  # what cannot be is told before anybody opens an address
        with connect(device, contact, told) as remote:
            return bench_elsewhere(remote, device, there, plan)
    given: dict[str, object] = {"sustained_seconds": sustained_seconds, "store": None if store else False}
    given |= {"contact": contact if contact != _CONTACT else None}
    if alone := [name for name, value in given.items() if value is not None]:
        what = f"{alone[0]} is about a device that is not of this machine."
        raise UsageError(what, "Leave it out, or add --target phone.")
    pixels = timing_image(image, shape)
    watches = [Stopwatch(load(path, wanted, trust=trust), pixels) for path, wanted in sides]
    return _bench_here(watches, seconds, lambda model: _fresh(model, image, shape, trust) if memory else None)


def _bench_here(watches: list[Stopwatch], seconds: float, fresh: Callable[[Model], FreshRun | None]) -> BenchReport:
    """Time on this machine; ``fresh`` tells what a model takes in a fresh process."""
    # Two engines get a pause in between: threads of the one may still spin when the other starts.
    pause_ms = 5.0 if len({watch.model.target.runtime for watch in watches}) > 1 else 0.0
    busy = quiet(0)
    with track("bench", None) as advance:
        for watch in watches:
            watch.advance = advance
        calls = {str(i): watch for i, watch in enumerate(watches)}
        timings = list(interleave(calls, seconds=seconds, warmup=WARMUP, pause_ms=pause_ms).values())
    results = tuple(_result(watch, total, fresh(watch.model)) for watch, total in zip(watches, timings, strict=True))
    ratio = speedup(*timings) if len(timings) == 2 else None
    return BenchReport(results, ratio, environment(), tuple(_warnings(results, ratio, busy)))


def _fresh(model: Model, image: str | None, shape: tuple[int, int], trust: bool) -> FreshRun:
    return fresh_run(model.path, model.target, image, shape, trust=trust)


def _result(watch: Stopwatch, total: Timing, fresh: FreshRun | None) -> Result:
    parts = [Timing(tuple(column)) for column in np.array(watch.parts[WARMUP:]).T.tolist()]
    return Result.of(watch.model, watch.image, dict(zip(PARTS, (total, *parts), strict=True)), fresh)
