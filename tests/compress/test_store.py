"""Storing without loss: the same bits, smaller, and other steps read what was stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pocketvit.compress.onnxruntime_int8 import StaticInt8
from pocketvit.compress.store import Store
from pocketvit.compress.table import attempts
from pocketvit.errors import UsageError
from pocketvit.export.artifact import pixel_model_of
from pocketvit.export.built import Built
from pocketvit.export.onnx import write
from pocketvit.runtimes import open_session
from pocketvit.runtimes.stored import is_stored, unpack
from pocketvit.spec.target import Target
from tests.compress.helpers import apply, context, planned
from tests.export.nets import classifier, inputs


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return write(pixel_model_of(classifier()), (32, 40), tmp_path_factory.mktemp("float"), "net")


def changed(built: Built, folder: Path, change: object) -> Built:
    """The file with ``change`` applied to each of its large weights."""
    graph = onnx.load(built.path)
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim > 1 and values.size > 1000:
            tensor.CopyFrom(numpy_helper.from_array(change(values), tensor.name))  # type: ignore[operator]
    onnx.save(graph, folder / "changed.onnx")
    return replace(built, path=folder / "changed.onnx")


def pruned(values: np.ndarray) -> np.ndarray:
    return np.where(np.abs(values) < np.quantile(np.abs(values), 0.8), np.float32(0), values)


def binary(values: np.ndarray) -> np.ndarray:
    return (np.where(values > 0, 1, -1) * np.abs(values).mean(axis=0)).astype(np.float32)


def test_a_float_file_is_stored_and_answers_the_same_bits(float_file: Built, tmp_path: Path) -> None:
    report = apply(Store(), float_file, [], None, tmp_path)
    assert (report.built.key, report.built.path.name) == ("onnxruntime:fp32", "net.pvw")
    assert unpack(report.built.path) == float_file.path.read_bytes()
    assert report.built.bytes < 0.9 * float_file.bytes
    assert report.notes["times_smaller"] == float_file.bytes / report.built.bytes
    assert "no faster, and no smaller in memory" in report.told
    picture = {"pixels": inputs(classifier(), 1)[0][None]}
    was, now = (open_session(built.path, Target(threads=1)).run(picture) for built in (float_file, report.built))
    assert all(np.array_equal(was[name], now[name]) for name in was)


@pytest.mark.parametrize(("change", "form", "times"), [(pruned, "sparse", 2.3), (binary, "signs", 4.0)])
def test_pruned_and_binary_weights_take_their_forms(
    float_file: Built, tmp_path: Path, change: object, form: str, times: float
) -> None:
    source = changed(float_file, tmp_path, change)
    report = apply(Store(), source, [], None, tmp_path)
    assert report.notes["forms"][form]["tensors"] >= 8
    assert report.notes["times_smaller"] > times
    assert unpack(report.built.path) == source.path.read_bytes()


def test_an_int8_file_is_stored_too_and_int8_reads_a_stored_file(float_file: Built, tmp_path: Path) -> None:
    pictures = inputs(classifier(), 4)
    first = apply(Store(), float_file, [], None, tmp_path)
    settings = StaticInt8(smooth=(), compensate=False, rank_images=1)
    int8 = apply(settings, first.built, pictures, None, tmp_path)
    assert not is_stored(int8.built.path)
    assert (tmp_path / "net-opened.onnx").read_bytes() == float_file.path.read_bytes()
    again = apply(Store(), int8.built, [], None, tmp_path)
    assert again.built.key == "onnxruntime:int8"
    assert again.built.bytes < int8.built.bytes
    assert unpack(again.built.path) == int8.built.path.read_bytes()


def test_other_engines_are_refused(float_file: Built, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="store takes files of onnxruntime, not openvino:fp32"):
        next(attempts(planned(Store()), replace(float_file, runtime="openvino"), context(tmp_path)))
