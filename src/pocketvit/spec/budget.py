"""What a user asks for: the budget on a target and the floor below which a model is useless."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pocketvit.errors import UsageError


@dataclass(frozen=True)
class Budget:
    """Limits on the target; ``None`` is no limit."""

    latency_ms: float | None = None
    """Milliseconds for one image: preprocessing, inference and postprocessing together."""
    percentile: Literal["p50", "p90"] = "p50"
    """Which percentile of the latency the limit is on."""
    size_mb: float | None = None
    """Megabytes (1e6 bytes) of the model files on disk."""
    memory_mb: float | None = None
    """Peak resident megabytes of a fresh process that loads the model and answers once."""

    def __post_init__(self) -> None:
        for name in ("latency_ms", "size_mb", "memory_mb"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"budget.{name} must be positive, not {value}.", "Leave it out for no limit.")

    def misses(self, *, latency_ms: float | None, size_mb: float, memory_mb: float | None) -> list[str]:
        """One sentence for each limit that the measured figures exceed."""
        measured = {"latency_ms": latency_ms, "size_mb": size_mb, "memory_mb": memory_mb}
        found = []
        for name, value in measured.items():
            limit = getattr(self, name)
            if limit is not None and value is not None and value > limit:
                found.append(f"{name} {value:.4g} > {limit:.4g}")
        return found


@dataclass(frozen=True)
class Floor:
    """The worst accepted value of the task's main metric, absolute or as a drop from the trained float model."""

    metric: str | None = None
    """Metric name, e.g. ``psnr`` or ``fine.top1``; ``None`` takes the task's main one."""
    value: float | None = None
    """Absolute floor in the metric's unit."""
    max_drop: float | None = None
    """Largest accepted loss against the float model, in the metric's unit (percentage points, dB)."""

    def __post_init__(self) -> None:
        if self.value is not None and self.value != self.value:
            raise UsageError("floor.value must be a number, not nan.", "Leave it out for no floor.")
        if self.max_drop is not None and not self.max_drop >= 0:
            raise UsageError(
                f"floor.max_drop must not be negative, not {self.max_drop}.",
                "Give the largest accepted loss, e.g. 0.5, or leave it out.",
            )

    def misses(self, value: float, reference: float | None = None) -> list[str]:
        """One sentence for each limit that ``value`` falls short of (higher is better for every main metric)."""
        found = []
        if self.value is not None and value < self.value:
            found.append(f"metric {value:.4g} < {self.value:.4g}")
        if self.max_drop is not None and reference is not None and reference - value > self.max_drop + 1e-9:
            found.append(f"metric drop {reference - value:.3g} > {self.max_drop:.3g}")
        return found
