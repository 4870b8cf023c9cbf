"""OpenVINO held against itself: int8 files that it computes wrongly, or crashes on, are found before anything runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13

from pocketvit.errors import VerificationError
from pocketvit.runtimes import openvino_check as module
from pocketvit.runtimes.openvino_check import check_int8, fault, resized, simulated
from pocketvit.spec.environment import processor
from pocketvit.spec.target import Target
from tests.runtimes.test_probe import interpreter
from tests.tiny import photo

INT8 = Target("openvino", "int8", 1)


def network(path: Path, *, quantised: bool, size: tuple[int, int] = (-1, -1), largest: bool = False) -> openvino.Model:
    """A 3x3 convolution of (1, H, W, 3) bytes, with its input and weights in int8 or all in float."""
    rng = np.random.default_rng(0)
    pixels = opset13.parameter([1, *size, 3], np.uint8, name="pixels")
    values = opset13.transpose(opset13.convert(pixels, np.float32), np.array([0, 3, 1, 2]))
    whole = np.full((8, 3, 3, 3), 127) if largest else rng.integers(-127, 128, (8, 3, 3, 3))
    if quantised:
        edges = [np.float32(0), np.float32(255)] * 2
        values = opset13.fake_quantize(values, *edges, levels=256)
        weights = opset13.multiply(
            opset13.convert(opset13.constant(whole.astype(np.int8)), np.float32), np.float32(0.01)
        )
    else:
        weights = opset13.constant((whole * 0.01 + rng.normal(0, 2e-3, whole.shape)).astype(np.float32))
    sums = opset13.convolution(values, weights, [1, 1], [1, 1], [1, 1], [1, 1])
    model = openvino.Model([opset13.relu(sums)], [pixels])
    openvino.save_model(model, str(path), compress_to_fp16=False)
    return openvino.Core().read_model(str(path))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    network(tmp_path / "int8.xml", quantised=True)
    network(tmp_path / "float.xml", quantised=False)
    return tmp_path / "int8.xml", tmp_path / "float.xml"


class WrongCore:
    """An engine whose int8 kernels are off by ``shift``: those of graphs with quantisers and nothing behind them."""

    def __init__(self, shift: float, heights: tuple[int, ...]) -> None:
        self.core, self.shift, self.heights = openvino.Core(), shift, heights

    def compile_model(self, graph: openvino.Model, device: str, config: dict[str, Any]) -> Any:
        kinds = {op.get_type_name() for op in graph.get_ops()}
        compiled = self.core.compile_model(graph, device, config)
        off = self.shift if "FakeQuantize" in kinds and "Maximum" not in kinds else 0.0

        def run(feed: dict[str, Any]) -> dict[Any, Any]:
            here = off if feed["pixels"].shape[1] in self.heights else 0.0
            return {port: np.array(value) + here for port, value in compiled(feed).items()}

        return run


def test_a_sound_file_passes_at_several_sizes_and_at_its_one(files: tuple[Path, Path], tmp_path: Path) -> None:
    images = [photo(32, 48, seed) for seed in range(3)]
    check_int8(*files, INT8, images)
    network(tmp_path / "a.xml", quantised=True, size=(32, 48))
    network(tmp_path / "b.xml", quantised=False, size=(32, 48))
    check_int8(tmp_path / "a.xml", tmp_path / "b.xml", INT8, images)
    with pytest.raises(VerificationError, match=r"openvino gets a\.xml wrong"):
        check_int8(tmp_path / "a.xml", tmp_path / "b.xml", INT8, [photo(30, 48)])


def test_wrong_answers_without_a_crash_are_found_where_they_are(files: tuple[Path, Path]) -> None:
    graphs = [openvino.Core().read_model(str(file)) for file in files]
    for shift, said in ((0.0, ""), (1e3, "at 40x60 its answers are 1e+03 off"), (float("nan"), "its answers are nan")):
        core = WrongCore(shift, (40,))
        assert said in fault(core, *graphs, INT8, [photo(40, 60)])
        assert bool(fault(core, *graphs, INT8, [photo(40, 60)])) == bool(said)
        assert fault(core, *graphs, INT8, [photo(32, 48)]) == ""


def test_the_simulation_computes_what_the_quantisers_say_in_float(files: tuple[Path, Path]) -> None:
    graph = openvino.Core().read_model(str(files[0]))
    graph.reshape([1, 16, 24, 3])
    twin = simulated(graph)
    kinds = [op.get_type_name() for op in twin.get_ops()]
    assert kinds.count("Maximum") == kinds.count("FakeQuantize") == 1
    assert "Maximum" not in {op.get_type_name() for op in graph.get_ops()}
    image = {"pixels": photo(16, 24)[None]}
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    answers = [openvino.Core().compile_model(each, "CPU", config)(image)[0] for each in (graph, twin)]
    assert np.abs(answers[0] - answers[1]).max() < 1e-3 * np.abs(answers[1]).max()


def test_a_crash_and_a_hang_are_named(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", interpreter(tmp_path, "kill -SEGV $$"))
    with pytest.raises(VerificationError, match=r"openvino crashed on int8\.xml \(SIGSEGV\)") as caught:
        check_int8(*files, INT8, [photo(8, 8)])
    assert "more of the file in float" in caught.value.todo
    monkeypatch.setattr(sys, "executable", interpreter(tmp_path, "exec sleep 30"))
    monkeypatch.setattr(module, "TIMEOUT_S", 0.3)
    with pytest.raises(VerificationError, match="did not answer"):
        check_int8(*files, INT8, [photo(8, 8)])


def test_pictures_of_other_sizes_repeat_the_picture() -> None:
    image = photo(8, 12)
    assert resized(image, (0.5, 0.75)).tolist() == image[:4, :9].tolist()
    larger = resized(image, (1.25, 1.875))
    assert larger.shape == (10, 22, 3)
    assert larger[8:, :12].tolist() == image[:2].tolist()
    assert larger[:8, 12:].tolist() == image[:, :10].tolist()


@pytest.mark.skipif("avx2" not in processor()["flags"], reason="needs a processor with AVX2")
def test_products_that_saturate_without_vnni_are_found_on_a_processor_that_has_it(tmp_path: Path) -> None:
    size = (32, 32)
    for name, quantised in (("int8", True), ("float", False)):
        network(tmp_path / f"{name}.xml", quantised=quantised, size=size, largest=True)
    bright = [np.full((*size, 3), 240, np.uint8) + photo(*size) // 20 for _ in range(2)]
    with pytest.raises(VerificationError, match=r"gets int8\.xml wrong: at 32x32"):
        check_int8(tmp_path / "int8.xml", tmp_path / "float.xml", INT8, bright, "AVX2")
    if "avx512_vnni" in processor()["flags"]:
        check_int8(tmp_path / "int8.xml", tmp_path / "float.xml", INT8, bright)
