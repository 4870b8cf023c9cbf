"""What fit is asked to aim at is checked before anything is read."""

from __future__ import annotations

import pytest

from pocketvit.errors import UsageError
from pocketvit.fit.plan import wanted_runtimes
from pocketvit.spec.recipe import load_recipe


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"target": {"runtime": "tpu"}}, "unknown runtime 'tpu'"),
        ({"search.runtimes": ["onnxruntim"]}, "unknown runtime 'onnxruntim'"),
        ({"target": {"runtime": "onnxruntime", "precision": "bf16"}}, "onnxruntime has no bf16"),
        ({"target": {"runtime": "torchscript", "precision": "int8"}}, "torchscript has no int8"),
        ({"target": {"runtime": "torchscript", "precision": "bf16"}}, "no step leads to torchscript:bf16"),
        ({"target": {"runtime": "onnxruntime", "device": "toaster"}}, "onnxruntime has no device toaster"),
        ({"target": {"runtime": "openvino", "device": "phone"}}, "phone runs no files of openvino"),
        ({"target": "phone", "search.runtimes": ["openvino"]}, "phone runs no files of openvino"),
        ({"target": "onnxruntime:bf16@phone"}, "onnxruntime has no bf16"),
    ],
)
def test_targets_that_cannot_be_reached(fields: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        wanted_runtimes(load_recipe(None, fields))


def test_open_targets_take_those_of_the_search() -> None:
    assert wanted_runtimes(load_recipe(None)) == ("onnxruntime", "openvino")
    only_precision = load_recipe(None, {"target": {"runtime": "any", "precision": "bf16"}})
    assert wanted_runtimes(only_precision) == ("onnxruntime", "openvino")
    assert wanted_runtimes(load_recipe(None, {"target.runtime": "openvino"})) == ("openvino",)
    assert wanted_runtimes(load_recipe(None, {"target": "phone"})) == ("onnxruntime",)
    assert wanted_runtimes(load_recipe(None, {"target": "onnxruntime:int8:4@phone"})) == ("onnxruntime",)
