"""Files on a device that is not of this machine: proven there, timed there, and what it took as rows for a manifest.

What connects to a device lies above and is named by its record (:mod:`pocketvit.spec.devices`); here is what it must
give, and everything that is the same for all of them. Times are taken on the device; statistics are made here, by the
code that local timings go through.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pocketvit.bench.timing import INCLUDES, Timing
from pocketvit.errors import MissingDependencyError, VerificationError
from pocketvit.runtimes.model import Model
from pocketvit.runtimes.session import Session
from pocketvit.spec import parity
from pocketvit.spec.artifact import sha256
from pocketvit.spec.devices import ContactConfig, Device, device_of
from pocketvit.spec.manifest import BenchRow, Manifest
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.target import CPU, Target
from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.base import Raw

MINUTE_MS = 60_000.0
Notify = Callable[[str], None]


@dataclass(frozen=True)
class Times:
    """What the rounds of one file took, in ms; all have the same length, and entries of one index are of one round."""

    pre: Timing
    infer: Timing
    post: Timing
    total: Timing
    at_ms: tuple[float, ...]
    """When each round ended, from the beginning of the first."""


@dataclass(frozen=True)
class Rounds:
    """How long files are timed, in turns (A B A B)."""

    seconds: float = 2.0
    """Wall-clock seconds for all files together, warm-up not counted."""
    least: int = 15
    most: int = 2000
    warmup: int = 3
    label: str = "timing"
    """What is going on, for the people on both sides."""


class Remote(Protocol):
    """A device to which there is a connection. Its methods wait until the device has answered.

    They raise VerificationError where a file does not open or fails there, and PocketvitError where the device does not
    come, or goes away and does not come back.
    """

    environment: Mapping[str, Any]
    """Of the device that has answered last, in plain JSON types: ``device``, ``user_agent``, ``cores``, ..."""
    memory_mb: float
    """MB that an image may take there; larger ones run in tiles."""

    def open(self, file: Path, target: Target, manifest: Manifest) -> Session:
        """The file on the device, as a session: ``run`` sends pixels there and brings the answer back."""
        ...

    def time(self, files: Sequence[tuple[Model, Sequence[Pixels]]], rounds: Rounds) -> list[Times]:
        """Time models whose sessions are the device's, in turns, each on its decoded images: preprocessing, inference
        and postprocessing. Of several images a round is the mean."""
        ...


def connect(device: Device, contact: ContactConfig, notify: Notify) -> AbstractContextManager[Remote]:
    """The connection to a device, for a ``with`` block; ``notify`` is told what to do there.

    Raises:
        MissingDependencyError: what it needs is not installed.
        UsageError: the address cannot be listened on.
    """
    module, function = device.place.split(":")
    found: Callable[[ContactConfig, Notify], AbstractContextManager[Remote]]
    try:
        found = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise MissingDependencyError.of(package, device.extra) from error
    return found(contact, notify)


@dataclass(frozen=True)
class Elsewhere:
    """A connection to a device, with what was proven over it: each file is proven once."""

    device: Device
    remote: Remote
    proven: dict[str, str] = field(default_factory=dict)
    """By a file's SHA-256 why it does not do there; empty where it does."""

    def opened(self, local: Model) -> Model:
        """A model that is open on this machine, on the device."""
        target = replace(local.target, device=self.device.name)
        session = self.remote.open(local.file, target, local.manifest)
        return replace(local, session=session, target=target, memory_mb=self.remote.memory_mb)

    def refusal(self, local: Model, inputs: Callable[[], Pixels]) -> str:
        """Why a file does not do on the device what it does here (:func:`prove`); empty where it does."""
        digest = sha256(local.file)
        if digest not in self.proven:
            found = inputs()
            reference = parity.run_goldens(local.session, found)
            try:
                prove(self.opened(local), found, reference)
                self.proven[digest] = ""
            except VerificationError as error:
                self.proven[digest] = error.what.rstrip(".")
        return self.proven[digest]


def here(target: Target) -> Target:
    """Where this machine runs a file that is meant for ``target``: on its processor, where the device is elsewhere."""
    return replace(target, device=CPU) if device_of(target.device) else target


def prove(model: Model, inputs: Pixels, reference: Raw) -> None:
    """Hold the answers of a device against those of the same file on this machine, within the limits of its precision.

    Args:
        model: its session is the device's.
        inputs: (N, H, W, 3) uint8 model inputs.
        reference: the outputs by name, (N, ...), that this machine gives.

    Raises:
        VerificationError: they differ, or hold NaN; the message names the file and the device.
    """
    manifest, target = model.manifest, model.target
    task, limits = TASKS[manifest.task], parity.tolerances(manifest, target.precision)
    answers, wrong = parity.run_goldens(model.session, inputs), list[str]()
    for name, expected in reference.items():
        given = answers[name]
        if given.shape != expected.shape or not np.isfinite(given).all():
            fault = f"holds NaN or infinity, or is {given.shape} and not {expected.shape}"
            raise fails_there(model, f"output {name} {fault}")
        figures = parity.compare(given, expected, task.relative)
        wrong += [f"{name}: {text}" for text in parity.violations(figures, limits, parity.PER_OUTPUT)]
    if task.agreement is not None:
        share = {"min_agreement": task.agreement(answers, reference)}
        wrong += parity.violations(share, limits, parity.PER_TASK)
    if wrong:
        raise fails_there(model, f"its answers are not those of this machine ({'; '.join(wrong)})")


def fails_there(model: Model, what: str) -> VerificationError:
    """The error for a file that does not do on a device what it does here."""
    todo = "Take another precision, or a smaller model; nothing that was timed of this file counts."
    return VerificationError(f"{model.manifest.name} {model.target.key}: {what}.", todo)


def bench_row(model: Model, times: Timing, shape: Sequence[int], environment: Mapping[str, Any], note: str) -> BenchRow:
    """A timing as the manifest holds it. ``variant`` is the target's key: with ``@device`` it is of no row that this
    machine has measured."""
    (low, high), (_, slow) = times.interval(50), times.interval(90)
    return BenchRow(
        variant=model.target.key,
        threads=model.session.info.threads,
        p50_ms=times.p50,
        p90_ms=times.p90,
        p50_low_ms=low,
        p50_high_ms=high,
        p90_high_ms=slow,
        runs=len(times.times_ms),
        input_shape=list(shape),
        includes=INCLUDES + note,
        environment=dict(environment),
    )


@dataclass(frozen=True)
class Sustained:
    """One file run without a pause for minutes: does the device slow down as it gets warm?"""

    variant: str
    seconds: float
    runs: int
    first: Timing
    """Of the first minute, or of the first third where it all took less than three."""
    last: Timing
    """Of the last minute, likewise."""
    whole: Timing

    @property
    def slowdown(self) -> float:
        """Median of the last part by that of the first: 1.3 is 30 % slower at the end."""
        return self.last.p50 / self.first.p50 if self.first.p50 > 0 else float("nan")

    @property
    def throttles(self) -> bool:
        """Whether the last part is slower than the first beyond their 95 % intervals."""
        return self.last.ci95[0] > self.first.ci95[1]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        parts = {name: getattr(self, name).to_dict() for name in ("first", "last", "whole")}
        plain = {"variant": self.variant, "seconds": self.seconds, "runs": self.runs}
        return plain | parts | {"slowdown": self.slowdown, "throttles": self.throttles}

    def text(self) -> str:
        """One sentence."""
        part = min(self.seconds, MINUTE_MS / 1e3, self.seconds / 3)
        verdict = f"{100 * (self.slowdown - 1):+.0f} %{'' if self.throttles else ', no slowing that can be told'}"
        figures = f"p50 {self.first.p50:.2f} ms in the first {part:.0f} s and {self.last.p50:.2f} ms in the last"
        return f"{self.variant}, {self.seconds:.0f} s without a pause: {figures} ({verdict}), {self.runs} runs."


def sustained_of(variant: str, times: Times) -> Sustained:
    """What a long timing tells of the device's speed at its beginning and at its end."""
    end, total = times.at_ms[-1], times.total.times_ms
    part = min(MINUTE_MS, end / 3)
    first = [ms for ms, at in zip(total, times.at_ms, strict=True) if at <= part] or [total[0]]
    last = [ms for ms, at in zip(total, times.at_ms, strict=True) if at >= end - part]
    return Sustained(variant, end / 1e3, len(total), Timing(tuple(first)), Timing(tuple(last)), times.total)
