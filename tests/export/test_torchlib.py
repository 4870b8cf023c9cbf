"""The table of operators: read once, left as it is, and no longer taken than an export lasts."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from torch.onnx._internal.exporter import _registration

from pocketvit.export import kept as kept_graphs
from pocketvit.export.artifact import pixel_model_of
from pocketvit.export.onnx import OPSET, capture
from pocketvit.export.torchlib import kept_table, table
from tests.export.nets import restorer


def test_exports_read_it_once_and_leave_it_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pixel_model_of(restorer())
    first = capture(model, (33, 46))
    kept, size = table(OPSET), {name: len(found) for name, found in table(OPSET).functions.items()}

    def read() -> Any:
        pytest.fail("the table was read again")

    monkeypatch.setattr(_registration.onnxscript_apis, "get_torchlib_ops", read)
    kept_graphs._KEPT.clear()
    again = capture(model, (33, 46))
    assert table(OPSET) is kept
    assert {name: len(found) for name, found in kept.functions.items()} == size
    assert [node.op_type for node in again.graph.node] == [node.op_type for node in first.graph.node]
    with pytest.raises(pytest.fail.Exception):
        _registration.ONNXRegistry.from_torchlib(opset_version=OPSET)  # others' exports are none of ours


def test_other_operator_sets_and_other_versions_of_torch_are_read_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with kept_table(OPSET):
        assert _registration.ONNXRegistry.from_torchlib(opset_version=OPSET) is table(OPSET)
        other = _registration.ONNXRegistry.from_torchlib(opset_version=18)
        assert other is not table(OPSET)
        assert other.opset_version == 18
    monkeypatch.setitem(sys.modules, "torch.onnx._internal.exporter._registration", None)
    with kept_table(OPSET):
        pass
