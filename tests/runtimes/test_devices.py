"""Targets on other devices: what is offered, what is refused, and nothing that runs elsewhere than it says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pocketvit.errors import UsageError
from pocketvit.export.built import Built
from pocketvit.runtimes import RUNTIMES, check_target, open_session
from pocketvit.runtimes import onnxruntime as ort_module
from pocketvit.runtimes import openvino as openvino_module
from pocketvit.runtimes.model import load
from pocketvit.runtimes.onnxfile import computes_in_half
from pocketvit.spec.artifact import Artifact
from pocketvit.spec.target import Target
from tests.tiny import TILE, make_tiny_artifact, photo

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("devices") / "a", openvino=True)


def offer_cuda(monkeypatch: pytest.MonkeyPatch, starts: bool) -> list[tuple[list[str], list[dict]]]:
    """ONNX Runtime as its GPU package is, on a machine where CUDA starts or fails to; what sessions are asked for."""
    asked: list[tuple[list[str], list[dict]]] = []
    real = onnxruntime.InferenceSession

    class Session:
        def __init__(self, path: str, options: object, providers: list[str], provider_options: list[dict]) -> None:
            asked.append((providers, provider_options))
            self._real = real(path, options, providers=[CPU])
            self._providers = providers if starts else [CPU]

        def get_providers(self) -> list[str]:
            return self._providers

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    return asked


def test_without_the_provider_cuda_is_refused_and_what_is_there_is_named(artifact: Artifact) -> None:
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this machine offers CUDA")
    with pytest.raises(UsageError, match="onnxruntime has no device cuda on this machine") as caught:
        load(artifact.path, "onnxruntime:fp32@cuda")
    assert caught.value.todo == "It offers: cpu."


def test_cuda_is_asked_for_where_it_is_offered(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = offer_cuda(monkeypatch, starts=True)
    assert RUNTIMES["onnxruntime"].devices() == ("cpu", "cuda")
    model = load(artifact.path, "onnxruntime:fp32:1@cuda")
    assert asked == [([CUDA, CPU], [{"use_tf32": "0"}, {}])]
    assert (model.session.info.device, model.target.key) == ("CUDA", "onnxruntime:fp32@cuda")
    assert model.variant is not None
    assert model.variant.key == "onnxruntime:fp32"
    load(artifact.path, "onnxruntime:fp32:1")
    assert asked[1] == ([CPU], [{}])


def test_cuda_that_does_not_start_is_no_silent_processor(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_cuda(monkeypatch, starts=False)
    with pytest.raises(UsageError, match="could not start CUDAExecutionProvider"):
        load(artifact.path, "onnxruntime:fp32@cuda")


def half(path: Path, cast: bool) -> Path:
    """An ONNX file with float16 weights, which are cast to float32 first or not."""
    weight = numpy_helper.from_array(np.ones((4, 4), np.float16), "w")
    element = TensorProto.FLOAT if cast else TensorProto.FLOAT16
    nodes = [helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT)] if cast else []
    nodes.append(helper.make_node("MatMul", ["x", "wide" if cast else "w"], ["y"]))
    ports = [helper.make_tensor_value_info(name, element, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_fp16_on_cuda_is_arithmetic_and_not_storage(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, computed = half(tmp_path / "a.onnx", cast=True), half(tmp_path / "b.onnx", cast=False)
    assert [computes_in_half(x) for x in (stored, computed, artifact.path / "model.onnx")] == [False, True, False]
    offer_cuda(monkeypatch, starts=True)
    for file in (stored, artifact.path / "model.onnx"):
        with pytest.raises(UsageError, match="computes in float32, not fp16"):
            open_session(file, Target("onnxruntime", "fp16", 1, "cuda"))
        assert open_session(file, Target("onnxruntime", "fp16", 1)).info.device == "CPU"
    assert open_session(computed, Target("onnxruntime", "fp16", 1, "cuda")).info.precision == "fp16"


def test_a_version_that_does_not_tell_its_coverage_still_opens(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime before 1.24."""
    assert ort_module._coverage(SimpleNamespace()) == {}
    real = onnxruntime.InferenceSession

    class Old:
        def __init__(self, *args: object, **options: object) -> None:
            self._real = real(*args, **options)

        def __getattr__(self, name: str) -> object:
            if name == "get_provider_graph_assignment_info":
                raise AttributeError(name)
            return getattr(self._real, name)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Old)
    model = load(artifact.path)
    assert model.session.info.coverage == {}
    assert model(photo(*TILE)).image.shape == (*TILE, 3)


def test_openvino_names_its_devices_by_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    has = {"CPU": ["FP32", "INT8", "BF16"], "NPU": ["FP16", "INT8"]}
    core = SimpleNamespace(
        available_devices=["CPU", "GPU.0", "GPU.1", "NPU"], get_property=lambda device, _: has[device]
    )
    monkeypatch.setattr(openvino_module, "_core", lambda: core)
    assert RUNTIMES["openvino"].devices() == ("cpu", "gpu", "npu")
    assert "bf16" in RUNTIMES["openvino"].precisions("cpu")
    assert "bf16" not in RUNTIMES["openvino"].precisions("npu")
    check_target(Target("openvino", "fp16", device="npu"))
    with pytest.raises(UsageError, match="openvino has no bf16 on the npu"):
        check_target(Target("openvino", "bf16", device="npu"))


def test_keys_are_made_in_one_place(artifact: Artifact) -> None:
    assert Built("onnxruntime", "int8", Path("m")).key == "onnxruntime:int8" == Target("onnxruntime", "int8", 4).key
    assert Built("onnxruntime", "int8", Path("m"), (), "cuda").key == "onnxruntime:int8@cuda"
    assert [variant.key for variant in artifact.manifest.variants][1] == "openvino:fp32"
    with pytest.raises(UsageError, match="holds no variant onnxruntime:int8@cuda"):
        artifact.variant("onnxruntime:int8@cuda")


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "torchscript"])
def test_answers_on_a_real_gpu_are_those_of_the_processor(artifact: Artifact, tmp_path: Path, runtime: str) -> None:
    record = RUNTIMES[runtime]
    if "cuda" not in record.devices():
        pytest.skip(f"{runtime} offers no CUDA here")
    from tests.runtimes.test_torchscript import trace

    file = artifact.path / "model.onnx" if runtime == "onnxruntime" else trace(tmp_path / "m.pt")
    pixels = {"pixels": photo(*TILE)[None]}
    near, far = (
        open_session(file, Target(runtime, "fp32", 1, device), artifact.manifest).run(pixels)["restored"]
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(near, far, atol=0.05)
