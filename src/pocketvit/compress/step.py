"""What a compression step is: a frozen config, and a function from a state to a state that the gain gate may undo.

A state is a trained model, or the file built from one. Model steps change the network (pruning, factorising), file
steps the file (int8, bf16). A step never changes its input: it copies the network, or writes a new file.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pocketvit.export.built import Built
from pocketvit.models.trained import Trained
from pocketvit.spec.preprocess import Pixels

Outputs = Sequence[NDArray[np.float32]]


@dataclass(frozen=True)
class LayerRank:
    """One weight-carrying layer in the sensitivity ranking, worst first."""

    name: str
    error: float
    """The task's ``change`` of the outputs when this layer alone is quantised, mean over calibration images."""
    macs: int
    """Multiply-accumulates per image: what is lost in speed when it goes back to float."""
    kept_float: bool
    ms: float | None = None
    """What a run takes longer with it in float, measured; None where it was judged by its multiplications."""


@dataclass(frozen=True)
class StepReport:
    """A step that was carried out; whether it stays is decided by the gain gate."""

    step: str
    settings: Mapping[str, Any]
    result: Trained | Built
    ranking: tuple[LayerRank, ...] = ()
    scores: tuple[tuple[int, float], ...] = ()
    """Tried numbers of layers in float with the score of each file, in the order tried."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    told: str = ""
    """What people must be told of how it was carried out here."""

    @property
    def built(self) -> Built:
        """The new file of a file step."""
        assert isinstance(self.result, Built)
        return self.result

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Layers that were put back in float."""
        return tuple(row.name for row in self.ranking if row.kept_float)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        plain = {"step": self.step, "settings": dict(self.settings), "ranking": [asdict(row) for row in self.ranking]}
        plain |= {"scores": [{"float_layers": count, "score": score} for count, score in self.scores]}
        file = {"file": self.built.path.name, "bytes": self.built.bytes} if isinstance(self.result, Built) else {}
        return plain | file | {"notes": dict(self.notes), "told": self.told}


def no_score(path: Path) -> float:
    """Stands in where there is no ground truth to score a file with: every file is as good as any."""
    return 0.0


@dataclass(frozen=True)
class Context:
    """What steps may use; the same for all steps of one trained model."""

    calibration: Sequence[Pixels]
    """(H, W, 3) uint8 model inputs from training images."""
    folder: Path
    """Existing folder for new files."""
    score: Callable[[Path], float] = no_score
    """How good a model file is on the calibration images, in the main metric; higher is better."""
    change: Callable[[Outputs, Outputs], float] = lambda got, want: float(
        np.mean([np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)) for a, b in zip(got, want, strict=True)])
    )
    """How far the outputs of one image moved (the task's own measure)."""
    max_change: float = 1.0
    """Largest mean ``change`` that is accepted on calibration images."""
    max_loss: float = float("inf")
    """Largest loss of ``score`` that is accepted; infinity does not score at all."""
    threads: int = 2
    data: Any = None
    """Training and validation data (:class:`pocketvit.data.collections.Splits`), for steps that retrain."""
    recipe: Any = None
    """The recipe, for steps that retrain."""
    runtime: str = "onnxruntime"
    """Engine whose files come of what steps make."""
    time: Callable[[Sequence[Built]], Sequence[float]] | None = None
    """Median milliseconds of files on the target, timed in turns; ``None`` where there is nothing to time with."""
    shared: Path | None = None
    """Folder for what does not depend on the engine (retrained networks); ``None`` takes ``folder``."""
    quiet: bool = True
    """Whether steps that take long show no progress."""

    @cached_property
    def calibration_set(self) -> tuple[int, str]:
        """Number of the calibration images, and the SHA-256 over shapes and bytes of all of them in order."""
        digest = hashlib.sha256()
        for image in self.calibration:
            digest.update(repr((image.shape, str(image.dtype))).encode())
            digest.update(np.ascontiguousarray(image).tobytes())
        return len(self.calibration), digest.hexdigest()


def milder_counts(macs: Sequence[float], first: int, most: int, stride: float = 0.15) -> Iterator[int]:
    """Numbers of layers to leave in float: ``first``, then each time about ``stride`` more of all multiplications.

    Args:
        macs: multiply-accumulates (or milliseconds) of the layers in the order in which they go back to float.
        first: where to begin.
        most: never more layers than this.
    """
    yield first
    shares = np.cumsum(macs) / sum(macs)
    count = first
    while count < most:
        reached = shares[count - 1] if count else 0.0
        count = min(most, max(count + 1, int(np.searchsorted(shares, reached + stride)) + 1))
        yield count


@dataclass(frozen=True)
class StepKind:
    """A row of the table of steps."""

    name: str
    """As recipes call it."""
    config: type
    run: Callable[..., StepReport | Iterator[StepReport]]
    """``run(config, trained, context)`` of a model step, ``run(config, built, context)`` of a file step.

    An iterator yields milder and milder attempts; the gate takes the first that holds the floor.
    """
    level: Literal["model", "file"]
    runtime: str = ""
    """Whose files a file step takes; a model step has none."""
    starts_from: tuple[str, ...] = ()
    """Precisions a file step can start from; empty takes any. It starts from the newest kept state of one of them."""
    precision: str = ""
    """Of the files that a file step makes; empty keeps that of its input."""
    faster: float = math.inf
    """At most so many times faster than its input: candidates that even this cannot save are not trained."""
    smaller: float = math.inf
    baseline: bool = False
    """What a library does by default, built to compare with and never handed over."""
    prepares: bool = False
    """It gains nothing by itself, but for a step behind it: where the floor holds it stays without a gain."""
    branches: Literal["", "flat", "kept"] = ""
    """Whether a file step takes files of which parts run for some images only (early exits): not at all; ``flat``: it
    is given the graph without branches, which are put back afterwards; ``kept``: as they are."""
    retrains: bool = False
    """It trains the network: chains without such steps are searched first."""
    not_behind: tuple[str, ...] = ()
    """Names of steps that must not come in front of it in a runtime: it would start from what they rewrote."""
    calibrates: bool = False
    """It looks at the calibration images, so the manifest tells which those were."""
