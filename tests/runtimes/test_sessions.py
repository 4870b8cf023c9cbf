from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from pocketvit.errors import DataError, MissingDependencyError, UsageError, VerificationError
from pocketvit.runtimes import RUNTIMES, Port, check_inputs, installed, open_session
from pocketvit.runtimes import openvino as openvino_module
from pocketvit.spec.artifact import Artifact
from pocketvit.spec.target import PRECISIONS, Target
from tests.tiny import SIZE, TILE, classify_onnx, make_tiny_artifact, noisy, photo, restore_onnx, run_onnx


@pytest.fixture(scope="module")
def restorer(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("sessions") / "restore", "restore", openvino=True)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("sessions") / "classify", "classify", openvino=True)


def has_bf16() -> bool:
    return "BF16" in openvino_module.capabilities()


ENGINE_FILES = [("onnxruntime", "model.onnx"), ("openvino", "model.xml")]


def test_every_record_is_found_by_its_name_and_differs_in_what_it_opens() -> None:
    assert all(RUNTIMES[name].name == name for name in RUNTIMES)
    for field in ("format", "suffix", "writer", "package"):
        assert len({getattr(record, field) for record in RUNTIMES.values()}) == len(RUNTIMES)
    assert installed("onnxruntime")


@pytest.mark.parametrize(("runtime", "file"), ENGINE_FILES)
@pytest.mark.parametrize("threads", [1, 2])
def test_session_reports_itself_and_its_ports(restorer: Artifact, runtime: str, file: str, threads: int) -> None:
    session = open_session(restorer.path / file, Target(runtime, "fp32", threads))
    assert (session.info.engine, session.info.precision, session.info.threads, session.info.device) == (
        runtime,
        "fp32",
        threads,
        "CPU",
    )
    assert session.info.version[0].isdigit()
    assert sum(session.info.coverage.values()) == pytest.approx(1.0)
    assert session.inputs == {"pixels": Port((1, *TILE, 3), "uint8")}
    assert session.outputs == {"restored": Port((1, *TILE, 3), "float32")}


@pytest.mark.parametrize(("runtime", "file"), ENGINE_FILES)
def test_engines_agree_with_numpy(restorer: Artifact, runtime: str, file: str) -> None:
    image = photo(*TILE)
    answer = open_session(restorer.path / file, Target(runtime)).run({"pixels": image[None]})["restored"]
    padded = np.pad(image.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    blurred = sum(padded[y : y + TILE[0], x : x + TILE[1]] for y in range(3) for x in range(3)) / 9
    share = np.array([0.4, 0.2, 0.1])
    np.testing.assert_allclose(answer[0], np.clip(share * blurred + (1 - share) * image, 0, 255), atol=2e-3)
    assert answer.dtype == np.float32


@pytest.mark.parametrize(("runtime", "file"), ENGINE_FILES)
def test_answers_are_the_callers_own(restorer: Artifact, runtime: str, file: str) -> None:
    session = open_session(restorer.path / file, Target(runtime))
    first = session.run({"pixels": photo(*TILE, seed=1)[None]})["restored"]
    copy = first.copy()
    session.run({"pixels": photo(*TILE, seed=2)[None]})
    np.testing.assert_array_equal(first, copy)


@pytest.mark.parametrize(("runtime", "file"), ENGINE_FILES)
def test_inputs_need_not_be_contiguous(restorer: Artifact, runtime: str, file: str) -> None:
    session = open_session(restorer.path / file, Target(runtime))
    image = photo(*TILE)[:, ::-1]
    np.testing.assert_array_equal(
        session.run({"pixels": image[None]})["restored"],
        session.run({"pixels": np.ascontiguousarray(image)[None]})["restored"],
    )


@pytest.mark.parametrize(("runtime", "file"), ENGINE_FILES)
@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"pixels": np.zeros((1, 8, 8, 3), np.uint8)}, "expected shape (1, 48, 64, 3), got (1, 8, 8, 3)"),
        ({"pixels": np.zeros((48, 64, 3), np.uint8)}, "expected shape (1, 48, 64, 3), got (48, 64, 3)"),
        ({"pixels": np.zeros((2, 48, 64, 3), np.uint8)}, "expected shape"),
        ({"pixels": np.zeros((1, 48, 64, 3, 1), np.uint8)}, "expected shape"),
        ({"pixels": np.zeros((1, 48, 64, 3), np.float32)}, "expected uint8 (1, 48, 64, 3), got float32"),
        ({"pixels": [[1]]}, "got list"),
        ({"image": np.zeros((1, 48, 64, 3), np.uint8)}, "['image'] given, ['pixels'] expected"),
        ({}, "expected"),
    ],
)
def test_wrong_inputs_name_what_is_expected(
    restorer: Artifact, runtime: str, file: str, inputs: dict, says: str
) -> None:
    session = open_session(restorer.path / file, Target(runtime))
    with pytest.raises(DataError) as caught:
        session.run(inputs)
    assert says in caught.value.what
    assert "(1, 48, 64, 3)" in caught.value.todo


def test_free_dimensions_accept_any_length() -> None:
    ports = {"pixels": Port((1, -1, -1, 3), "uint8")}
    check_inputs(ports, {"pixels": np.zeros((1, 5, 9, 3), np.uint8)})
    with pytest.raises(DataError):
        check_inputs(ports, {"pixels": np.zeros((1, 5, 9, 4), np.uint8)})
    check_inputs({"pixels": Port(None, "uint8")}, {"pixels": np.zeros((7,), np.uint8)})


@pytest.mark.parametrize(("runtime", "file"), ENGINE_FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "junk"])
def test_damaged_files(classifier: Artifact, tmp_path: Path, runtime: str, file: str, damage: str) -> None:
    for name in ("model.onnx", "model.xml", "model.bin"):
        (tmp_path / name).write_bytes((classifier.path / name).read_bytes())
    path = tmp_path / file
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "junk": b"abc" * 50}[damage])
    with pytest.raises(VerificationError) as caught:
        open_session(path, Target(runtime))
    assert str(path) in caught.value.what
    assert caught.value.exit_code == 4
    assert "\n" not in caught.value.what


@pytest.mark.parametrize("content", [None, b"", b"\x00" * 40])
def test_openvino_weights_missing_or_truncated(classifier: Artifact, tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "model.xml").write_bytes((classifier.path / "model.xml").read_bytes())
    if content is not None:
        (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(VerificationError, match=r"model\.(bin|xml)"):
        open_session(tmp_path / "model.xml", Target("openvino"))


def test_onnxruntime_refuses_bf16_instead_of_running_float(restorer: Artifact) -> None:
    with pytest.raises(UsageError, match="onnxruntime has no bf16 on the cpu of this machine") as caught:
        open_session(restorer.path / "model.onnx", Target("onnxruntime", "bf16"))
    offered = "onnxruntime:fp32, onnxruntime:fp16, onnxruntime:int8"
    offered += ", onnxruntime:int8-dynamic, onnxruntime:weights, onnxruntime:cluster"
    assert caught.value.todo == f"Take {offered}, or another runtime."


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-dynamic", "weights", "cluster"])
def test_onnxruntime_reports_the_precision_of_the_file(restorer: Artifact, precision: str) -> None:
    assert open_session(restorer.path / "model.onnx", Target("onnxruntime", precision)).info.precision == precision


@pytest.mark.parametrize("precision", [p for p in PRECISIONS if p not in ("int8-dynamic", "cluster")])  # ONNX Runtime's
def test_openvino_compiles_with_the_hint_of_the_target(
    restorer: Artifact, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if precision in ("bf16", "int8-bf16") and not has_bf16():
        pytest.skip("this processor has no bf16")
    seen = {}
    core = openvino_module._core()

    class Spy:
        def compile_model(self, model: object, device: str, config: dict) -> object:
            seen.update(config, device=device)
            return core.compile_model(model, device, config)

        def __getattr__(self, name: str) -> object:
            return getattr(core, name)

    monkeypatch.setattr(openvino_module, "_core", lambda: Spy())
    session = open_session(restorer.path / "model.xml", Target("openvino", precision, 1))
    expected = {
        "fp32": "f32",
        "bf16": "bf16",
        "int8": "f32",
        "int8-bf16": "bf16",
        "weights": "f32",
        "fp16": "f16" if "FP16" in openvino_module.capabilities() else "f32",
    }[precision]
    assert seen == {
        "device": "CPU",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": 1,
        "INFERENCE_PRECISION_HINT": expected,
    }
    assert session.info.precision == precision


@pytest.mark.parametrize("precision", ["bf16", "int8-bf16"])
def test_a_processor_without_bf16_refuses_it(
    restorer: Artifact, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_module, "capabilities", lambda device="cpu": ("FP32", "INT8"))
    with pytest.raises(UsageError, match=f"openvino has no {precision} on the cpu of this machine") as caught:
        open_session(restorer.path / "model.xml", Target("openvino", precision))
    assert (
        caught.value.todo == "Take openvino:fp32, openvino:fp16, openvino:int8, openvino:weights, or another runtime."
    )


def test_openvino_bf16_computes_in_bf16(restorer: Artifact) -> None:
    if not has_bf16():
        pytest.skip("this processor has no bf16")
    pixels = {"pixels": noisy(photo(*TILE))[None]}
    exact = open_session(restorer.path / "model.xml", Target("openvino", "fp32")).run(pixels)["restored"]
    rounded = open_session(restorer.path / "model.xml", Target("openvino", "bf16")).run(pixels)["restored"]
    difference = np.abs(exact - rounded)
    assert 0.01 < difference.max() < 4


def test_openvino_without_the_instructions(restorer: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_module, "capabilities", lambda device="cpu": ("FP32", "INT8"))
    with pytest.raises(UsageError, match="openvino has no bf16 on the cpu"):
        open_session(restorer.path / "model.xml", Target("openvino", "bf16"))
    session = open_session(restorer.path / "model.xml", Target("openvino", "fp16"))
    assert session.info.device == "CPU (fp16 weights, float32 arithmetic)"


@pytest.mark.parametrize(
    ("runtime", "module", "says"),
    [
        ("onnxruntime", "onnxruntime", "pip install onnxruntime"),
        ("openvino", "openvino", '"pocketvit[openvino]"'),
        ("torchscript", "torch", '"pocketvit[train]"'),
    ],
)
def test_missing_engines_name_the_install_line(
    restorer: Artifact, monkeypatch: pytest.MonkeyPatch, runtime: str, module: str, says: str
) -> None:
    openvino_module._core.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError) as caught:
        open_session(restorer.path / "model.onnx", Target(runtime))
    assert says in caught.value.todo
    assert caught.value.exit_code == 6


def test_classifier_has_one_output_per_level(classifier: Artifact, tmp_path: Path) -> None:
    session = open_session(classifier.path / "model.onnx", Target())
    assert session.outputs == {"probs_coarse": Port((1, 2), "float32"), "probs_fine": Port((1, 4), "float32")}
    answer = session.run({"pixels": photo(*SIZE)[None]})
    assert answer["probs_fine"].sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(
        answer["probs_fine"], run_onnx(classify_onnx(tmp_path / "m.onnx"), photo(*SIZE)[None])["probs_fine"]
    )


def test_dynamic_sizes_are_reported_as_free(tmp_path: Path) -> None:
    model = onnx.load(restore_onnx(tmp_path / "m.onnx"))
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[1].dim_param = "h"
    onnx.save(model, tmp_path / "m.onnx")
    session = open_session(tmp_path / "m.onnx", Target())
    assert session.inputs["pixels"].shape == (1, -1, 64, 3)
    assert session.run({"pixels": photo(20, 64)[None]})["restored"].shape == (1, 20, 64, 3)
