"""What a user asks for: the budget on a target and the floor below which a model is useless."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pocketvit.spec.typed import Range, check_ranges

if TYPE_CHECKING:
    from pocketvit.spec.tasks.base import MetricSpec


@dataclass(frozen=True)
class Budget:
    """Limits on the target; ``None`` is no limit."""

    latency_ms: float | None = None
    """Milliseconds for one image, pre- and postprocessing included; the upper end of the 95 % interval must meet it."""
    percentile: Literal["p50", "p90"] = "p50"
    """Which percentile of the latency the limit is on."""
    size_mb: float | None = None
    """Megabytes (1e6 bytes) of the model files on disk."""
    memory_mb: float | None = None
    """Peak resident megabytes of a fresh process that loads the model and answers once."""
    image: tuple[int, int] | None = None
    """Height and width of the image that is timed; default: the model's input, for tiled models the data's median."""

    def __post_init__(self) -> None:
        limits = dict.fromkeys(("latency_ms", "size_mb", "memory_mb"), Range(0, 1e9, above=True))
        check_ranges("budget", self, {**limits, "image": Range(1, 8192)})

    @property
    def percent(self) -> int:
        """``percentile`` as a number: 50 or 90."""
        return int(self.percentile[1:])

    def misses(self, *, latency_ms: float | None, size_mb: float, memory_mb: float | None) -> list[str]:
        """One sentence for each limit that the measured figures exceed; ``latency_ms`` is the interval's upper end."""
        measured = {"latency_ms": latency_ms, "size_mb": size_mb, "memory_mb": memory_mb}
        found = []
        for name, value in measured.items():
            limit = getattr(self, name)
            if limit is not None and value is not None and value > limit:
                found.append(f"{name} {value:.4g} > {limit:.4g}")
        return found


@dataclass(frozen=True)
class Floor:
    """The worst accepted value of a metric, absolute or as a loss against the trained float model."""

    metric: str | None = None
    """Metric name, e.g. ``psnr`` or ``fine.top1``; ``None`` takes the task's main one."""
    value: float | None = None
    """Absolute floor in the metric's unit (a ceiling where lower values are better)."""
    max_drop: float | None = None
    """Largest accepted loss against the float model, in the metric's unit (percentage points, dB)."""

    def __post_init__(self) -> None:
        check_ranges("floor", self, {"value": Range(-1e9, 1e9), "max_drop": Range(0, 1e9)})

    def misses(self, value: float, reference: float | None, spec: MetricSpec) -> list[str]:
        """One sentence for each limit that ``value`` is worse than, in the metric's direction."""
        found = []
        if self.value is not None and spec.loss(value, self.value) > 0:
            found.append(f"{spec.name} {value:.4g} {'<' if spec.higher_is_better else '>'} {self.value:.4g}")
        if self.max_drop is not None and reference is not None and spec.loss(value, reference) > self.max_drop + 1e-9:
            found.append(f"{spec.name} lost {spec.loss(value, reference):.3g} > {self.max_drop:.3g}")
        return found
