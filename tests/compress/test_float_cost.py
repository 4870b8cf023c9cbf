from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketvit.compress import float_cost
from pocketvit.compress import onnxruntime_int8 as int8
from pocketvit.compress.float_cost import LEAST, milliseconds
from pocketvit.compress.layers import Layer
from pocketvit.compress.onnxruntime_int8 import StaticInt8
from pocketvit.errors import UsageError
from pocketvit.export.artifact import pixel_model_of
from pocketvit.export.built import Built
from pocketvit.export.onnx import write
from tests.compress.helpers import apply
from tests.export.nets import classifier, inputs

LAYERS = [
    Layer(f"{kind}{i}", "Gemm", "x", "w", None, False, "y", None, macs)
    for kind, macs in (("fc", 400), ("qkv", 300), ("head", 10))
    for i in range(1 if kind == "head" else 4)
]
COSTS = {"fc": 0.004, "qkv": 0.001, "head": 0.0}
"""Seconds that a layer in float takes longer."""


class Clock:
    """A machine on which every run takes what is in float, plus a base."""

    def __init__(self, base: float) -> None:
        self.now, self.base = 0.0, base

    def session(self, floats: Sequence[Layer], threads: int) -> Any:
        clock, taken = self, self.base + sum(COSTS[x.node.rstrip("0123456789")] for x in floats)

        class Runner:
            def run(self, names: None, feed: dict[str, Any]) -> None:
                clock.now += taken

        return Runner()


def table(monkeypatch: pytest.MonkeyPatch, base: float) -> dict[str, float] | None:
    clock = Clock(base)
    monkeypatch.setattr(float_cost, "session", clock.session)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    image = np.zeros((2, 2, 3), np.uint8)
    return milliseconds(lambda floats: list(floats), LAYERS, lambda x: x.macs, image, 1)  # type: ignore[arg-type, return-value]


def test_a_group_shares_out_what_it_costs_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = table(monkeypatch, base=0.01)
    assert costs is not None
    assert costs["fc0"] == costs["fc3"] == pytest.approx(4.0)
    assert costs["qkv1"] == pytest.approx(1.0)
    # Nothing is lost with the head in float; it counts for little, but is not free.
    whole = 4 * 4.0 + 4 * 1.0
    assert costs["head0"] == pytest.approx(LEAST * whole * 10 / (4 * 400 + 4 * 300 + 10))


def test_a_run_that_is_too_short_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert table(monkeypatch, base=0.001) is None


def test_only_the_largest_groups_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float_cost, "GROUPS", 1)
    costs = table(monkeypatch, base=0.01)
    assert costs is not None
    assert costs["fc0"] == pytest.approx(4.0)
    assert costs["qkv0"] == pytest.approx(4.0 * 300 / 400)  # by its work


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return write(pixel_model_of(classifier()), (32, 40), tmp_path_factory.mktemp("float"), "net")


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return inputs(classifier(), 8)


def test_layers_are_weighed_by_the_time_they_cost(
    float_file: Built, pictures: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_up(build: object, layers: list, *rest: object) -> dict[str, float]:
        return {x.node: 5.0 if "fc2" in x.node else 0.5 for x in layers}

    monkeypatch.setattr(int8, "milliseconds", made_up)
    strict = {"max_error": 1e-6, "smooth": (), "compensate": False, "rank_images": 2}
    timed = apply(StaticInt8(**strict), float_file, pictures, None, tmp_path)
    assert {row.ms for row in timed.ranking} == {0.5, 5.0}
    order = [row.error**2 / row.ms for row in timed.ranking if row.ms]
    assert order == sorted(order, reverse=True)
    work = apply(StaticInt8(weigh="work", **strict), float_file, pictures, None, tmp_path)
    assert {row.ms for row in work.ranking} == {None}
    assert [row.name for row in work.ranking] != [row.name for row in timed.ranking]
    with pytest.raises(UsageError, match="unknown weigh"):
        StaticInt8(weigh="size")  # type: ignore[arg-type]


def test_the_last_block_is_ranked_by_the_one_token_that_is_computed(
    float_file: Built, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    report = apply(StaticInt8(smooth=(), compensate=False, rank_images=2), float_file, pictures, None, tmp_path)
    macs = {row.name: row.macs for row in report.ranking}
    assert macs["backbone.blocks.1.mlp.fc1"] * 21 == macs["backbone.blocks.0.mlp.fc1"]
    assert macs["backbone.blocks.1.attn.qkv"] == macs["backbone.blocks.0.attn.qkv"]
