"""Model files of somebody else: what they read is listed, what they say of themselves is the manifest's, what fails is
told, and what is code needs trust."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from pocketvit.errors import DataError, UsageError, VerificationError
from pocketvit.runtimes import RUNTIMES
from pocketvit.runtimes.model import default_target, load
from pocketvit.runtimes.onnxfile import external_files
from pocketvit.serve.predict import predict
from pocketvit.spec.artifact import Artifact, file_entries, read_artifact, write_manifest
from pocketvit.spec.environment import available_cores
from pocketvit.spec.manifest import BenchRow, Variant
from pocketvit.verify.command import verify
from tests.tiny import TILE, make_tiny_artifact, photo, restore_onnx


def sealed(artifact: Artifact, **changes: object) -> Artifact:
    """With sizes and checksums of the files as they are now."""
    write_manifest(
        artifact.path, artifact.manifest.model_copy(update={"files": file_entries(artifact.path), **changes})
    )
    return read_artifact(artifact.path)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return make_tiny_artifact(tmp_path / "a")


def move_weights(path: Path, location: str = "w.bin") -> None:
    """The kernel's values lie in a file beside the model."""
    model = onnx.load(path)
    kernel = next(x for x in model.graph.initializer if x.name == "kernel")
    if "/" not in location:
        (path.parent / location).write_bytes(kernel.raw_data)
    kernel.ClearField("raw_data")
    kernel.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "324")):
        kernel.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("target", ["onnxruntime:fp32", "openvino:fp32"])
def test_weights_in_another_file_are_listed_and_checked(artifact: Artifact, target: str) -> None:
    runtime = target.partition(":")[0]
    move_weights(artifact.path / "model.onnx")
    variant = Variant(runtime=runtime, precision="fp32", path="model.onnx")
    unlisted = sealed(artifact, variants=[variant], default=target)
    for refuse in (lambda: load(unlisted.path), lambda: verify(str(unlisted.path))):
        with pytest.raises(VerificationError, match=r"reads 'w\.bin', which the manifest does not list"):
            refuse()
    listed = sealed(artifact, variants=[variant.model_copy(update={"companions": ["w.bin"]})], default=target)
    assert verify(str(listed.path)).passed
    assert load(listed.path)(photo(*TILE)).image.max() > 0
    (artifact.path / "w.bin").write_bytes(bytes(324))
    with pytest.raises(VerificationError, match=r"w\.bin was changed"):
        load(listed.path)


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "*/_ORT_MEM_ADDR_/*"])
def test_weights_outside_the_folder(artifact: Artifact, location: str) -> None:
    move_weights(artifact.path / "model.onnx", location)
    with pytest.raises(VerificationError, match="does not list as a companion"):
        load(sealed(artifact).path)


def test_external_files_are_found_wherever_a_tensor_can_stand(tmp_path: Path) -> None:
    def outside(name: str) -> onnx.TensorProto:
        tensor = numpy_helper.from_array(np.zeros(4, np.float32), name)
        tensor.ClearField("raw_data")
        tensor.external_data.add(key="location", value=f"{name}.bin")
        return tensor

    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=outside("deep"))], "inner", [], [])
    nodes = [
        helper.make_node("If", ["x"], ["y"], then_branch=inner),
        helper.make_node("Constant", [], ["k"], value=outside("constant")),
    ]
    graph = helper.make_graph(nodes, "g", [], [], [outside("weight"), numpy_helper.from_array(np.ones(3), "inside")])
    graph.sparse_initializer.add().values.CopyFrom(outside("sparse"))
    model = helper.make_model(graph)
    function = model.functions.add(name="f", domain="d")
    function.node.append(helper.make_node("Constant", [], ["f"], value=outside("function")))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    names = ("weight", "constant", "deep", "sparse", "function")
    assert set(external_files(path)) == {f"{name}.bin" for name in names}
    whole = path.read_bytes()
    path.write_bytes(whole[:-40] + b"\xff" * 30 + b"location")
    with pytest.raises(VerificationError, match="its fields are damaged"):
        external_files(path)


def test_a_plain_model_reads_nothing_else(tmp_path: Path) -> None:
    assert external_files(restore_onnx(tmp_path / "m.onnx")) == ()


def test_the_bin_of_openvino_must_be_a_companion(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "a", openvino=True)
    first, *others = artifact.manifest.variants
    bare = sealed(artifact, variants=[first, *(v.model_copy(update={"companions": []}) for v in others)])
    with pytest.raises(VerificationError, match=r"reads 'model\.bin'"):
        load(bare.path, "openvino:fp32")
    with pytest.raises(VerificationError, match=r"reads 'model\.bin'"):
        verify(str(bare.path))


@pytest.mark.parametrize("suffix", [".pdmodel", ".tflite", ".pb", ".pt"])
def test_openvino_opens_no_other_formats(artifact: Artifact, suffix: str) -> None:
    shutil.copy(artifact.path / "model.onnx", artifact.path / f"m{suffix}")
    variant = Variant(runtime="openvino", precision="fp32", path=f"m{suffix}")
    with pytest.raises(VerificationError, match=r"neither .xml nor .onnx"):
        load(sealed(artifact, variants=[variant], default="openvino:fp32").path)


def odd(path: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())


def rename(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    for port in (*model.graph.input, *model.graph.output):
        port.name = new if port.name == old else port.name


def at_run_time(op: str, shape: list[int]) -> Callable[[onnx.ModelProto], None]:
    """Put an ``op`` to ``shape`` before the last node; the shape depends on the pixels, so that only running tells."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), "stated"))
        *first, last = model.graph.node
        last.input[0] = "between"
        extra = [
            helper.make_node("Sub", ["float", "float"], ["zeros"]),
            helper.make_node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
            helper.make_node("Cast", ["zero"], ["none"], to=TensorProto.INT64),
            helper.make_node("Add", ["stated", "none"], ["shape"]),
            helper.make_node(op, ["clamped", "shape"], ["between"]),
        ]
        del model.graph.node[:]
        model.graph.node.extend([*first, *extra, last])

    return change


def nan_kernel(model: onnx.ModelProto) -> None:
    kernel = next(x for x in model.graph.initializer if x.name == "kernel")
    kernel.CopyFrom(numpy_helper.from_array(np.full((3, 3, 3, 3), np.nan, np.float32), "kernel"))


def free_height(model: onnx.ModelProto) -> None:
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.shape.dim[1].dim_param = "height"


ODD: dict[str, Callable[[onnx.ModelProto], object]] = {
    "custom op": lambda m: setattr(m.graph.node[2], "op_type", "Magic"),
    "input renamed": lambda m: rename(m, "pixels", "image"),
    "output renamed": lambda m: rename(m, "restored", "answer"),
    "no output": lambda m: m.graph.ClearField("output"),
    "dynamic shape": free_height,
    "NaN": nan_kernel,
    "failure at run time": at_run_time("Reshape", [1, 3, 7, 1]),
    "wrong shape at run time": at_run_time("Reshape", [1, 3, TILE[1], TILE[0]]),
    "too much memory": at_run_time("Expand", [10**9, 3, *TILE]),
}
FOUND_WHEN_RUN = ("NaN", "failure at run time", "wrong shape at run time", "too much memory")


@pytest.mark.parametrize("name", ODD)
def test_odd_models_end_in_errors_of_ours(artifact: Artifact, tmp_path: Path, name: str) -> None:
    odd(artifact.path / "model.onnx", ODD[name])
    changed = sealed(artifact)
    with pytest.raises(VerificationError):
        verify(str(changed.path))
    Image.fromarray(photo(*TILE)).save(tmp_path / "a.png")
    with pytest.raises((DataError, VerificationError)):
        predict(str(changed.path), [str(tmp_path / "a.png")], out=str(tmp_path / "out"))
    images = [str(tmp_path / "a.png"), str(tmp_path / "none.png")]
    if name in FOUND_WHEN_RUN:  # and the others of the batch are told
        report = predict(str(changed.path), images, out=str(tmp_path))
        assert len(report.failures) == 2
        assert report.exit_code == 3
    else:
        with pytest.raises(VerificationError):
            predict(str(changed.path), images, out=str(tmp_path))


def test_nan_in_one_tile_is_not_blended_away(artifact: Artifact) -> None:
    model = load(artifact.path)
    sound = model.session.run

    def broken(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        answer = sound(inputs)
        answer["restored"][0, 0, 0, 0] = np.nan
        return answer

    model.session.run = broken
    with pytest.raises(DataError, match="holds NaN"):
        model(photo(100, 90))


@pytest.mark.parametrize("answer", [{}, {"restored": np.zeros((1, 4, 4, 3), np.float32)}])
def test_answers_that_are_not_the_manifests(artifact: Artifact, answer: dict[str, np.ndarray]) -> None:
    model = load(artifact.path)
    model.session.run = lambda inputs: answer
    with pytest.raises(VerificationError, match=r"output restored is .* the manifest says"):
        model(photo(100, 90))


def test_threads_are_those_of_this_machine_at_most(artifact: Artifact) -> None:
    row = BenchRow(
        variant="onnxruntime:fp32", threads=4096, p50_ms=1, p90_ms=1, runs=1, input_shape=[1], includes="all"
    )
    changed = sealed(artifact, benchmarks=[row])
    assert default_target(changed.manifest, changed.variant()).threads == 4 * available_cores()
    assert load(changed.path)(photo(*TILE)).image.shape == (*TILE, 3)


def with_code(artifact: Artifact) -> Artifact:
    """The default is a program, beside an ONNX file; what it holds is never looked at without trust."""
    (artifact.path / "model.pt").write_bytes(b"a program")
    program = Variant(runtime="torchscript", precision="fp32", path="model.pt")
    return sealed(artifact, variants=[program, *artifact.manifest.variants], default="torchscript:fp32")


def test_programs_need_trust(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = []
    monkeypatch.setattr("pocketvit.runtimes.torchscript.open_file", lambda *a: opened.append(a))
    record = RUNTIMES["torchscript"]
    assert [name for name, runtime in RUNTIMES.items() if runtime.is_code] == ["torchscript"]
    path = with_code(artifact).path
    with pytest.raises(UsageError, match="is a program") as caught:
        load(path, "torchscript:fp32")
    assert caught.value.exit_code == 2
    assert "--trust (trust=True in Python)" in caught.value.todo
    assert "take onnxruntime:fp32, which need no trust" in caught.value.todo
    with pytest.raises(UsageError, match="is a program"):
        verify(str(path), target="torchscript:fp32")
    with caplog.at_level(logging.WARNING, "pocketvit"):
        assert load(path).target.runtime == "onnxruntime"
    assert "running onnxruntime:fp32:2 instead of torchscript:fp32 (tiny-restore: torchscript:fp32 is a" in caplog.text
    skipped = [check for check in verify(str(path)).checks if check.skipped and check.variant]
    assert [check.variant for check in skipped] == ["torchscript:fp32"]
    assert "is a program" in skipped[0].detail
    assert record.is_code
    assert opened == []
    program = Variant(runtime="torchscript", precision="fp32", path="model.pt")
    alone = sealed(artifact, variants=[program], default="torchscript:fp32")
    with pytest.raises(UsageError, match="is a program"):
        verify(str(alone.path))


@pytest.mark.slow
def test_programs_run_where_they_are_trusted(artifact: Artifact, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from tests.runtimes.test_torchscript import trace

    path = with_code(artifact).path
    trace(path / "model.pt")
    trusted = sealed(read_artifact(path))
    assert load(trusted.path, trust=True).target.runtime == "torchscript"
    Image.fromarray(photo(*TILE)).save(tmp_path / "a.png")
    assert predict(str(path), [str(tmp_path / "a.png")], out=str(tmp_path), trust=True).variant == "torchscript:fp32"
