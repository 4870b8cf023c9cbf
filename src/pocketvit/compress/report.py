"""What a compression step reports: the new file, how it was made, and which layers were ranked how."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.export.built import Built

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class LayerRank:
    """One weight-carrying layer in the sensitivity ranking, worst first."""

    name: str
    error: float
    """Change of the model's output when this layer alone is quantised (mean over calibration images): sum of absolute probability changes, or RMS in pixels."""
    macs: int
    """Multiply-accumulates per image: what is lost in speed when it goes back to float."""
    kept_float: bool


@dataclass(frozen=True)
class StepReport:
    """A step that was carried out; whether it stays is decided by the gain gate."""

    step: str
    settings: dict[str, Any]
    built: Built
    ranking: tuple[LayerRank, ...] = ()
    scores: tuple[tuple[int, float], ...] = ()
    """Tried numbers of layers in float with the score of each file, in the order tried."""
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Layers that were put back in float."""
        return tuple(row.name for row in self.ranking if row.kept_float)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "step": self.step,
            "settings": self.settings,
            "file": self.built.path.name,
            "bytes": self.built.bytes,
            "ranking": [asdict(row) for row in self.ranking],
            "scores": [{"float_layers": count, "score": score} for count, score in self.scores],
            "notes": self.notes,
        }


def output_error(outputs: list[NDArray[np.float32]], reference: list[NDArray[np.float32]]) -> float:
    """Distance of answers: for (1, classes) probabilities the sum of absolute changes, for images the RMS; mean over outputs."""
    errors = []
    for got, want in zip(outputs, reference, strict=True):
        difference = got.astype(np.float64) - want
        errors.append(np.abs(difference).sum(axis=-1).mean() if want.ndim == 2 else np.sqrt(np.mean(difference**2)))
    return float(np.mean(errors))
