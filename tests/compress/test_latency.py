"""Costs of units: multiplications by hand, and a table of milliseconds from files that are really exported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from pocketvit.compress.importance import Observed
from pocketvit.compress.latency import Table, class_of, compared_with, macs, measure_table, monotone, numbers
from pocketvit.compress.step import Context
from pocketvit.errors import UsageError
from pocketvit.export.built import Built
from pocketvit.models.narrow import Units, find_units, keep_units
from pocketvit.models.trained import copy_of
from tests.compress.training import by_bytes
from tests.models.test_backbone import VIT, trained

NEURONS = Units("neurons", "m", "m.fc1", "m.fc2", 96, removable=True)


def looked_at(units: Units, positions: int) -> Observed:
    return Observed(torch.zeros(units.count), torch.zeros(1), torch.zeros(1, 1), positions, positions, positions)


def test_multiplications_by_hand() -> None:
    model = trained("vit_tiny_patch16_224", VIT, (32, 48)).model
    units = find_units(model)
    cost = macs(model, units, [looked_at(each, 25) for each in units])
    attention = 25 * (3 * 32 * 32 + 32 * 32) + 2 * 25 * 25 * 32
    assert cost(0, 2) == attention
    assert cost(0, 1) == attention / 2
    assert cost(1, 128) == 25 * 2 * 32 * 128
    assert cost(1, 0) == 0


def test_numbers_of_units_that_are_measured() -> None:
    assert numbers(NEURONS, 4) == [0, 24, 48, 72]
    assert numbers(Units("heads", "a", "q", "p", 3, 4, 3, True), 4) == [0, 1, 2]
    assert numbers(Units("channels", "c", "q", "p", 8), 4) == [1, 2, 4, 6]


def test_noise_makes_no_layer_slower_for_being_narrower() -> None:
    rows = monotone({0: 10.0, 24: 9.0, 48: 14.0, 96: 18.0}, 2)
    assert rows == {0: 0.0, 24: 0.0, 48: 2.0, 96: 4.0}
    table = Table({"neurons 96x17": rows}, ("neurons 96x17",))
    assert table.cost(0, 96) == pytest.approx(4.0)
    assert table.cost(0, 72) == pytest.approx(0.9 * 3 + 0.1 * 3)
    assert table.cost(0, 24) > table.cost(0, 8) > table.cost(0, 0) == 0
    limited = Table(table.rows, table.classes, (1.0,))
    assert [limited.cost(0, left) for left in (0, 72, 96)] == pytest.approx([0, 0.75, 1.0])


@pytest.mark.slow
def test_the_table_is_measured_on_exported_networks(tmp_path: Path) -> None:
    start = trained("vit_tiny_patch16_224", VIT, (32, 48))
    units = find_units(start.model)
    observed = [looked_at(each, 25) for each in units]
    assert class_of(units[1], observed[1]) == "neurons 128x25"
    asked: list[int] = []

    def time(files: Sequence[Built]) -> list[float]:
        asked.append(len(files))
        return by_bytes(files)

    table = measure_table(start, units, observed, Context((), tmp_path, time=time), points=2)
    assert asked == [1 + 2 + 2]
    assert {name: sorted(row) for name, row in table.rows.items()} == {
        "heads 2x25": [0, 1, 2],
        "neurons 128x25": [0, 64, 128],
    }
    # A layer's weights are most of what a file loses with it: 4 bytes each, 10 kB to the millisecond.
    np.testing.assert_allclose(table.cost(1, 128) - table.cost(1, 64), 64 * 65 * 4 / 1e4, rtol=0.1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_networks_are_timed_against_the_whole_one(tmp_path: Path) -> None:
    start = trained("vit_tiny_patch16_224", VIT, (32, 48))
    cut = copy_of(start)
    for each in find_units(cut.model):
        keep_units(cut.model, each, [])
    with compared_with(start, Context((), tmp_path, time=by_bytes)) as faster:
        assert faster(cut) > 1.5
        assert faster(start) == pytest.approx(1)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="nothing to time with"), compared_with(start, Context((), tmp_path)):
        pass
