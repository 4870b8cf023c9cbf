"""Model file -> Session: NumPy in, NumPy out, one module and one :class:`Runtime` record per engine.

A new engine is one module with its record, one row in ``RUNTIMES``, and the writer of its format in ``export/``.
"""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path

from pocketvit.errors import MissingDependencyError, UsageError
from pocketvit.runtimes import onnxruntime, openvino, torchscript
from pocketvit.runtimes.session import OneAtATime, Port, Runtime, Session, SessionInfo, check_inputs
from pocketvit.spec.manifest import Manifest
from pocketvit.spec.target import Target, variant_key

_RECORDS = (onnxruntime.RUNTIME, openvino.RUNTIME, torchscript.RUNTIME)
RUNTIMES: dict[str, Runtime] = {record.name: record for record in _RECORDS}
__all__ = ["RUNTIMES", "Port", "Runtime", "Session", "SessionInfo", "check_inputs", "open_session"]


def runtime_of(name: str) -> Runtime:
    """The record of a runtime.

    Raises:
        UsageError: there is none of this name; the nearest is named.
    """
    if name not in RUNTIMES:
        near = difflib.get_close_matches(name, RUNTIMES, n=1)
        todo = f"Did you mean {near[0]}?" if near else f"Take one of {', '.join(RUNTIMES)}."
        raise UsageError(f"unknown runtime {name!r}.", todo)
    return RUNTIMES[name]


def installed(runtime: str) -> bool:
    """Whether the package behind ``runtime`` can be imported (it is not imported here)."""
    return importlib.util.find_spec(RUNTIMES[runtime].package) is not None


def check_target(target: Target) -> Runtime:
    """The record of a target's runtime, where this machine can run the target.

    Raises:
        UsageError: unknown runtime, or a device or precision that it does not have on this machine.
        MissingDependencyError: the engine is not installed.
    """
    runtime = runtime_of(target.runtime)
    if not installed(target.runtime):
        raise MissingDependencyError.of(runtime.package, runtime.extra)
    devices = runtime.devices()
    if target.device not in devices:
        todo = f"It offers: {', '.join(devices)}." if devices else "Its files run on other machines only."
        raise UsageError(f"{target.runtime} has no device {target.device} on this machine.", todo)
    have = runtime.precisions(target.device)
    if target.precision not in have:
        keys = ", ".join(variant_key(target.runtime, precision, target.device) for precision in have)
        what = f"{target.runtime} has no {target.precision} on the {target.device} of this machine."
        raise UsageError(what, f"Take {keys}, or another runtime.")
    return runtime


def open_session(path: Path, target: Target, manifest: Manifest | None = None) -> Session:
    """Open a model file in the engine, precision, thread count and device of ``target``; safe to run from many threads.

    ``manifest`` gives names and shapes for files that do not declare them themselves (TorchScript).

    Raises:
        MissingDependencyError: the engine is not installed.
        VerificationError: the file is damaged or not a model of this engine.
        UsageError: there is no such engine, or it cannot run this target on this machine.
    """
    runtime = check_target(target)
    session = runtime.open(path, target, manifest)
    return session if runtime.thread_safe else OneAtATime(session)
