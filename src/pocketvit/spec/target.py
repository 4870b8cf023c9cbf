"""Where a model runs: engine, precision, threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pocketvit.errors import UsageError

Precision = Literal["fp32", "fp16", "bf16", "int8"]
RUNTIME_NAMES = ("onnxruntime", "openvino", "torchscript")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
ANY = "any"
"""In a recipe: fit chooses."""


def variant_key(runtime: str, precision: str, device: str = "cpu") -> str:
    """How a variant of an artifact is named: ``onnxruntime:int8``, with ``@device`` where that is not the processor."""
    return f"{runtime}:{precision}" + ("" if device == "cpu" else f"@{device}")


@dataclass(frozen=True)
class Target:
    """A runtime on this device with a precision and a thread count; written ``onnxruntime:int8:2``."""

    runtime: str = "onnxruntime"
    precision: str = "fp32"
    threads: int = 2

    def __post_init__(self) -> None:
        if self.runtime not in (*RUNTIME_NAMES, ANY):
            raise UsageError(f"unknown runtime {self.runtime!r}.", f"Take one of {', '.join(RUNTIME_NAMES)}.")
        if self.precision not in (*PRECISIONS, ANY):
            raise UsageError(f"unknown precision {self.precision!r}.", f"Take one of {', '.join(PRECISIONS)}.")
        if self.threads < 1:
            raise UsageError(f"threads must be at least 1, not {self.threads}.", "Give the cores the model may use.")

    @classmethod
    def parse(cls, text: str) -> Target:
        """``runtime[:precision[:threads]]``."""
        parts = text.split(":")
        try:
            threads = int(parts[2]) if len(parts) > 2 else cls.threads
        except ValueError:
            raise UsageError(
                f"target {text!r}: {parts[2]!r} is no thread count.",
                "Write runtime:precision:threads, e.g. onnxruntime:int8:2.",
            ) from None
        if len(parts) > 3:
            raise UsageError(
                f"target {text!r} has too many parts.", "Write runtime:precision:threads, e.g. onnxruntime:int8:2."
            )
        return cls(parts[0], parts[1] if len(parts) > 1 else cls.precision, threads)

    @property
    def key(self) -> str:
        """The variant that it runs: :func:`variant_key`."""
        return variant_key(self.runtime, self.precision)

    def __str__(self) -> str:
        return f"{self.runtime}:{self.precision}:{self.threads}"
