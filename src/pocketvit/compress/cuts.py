"""In which order units go, and after how many of them a network is small or fast enough."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence

import torch

from pocketvit.compress.importance import Observed
from pocketvit.compress.latency import Costs
from pocketvit.errors import UsageError
from pocketvit.models.narrow import Units, keep_units
from pocketvit.models.trained import Trained, copy_of

MARGIN = 1.02
"""Times are noisy: so much more speed than is wanted is looked for."""
CLOSE, TRIES = 1.04, 6
"""A cut that is at most so many times faster than wanted is close enough; networks timed until any that is fast enough
is taken."""
Removal = tuple[int, int]
"""(index of the units, number of them that is left after it)."""


def total(cost: Costs, units: Sequence[Units]) -> float:
    """Cost of all units."""
    return sum(cost(index, each.count) for index, each in enumerate(units))


def order(
    units: Sequence[Units], observed: Sequence[Observed], cost: Costs, *, multiple: int, whole: bool
) -> list[Removal]:
    """Everything that may go, that which matters least for its cost first: one head, or neurons up to a multiple.

    Greedy over layers, as NetAdapt; within a layer the least important go first. First-order importance does not see
    that a network with no attention at all is blind, so half of the branches of a kind keep something.
    """
    ranked = [torch.sort(seen.importance).values.tolist() for seen in observed]

    def offer(index: int, left: int) -> tuple[float, int, int] | None:
        each = units[index]
        size = 1 if each.kind == "heads" else min(multiple, each.count)
        after = left - (left % size or size)
        least = 0 if each.removable and whole else 1
        if after < least:
            return None
        loss = sum(ranked[index][each.count - left : each.count - after])
        return loss / max(cost(index, left) - cost(index, after), 1e-12), index, after

    heap = [found for index, each in enumerate(units) if (found := offer(index, each.count))]
    heapq.heapify(heap)
    removals: list[Removal] = []
    spare = Counter({kind: count // 2 for kind, count in Counter(each.kind for each in units).items()})
    while heap:
        _, index, after = heapq.heappop(heap)
        if after == 0:
            if not spare[units[index].kind]:
                continue
            spare[units[index].kind] -= 1
        removals.append((index, after))
        if found := offer(index, after):
            heapq.heappush(heap, found)
    return removals


def left_after(units: Sequence[Units], removals: Sequence[Removal]) -> list[int]:
    """Number of units left of each."""
    left = [each.count for each in units]
    for index, after in removals:
        left[index] = after
    return left


def which(units: Sequence[Units], observed: Sequence[Observed], removals: Sequence[Removal]) -> list[list[int]]:
    """The units that are left after removals, ascending."""
    kept = []
    for seen, left in zip(observed, left_after(units, removals), strict=True):
        kept.append(sorted(torch.sort(seen.importance, stable=True).indices[len(seen.importance) - left :].tolist()))
    return kept


def first_within(removals: Sequence[Removal], units: Sequence[Units], work: Costs, limit: float) -> int:
    """Number of removals after which no more than ``limit`` multiplications are left.

    Raises UsageError: more are left after all of them.
    """
    for count in range(len(removals) + 1):
        if sum(work(index, left) for index, left in enumerate(left_after(units, removals[:count]))) <= limit:
            return count
    raise UsageError(
        "compress.steps.prune: so small a share cannot be kept.", "Raise keep, or cut more kinds of units."
    )


def first_fast(
    removals: Sequence[Removal],
    start: Trained,
    units: Sequence[Units],
    cost: Costs,
    faster: Callable[[Trained], float],
    speedup: float,
) -> tuple[int, float]:
    """Number of removals after which ``start`` is ``speedup`` times as fast as before, and how fast it then is.

    Looked for by exporting and timing (``faster``): what removals save of the cost says where to look next.

    Raises UsageError: not even all removals make it so fast.
    """
    saved, left = [0.0], [each.count for each in units]
    for index, after in removals:
        saved.append(saved[-1] + cost(index, left[index]) - cost(index, after))
        left[index] = after
    need, rate, tries = 1 - 1 / speedup, 0.8 / max(saved[-1], 1e-12), 0
    low, high, best = -1, len(removals), (-1, 0.0)
    while low < high and not (tries >= TRIES and best[0] >= 0):
        tries += 1
        aim = next((k for k, spared in enumerate(saved) if spared * rate >= need), high)
        count = min(max(aim, low + 1), high) if tries <= TRIES else (low + 1 + high) // 2
        reached = faster(with_left(start, units, left_after(units, removals[:count])))
        if reached >= speedup:
            high, best = count - 1, (count, reached)
        else:
            low = count
        if speedup <= reached <= speedup * CLOSE:
            break
        rate = max(1 - 1 / reached, 1e-3) / max(saved[count], 1e-12)
    if best[0] < 0:
        limit = f"{reached:.3g} with all {len(removals)} cuts"
        what = f"compress.steps.prune: {speedup / MARGIN:.3g} times the speed cannot be reached ({limit})."
        raise UsageError(what, "Lower speedup, set whole, or take out blocks.")
    return best


def with_left(start: Trained, units: Sequence[Units], left: Sequence[int]) -> Trained:
    """A copy with the first units of each layer left: as fast as any with so many."""
    network = copy_of(start)
    for each, count in zip(units, left, strict=True):
        if count != each.count:
            keep_units(network.model, each, range(count))
    return network
