"""The order in which units go, and where it ends."""

from __future__ import annotations

import pytest
import torch

from pocketvit.compress.cuts import MARGIN, first_fast, first_within, left_after, order, total, which, with_left
from pocketvit.compress.importance import Observed
from pocketvit.errors import UsageError
from pocketvit.models.narrow import Units, find_units
from tests.models.test_backbone import VIT, trained

HEADS = Units("heads", "a", "a.qkv", "a.proj", 3, 4, 3, True)
NEURONS = Units("neurons", "m", "m.fc1", "m.fc2", 20, removable=True)
STUCK = Units("channels", "c", "c.conv1", "c.conv2", 8)


def seen(*importance: float) -> Observed:
    return Observed(torch.tensor(importance, dtype=torch.float64), torch.zeros(1), torch.zeros(1, 1))


def flat(index: int, left: int) -> float:
    return float(left)


def test_least_importance_for_its_cost_goes_first_and_multiples_are_left() -> None:
    units, observed = [HEADS, NEURONS], [seen(5, 0, 90), seen(*([0.0] * 4 + [1.0] * 8 + [50.0] * 8))]
    removals = order(units, observed, flat, multiple=8, whole=True)
    # The dead head and the four dead neurons up to a multiple of 8, then eight of weight 1, the head of 5, ...
    assert removals == [(0, 2), (1, 16), (1, 8), (0, 1)]
    assert left_after(units, removals[:3]) == [2, 8]
    assert which(units, observed, removals[:2]) == [[0, 2], list(range(4, 20))]
    assert which(units, observed, []) == [[0, 1, 2], list(range(20))]


def test_half_of_the_branches_of_a_kind_keep_something() -> None:
    units, observed = [HEADS] * 3 + [NEURONS] * 2, [seen(1, 1, 1)] * 3 + [seen(*[1.0] * 20)] * 2
    left = left_after(units, order(units, observed, flat, multiple=10, whole=True))
    assert sorted(left[:3]) == [0, 1, 1]
    assert sorted(left[3:]) == [0, 10]
    assert left_after(units, order(units, observed, flat, multiple=10, whole=False)) == [1, 1, 1, 10, 10]


def test_what_costs_more_goes_earlier() -> None:
    units, observed = [HEADS, HEADS], [seen(1, 2, 3), seen(1, 2, 3)]
    removals = order(units, observed, lambda index, left: left * (1.0 if index else 9.0), multiple=1, whole=False)
    assert removals[:2] == [(0, 2), (0, 1)]
    assert left_after(units, removals) == [1, 1]


def test_what_has_no_bare_form_keeps_a_multiple() -> None:
    removals = order([STUCK], [seen(*range(8))], flat, multiple=4, whole=True)
    assert removals == [(0, 4)]
    assert order([STUCK], [seen(*range(8))], flat, multiple=16, whole=True) == []


def test_a_share_of_the_work_is_kept() -> None:
    units = [HEADS, NEURONS]
    removals = [(1, 12), (1, 4), (0, 2)]
    assert total(flat, units) == 23
    assert first_within(removals, units, flat, 23) == 0
    assert first_within(removals, units, flat, 14) == 2
    assert first_within(removals, units, flat, 6) == 3
    with pytest.raises(UsageError, match="so small a share"):
        first_within(removals, units, flat, 5)


@pytest.mark.parametrize("wanted", [1.2, 1.5, 1.9])
def test_the_speed_is_found_with_few_timings(wanted: float) -> None:
    start = trained("vit_tiny_patch16_224", {**VIT, "depth": 3}, (32, 48))
    units = find_units(start.model)
    observed = [seen(*range(each.count)) for each in units]
    removals = order(units, observed, flat, multiple=8, whole=True)
    asked = []

    def faster(network: object) -> float:
        share = sum(p.numel() for p in network.model.parameters()) / whole  # type: ignore[attr-defined]
        asked.append(1 / (0.2 + 0.8 * share))
        return asked[-1]

    whole = sum(p.numel() for p in start.model.parameters())
    count, reached = first_fast(removals, start, units, flat, faster, wanted)
    assert reached >= wanted
    assert reached in asked
    assert len(asked) <= 8
    assert faster(with_left(start, units, left_after(units, removals[:count]))) == reached
    assert len(find_units(start.model)) == len(units)


def test_a_speed_out_of_reach_says_what_is_in_reach() -> None:
    start = trained("vit_tiny_patch16_224", VIT, (32, 48))
    units = find_units(start.model)
    removals = order(units, [seen(*range(each.count)) for each in units], flat, multiple=8, whole=True)
    with pytest.raises(UsageError, match=r"3 times the speed cannot be reached \(1\.4 with all"):
        first_fast(removals, start, units, flat, lambda network: 1.4, 3 * MARGIN)
