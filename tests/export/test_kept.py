"""Graphs that are captured once: what makes a network another one, and what is never kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from pocketvit.export import kept
from pocketvit.export import onnx as onnx_format
from pocketvit.export.artifact import pixel_model_of
from pocketvit.export.kept import captured_once, digest
from pocketvit.export.onnx import write
from pocketvit.models.trained import copy_of
from tests.compress.training import answer
from tests.export.nets import classifier


class Scaled(nn.Module):
    def __init__(self, factor: float, wide: int = 3) -> None:
        super().__init__()
        self.factor, self.layer = factor, nn.Linear(wide, 2)
        nn.init.ones_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_KEPT", type(kept._KEPT)())


def graph(name: str) -> onnx.ModelProto:
    return onnx.helper.make_model(onnx.helper.make_graph([], name, [], []))


def test_weights_attributes_structure_and_size_tell_networks_apart() -> None:
    same = digest(Scaled(2.0), (4, 4))
    assert same == digest(Scaled(2.0), (4, 4))
    other = Scaled(2.0)
    with torch.no_grad():
        other.layer.weight[1, 2] += 1e-6
    tied, untied = Scaled(2.0), Scaled(2.0)
    tied.twin, untied.twin = tied.layer, Scaled(2.0).layer
    frozen = Scaled(2.0)
    frozen.layer.weight.data = frozen.layer.weight.data.double()
    all_of_them = [digest(x, (4, 4)) for x in (Scaled(2.5), Scaled(2.0, 4), other, tied, untied, frozen)]
    assert len({same, digest(Scaled(2.0), (4, 5)), *all_of_them}) == 8
    assert None not in all_of_them


def test_what_cannot_be_pickled_or_is_large_is_captured_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    odd, asked = Scaled(1.0), []
    odd.rule = lambda x: x  # type: ignore[assignment]

    def capture(module: nn.Module, size: tuple[int, int]) -> onnx.ModelProto:
        asked.append(size)
        return graph(f"{len(asked)}")

    assert [captured_once(capture, odd, (1, 1)).graph.name for _ in range(2)] == ["1", "2"]
    assert [captured_once(capture, Scaled(1.0), (1, 1)).graph.name for _ in range(2)] == ["3", "3"]
    monkeypatch.setattr(kept, "MOST_BYTES", 31)  # six weights and two biases of four bytes
    assert [captured_once(capture, Scaled(1.0), (1, 1)).graph.name for _ in range(2)] == ["4", "5"]


def test_the_oldest_graphs_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def capture(module: Any, size: tuple[int, int]) -> onnx.ModelProto:
        asked.append(size[0])
        return graph("x" * 400)

    asked: list[int] = []
    monkeypatch.setattr(kept, "MOST_BYTES", 1000)  # two graphs
    for side in (1, 2, 1, 3, 1, 2):
        captured_once(capture, Scaled(1.0), (side, 1))
    assert asked == [1, 2, 3, 2]


def test_a_second_format_takes_the_graph_and_a_changed_network_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = classifier()
    first = write(pixel_model_of(trained), trained.preprocess.size, tmp_path, "first")
    other = copy_of(trained)
    with torch.no_grad():
        other.model.heads[0].bias += 1
    changed = write(pixel_model_of(other), trained.preprocess.size, tmp_path, "changed")
    monkeypatch.setattr(onnx_format, "_capture", lambda *_: pytest.fail("it was captured again"))
    again = write(pixel_model_of(copy_of(trained)), trained.preprocess.size, tmp_path, "again")
    assert again.path.read_bytes() == first.path.read_bytes() != changed.path.read_bytes()
    assert not torch.equal(answer(trained), answer(other))
