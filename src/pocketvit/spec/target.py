"""Where a model runs: engine, precision, threads, device."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pocketvit.errors import UsageError
from pocketvit.spec.devices import DEVICES
from pocketvit.spec.environment import available_cores
from pocketvit.spec.typed import Range, check_range

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-bf16", "int8-dynamic", "weights", "cluster")
"""``int8`` computes what a file leaves in float in float32, ``int8-bf16`` in bf16; ``int8-dynamic`` finds the ranges of
activations for each image; ``weights`` has weights of 8 or 4 bits; ``cluster`` computes in float32 with weights that
take few values."""
JUDGED_AS = dict.fromkeys(("int8-bf16", "int8-dynamic", "weights", "cluster"), "int8")
"""Precisions whose limits are those of another one, where a task does not state their own."""
ANY = "any"
"""In a recipe: fit chooses. Of an artifact on another device: what that one runs."""
CPU = "cpu"
THREADS = Range(1, 1024)
"""Processor threads; each costs memory before it works."""
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_FORM = "Write runtime[:precision[:threads]][@device], e.g. onnxruntime:int8:2 or onnxruntime:fp32@cuda."


def most_threads() -> int:
    """More threads than this serve nothing on this machine, and engines die of far too many."""
    return 4 * available_cores()


def variant_key(runtime: str, precision: str, device: str = CPU) -> str:
    """How variants are named: ``runtime:precision``, and ``@device`` where that is not the processor."""
    return f"{runtime}:{precision}" + (f"@{device}" if device != CPU else "")


@dataclass(frozen=True)
class Target:
    """A runtime on a device with a precision and a thread count: ``onnxruntime:int8:2``, ``openvino:fp16@npu``.

    Runtime and device are plain words here: which there are, and what they offer on this machine, is told by
    :func:`pocketvit.runtimes.check_target`, which opening a file calls.
    """

    runtime: str = "onnxruntime"
    precision: str = "fp32"
    threads: int = 2
    """Processor threads of the engine."""
    device: str = CPU
    """``cpu``, ``cuda``, ``npu`` or whatever else the runtime offers; or ``phone``, one of ``DEVICES``, which are not
    of this machine."""

    def __post_init__(self) -> None:
        for name in ("runtime", "device"):
            if not _WORD.fullmatch(getattr(self, name)):
                raise UsageError(f"target: {name} {getattr(self, name)!r} is no plain word.", _FORM)
        if self.precision not in (*PRECISIONS, ANY):
            raise UsageError(f"unknown precision {self.precision!r}.", f"Take one of {', '.join(PRECISIONS)}.")
        check_range("target.threads", self.threads, THREADS)

    @classmethod
    def parse(cls, text: str) -> Target:
        """``runtime[:precision[:threads]][@device]``; the inverse of ``str``. ``phone``, or another of ``DEVICES``,
        alone is any runtime and precision there.

        Raises:
            UsageError: too many parts, no thread count or one far above this machine's, an unknown precision, or no
                plain words.
        """
        if text in DEVICES:
            return cls(ANY, ANY, device=text)
        engine, at, device = text.partition("@")
        parts = engine.split(":")
        if len(parts) > 3:
            raise UsageError(f"target {text!r} has too many parts.", _FORM)
        try:
            threads = int(parts[2]) if len(parts) > 2 else cls.threads
        except ValueError:
            raise UsageError(f"target {text!r}: {parts[2][:40]!r} is no thread count.", _FORM) from None
        if threads > most_threads() and device not in DEVICES:
            what = f"target {text!r}: {threads} threads are too many for {available_cores()} cores."
            raise UsageError(what, f"Take at most {most_threads()}.")
        return cls(parts[0], parts[1] if len(parts) > 1 else cls.precision, threads, device if at else CPU)

    @property
    def key(self) -> str:
        """Name of the variant that it runs (:func:`variant_key`)."""
        return variant_key(self.runtime, self.precision, self.device)

    def __str__(self) -> str:
        return f"{self.runtime}:{self.precision}:{self.threads}" + (f"@{self.device}" if self.device != CPU else "")
