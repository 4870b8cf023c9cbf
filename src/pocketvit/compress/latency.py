"""What it costs to leave layers in float: a table of milliseconds per group of layers, measured on this machine.

NetAdapt (Yang et al. 2018, section 3) chooses by such a table of the target, since multiplications do not tell time: a
head on one token gains nothing in int8, and of two layers of as many multiplications one may gain twice as much.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from pocketvit.compress.layers import Layer, session
from pocketvit.export.wrap import INPUT
from pocketvit.spec.preprocess import Pixels

WORTH_TIMING_MS = 2.0
"""A graph that is done sooner shows no difference above the noise: its layers are weighed by multiplications."""
GROUPS = 10
"""Groups that are timed, those with most multiplications first; what the others cost is taken from their work."""
LEAST = 0.05
"""A layer costs at least this share of what it would by its multiplications: noise may not make it free."""


def milliseconds(
    build: Callable[[Sequence[Layer]], onnx.ModelProto],
    layers: Sequence[Layer],
    group_of: Callable[[Layer], Hashable],
    image: Pixels,
    threads: int,
    seconds: float = 4.0,
) -> dict[str, float] | None:
    """By layer (its node's name) the milliseconds that the whole graph takes longer with it in float.

    The graphs run in turns: all in int8, then each with one group in float; the median of the differences within a
    round is shared out among the layers of the group.

    Args:
        build: makes the graph with the given layers in float.
        layers: all layers.
        group_of: layers of one group have the same shapes.
        image: (H, W, 3) uint8, what is timed.
        threads: of the engine.
        seconds: spent on timing.

    Returns:
        Milliseconds above 0; None where the graph is too fast to tell them.
    """
    groups: dict[Hashable, list[Layer]] = defaultdict(list)
    for layer in layers:
        groups[group_of(layer)].append(layer)
    chosen = sorted(groups.values(), key=lambda group: -sum(x.macs for x in group))[:GROUPS]
    feed = {INPUT: image[None]}
    runners = [session(build(group), threads) for group in ([], *chosen)]
    for runner in runners:
        runner.run(None, feed)
    if min(_run(runners[0], feed) for _ in range(5)) < WORTH_TIMING_MS:
        return None
    end = time.perf_counter() + seconds
    rounds: list[list[float]] = []
    while len(rounds) < 9 or time.perf_counter() < end:
        rounds.append([_run(runner, feed) for runner in runners])
    times = np.array(rounds)
    lost = np.median(times[:, 1:] - times[:, :1], axis=0)
    work = [sum(x.macs for x in group) for group in chosen]
    rate = max(float(np.maximum(lost, 0).sum()), 1e-6) / sum(work)
    costs = {x.node: x.macs * rate for x in layers}
    for group, ms in zip(chosen, lost, strict=True):
        for x in group:
            costs[x.node] = max(float(ms) / len(group), LEAST * costs[x.node])
    return costs


def _run(runner: Any, feed: Mapping[str, Any]) -> float:
    start = time.perf_counter()
    runner.run(None, feed)
    return (time.perf_counter() - start) * 1e3
