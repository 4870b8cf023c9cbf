"""``bench`` on a device that is not of this machine: prove, time in turns, keep busy for minutes, store the rows."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pocketvit.bench.remote import Remote, Rounds, Sustained, Times, bench_row, fails_there, here, sustained_of
from pocketvit.bench.results import BenchReport, Result, warnings_of
from pocketvit.bench.timing import speedup
from pocketvit.errors import DataError, UsageError
from pocketvit.runtimes.model import Model, open_variant
from pocketvit.spec import parity
from pocketvit.spec.artifact import Artifact, read_artifact, shipped_root, write_manifest
from pocketvit.spec.devices import Device, check_device, device_of
from pocketvit.spec.golden import golden_faults, read_golden
from pocketvit.spec.manifest import BenchRow
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.target import ANY, CPU, Target
from pocketvit.terminal import shown

SUSTAINED_S, MOST_SUSTAINED_S = 600.0, 7200.0
WARMUP = 3
MOST_ROUNDS = 400_000


@dataclass(frozen=True)
class Plan:
    """What is done with the files."""

    image: Pixels
    seconds: float
    sustained_seconds: float
    """0 leaves the sustained run out."""
    store: bool
    """Write the rows into the manifests."""


def told(line: str) -> None:
    """Say a line on standard error: what to do on the device must be read even where all else is quiet."""
    print(shown(line), file=sys.stderr, flush=True)


def device_for(targets: Sequence[str | None]) -> Device | None:
    """The device of all targets where it is not of this machine.

    Raises:
        UsageError: some are on one and some are not.
    """
    devices = [device_of(Target.parse(text).device) if text is not None else None for text in targets]
    if len(set(devices)) > 1 and any(devices):
        what = f"{' and '.join(str(text or 'no target') for text in targets)} are not on one device."
        raise UsageError(what, "Two files are timed in turns on the same device: name it for both.")
    return devices[0]


def check_sustained(seconds: float | None) -> float:
    """How long the sustained run is. Raises UsageError: out of range."""
    if seconds is None:
        return SUSTAINED_S
    if not 0 <= seconds <= MOST_SUSTAINED_S:
        what = f"sustained_seconds must lie between 0 and {MOST_SUSTAINED_S:g}, not {seconds:g}."
        raise UsageError(what, "600 is usual, 0 leaves it out.")
    return seconds


def bench_elsewhere(remote: Remote, device: Device, sides: Sequence[tuple[str, str]], plan: Plan) -> BenchReport:
    """Time artifacts on a device.

    Args:
        remote: the connection to it.
        device: its record.
        sides: artifact and target of each, one or two.
        plan: image, seconds, and whether rows are stored.

    Raises:
        UsageError: an artifact holds no file that runs there.
        VerificationError: a file's answers to the golden inputs are wrong there.
        PocketvitError: the device does not come, or goes away for good.
    """
    targets = targets_there(device, sides)
    models = [_opened(remote, path, target) for (path, _), target in zip(sides, targets, strict=True)]
    for model in models:
        _prove(model)
    rounds = Rounds(plan.seconds, warmup=WARMUP)
    times = remote.time([(model, (plan.image,)) for model in models], rounds)
    kept = _keep_busy(remote, models[0], plan)
    results = tuple(Result.of(model, plan.image, _parts(found)) for model, found in zip(models, times, strict=True))
    ratio = speedup(times[0].total, times[1].total) if len(times) == 2 else None
    said = [
        f"{each.variant} slows down as the {device.name} gets warm: {each.text()}" for each in kept if each.throttles
    ]
    where = dict(remote.environment)
    stored = _stored(models, times, kept, plan.image, where) if plan.store else ()
    if plan.store and len(stored) < len({str(model.path) for model in models}):
        said.append("an artifact cannot be written (it is part of the package, or read-only): its rows are only here.")
    return BenchReport(results, ratio, where, (*warnings_of(results, ratio), *said), kept, stored)


def targets_there(device: Device, sides: Sequence[tuple[str, str]]) -> list[Target]:
    """The target of each artifact, with its own runtime and precision where they are left open.

    Raises:
        UsageError: an artifact is not there or holds no file that runs on the device, or the targets differ in threads.
        VerificationError: a manifest is damaged.
    """
    targets = [Target.parse(text) for _, text in sides]
    if len({target.threads for target in targets}) > 1:
        what = f"{' and '.join(map(str, targets))} differ in threads, and a {device.name} runs both with the same."
        raise UsageError(what, "Time them one after the other, or with one number of threads.")
    return [_wanted(read_artifact(path), device, target) for (path, _), target in zip(sides, targets, strict=True)]


def _opened(remote: Remote, path: str, wanted: Target) -> Model:
    """The variant in the device's engine; on the way its file is opened here and held against the manifest."""
    local = open_variant(read_artifact(path), here(wanted))
    session = remote.open(local.file, wanted, local.manifest)
    return replace(local, session=session, target=wanted, memory_mb=remote.memory_mb)


def _wanted(artifact: Artifact, device: Device, target: Target) -> Target:
    """The target with the artifact's own runtime and precision where they are left open: the default's if it runs
    there, else the first that does."""
    if ANY not in (target.runtime, target.precision):
        check_device(device, target.runtime)
        artifact.variant(target.key)
        return target
    default = artifact.variant()
    for variant in (default, *artifact.manifest.variants):
        open_ = target.runtime in (ANY, variant.runtime) and target.precision in (ANY, variant.precision)
        if open_ and variant.runtime in device.runtimes and variant.device in (CPU, device.name):
            return replace(target, runtime=variant.runtime, precision=variant.precision)
    have = ", ".join(variant.key for variant in artifact.manifest.variants)
    what = f"{artifact.manifest.name} holds no file that a {device.name} runs; it holds {have}."
    raise UsageError(what, f"Export it for {' or '.join(device.runtimes)}.")


def _prove(model: Model) -> None:
    """Hold the device's answers to the golden inputs against the trained model's, as ``verify`` does here."""
    assert model.artifact is not None
    manifest, golden = model.manifest, read_golden(model.artifact)
    if faults := golden_faults(manifest, golden):
        raise fails_there(model, f"its goldens are damaged ({faults[0]})")
    limits = parity.tolerances(manifest, model.target.precision)
    answers = parity.run_goldens(model.session, golden.inputs)
    if faults := parity.parity_violations(manifest, answers, golden, limits):
        raise fails_there(model, f"its answers to the golden inputs are wrong there ({faults[0]})")


def _keep_busy(remote: Remote, model: Model, plan: Plan) -> tuple[Sustained, ...]:
    if not plan.sustained_seconds:
        return ()
    rounds = Rounds(plan.sustained_seconds, 3, MOST_ROUNDS, 0, "sustained run")
    (found,) = remote.time([(model, (plan.image,))], rounds)
    return (sustained_of(model.target.key, found),)


def _parts(times: Times) -> dict[str, Any]:
    return {"total": times.total, "pre": times.pre, "infer": times.infer, "post": times.post}


def _stored(
    models: Sequence[Model], times: Sequence[Times], kept: Sequence[Sustained], image: Pixels, where: Mapping[str, Any]
) -> tuple[str, ...]:
    """Manifests that got the rows; those of an earlier run of the same kind give way to them."""
    rows: dict[str, list[BenchRow]] = {}
    for model, found in zip(models, times, strict=True):
        rows.setdefault(str(model.path), []).append(bench_row(model, found.total, image.shape, where, ""))
    for each in kept:
        row = bench_row(models[0], each.whole, image.shape, where, f"; {each.seconds:.0f} s without a pause")
        told_of = {"sustained": each.to_dict()}
        rows[str(models[0].path)].append(row.model_copy(update={"environment": {**row.environment, **told_of}}))
    artifacts = {str(model.path): model.artifact for model in models if model.artifact is not None}
    return tuple(path for path, new in rows.items() if _write(artifacts[path], new))


def _write(artifact: Artifact, rows: Sequence[BenchRow]) -> bool:
    """``False`` for package data and folders that cannot be written."""
    if artifact.path.resolve().is_relative_to(shipped_root().resolve()) or not os.access(artifact.path, os.W_OK):
        return False
    replaced = {_same(row) for row in rows}
    left = [row for row in artifact.manifest.benchmarks if _same(row) not in replaced]
    try:
        write_manifest(artifact.path, artifact.manifest.model_copy(update={"benchmarks": [*left, *rows]}))
    except DataError:
        return False
    return True


def _same(row: BenchRow) -> tuple[object, ...]:
    """What rows share of which the later one replaces the earlier."""
    sustained = "sustained" in row.environment
    agent = row.environment.get("user_agent")
    return row.variant, row.threads, tuple(row.input_shape), row.includes.partition(";")[0], sustained, agent
