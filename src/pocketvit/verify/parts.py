"""What is checked of half a model beside what is checked of all: the way between the halves, and a wrong half."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.runtimes.model import Model
from pocketvit.spec import parity
from pocketvit.spec.features import Features, decode, encode
from pocketvit.spec.golden import Golden
from pocketvit.spec.split import LOSSY, Split
from pocketvit.spec.tasks import TASKS


def over_the_wire(features: Features, split: Split) -> Features:
    """(N, tokens, width) float32 of N photos as they arrive."""
    return np.stack([decode(encode(one, split), split) for one in features])


def wire_figures(model: Model, golden: Golden) -> tuple[dict[str, float], list[str]]:
    """Of a tail: how far its answers are from the whole trained model's where features came over the wire, and which
    limits that breaks."""
    manifest, split = model.manifest, model.manifest.split
    assert split is not None
    arrived = over_the_wire(golden.inputs, split)
    outputs = parity.run_goldens(model.session, arrived, manifest.inputs[0].name)
    limits = TASKS[manifest.task].tolerances[LOSSY]
    figures = parity.compare_all(outputs, golden.outputs, parity.relative(manifest))
    figures |= parity.task_figures(manifest, outputs, golden)
    return figures, parity.parity_violations(manifest, outputs, golden, limits)


def strangers(features: NDArray[Any]) -> NDArray[Any]:
    """What another network would give: the same numbers in other channels."""
    return np.ascontiguousarray(np.roll(features, 1, axis=-1))
