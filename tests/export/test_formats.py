from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pocketvit.errors import UsageError, VerificationError
from pocketvit.export.artifact import answers, make_golden, pixel_model_of
from pocketvit.export.built import Built
from pocketvit.export.check import check_parity, run_file
from pocketvit.export.formats import exporter
from pocketvit.export.onnx import to_half_storage
from pocketvit.export.wrap import PixelModel
from pocketvit.models.trained import Trained
from pocketvit.runtimes import RUNTIMES
from pocketvit.spec.golden import Golden
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.tasks import TASKS
from pocketvit.tasks import TORCH_TASKS
from tests.export.nets import cases, classifier, inputs, restorer

FORMATS = [record.format for record in RUNTIMES.values()]
MODELS = {"classify": lambda: classifier(color="BGR"), "restore": restorer}


@pytest.fixture(scope="module", params=MODELS)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Trained, Golden, dict[str, Built]]:
    trained = MODELS[request.param]()
    folder = tmp_path_factory.mktemp(request.param)
    golden = make_golden(trained, cases(trained.task.name), 3)
    return (
        trained,
        golden,
        {name: exporter(name)(pixel_model_of(trained), trained.preprocess.size, folder, "net") for name in FORMATS},
    )


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_trained_models_answers(
    exported: tuple[Trained, Golden, dict[str, Built]], format: str
) -> None:
    trained, golden, built = exported
    found = check_parity(built[format], golden, TASKS[trained.task.name].tolerances["fp32"])
    assert found["max_abs"] < (1e-4 if trained.task.name == "classify" else 0.05)
    assert found["min_cosine"] > 0.99999
    assert built[format].bytes > 10_000
    assert built[format].path.stem == "net"


def test_pixel_model_is_normalise_model_and_answer() -> None:
    trained = classifier(color="BGR")
    image = inputs(trained, 1)[0]
    spec = trained.preprocess
    normal = (image[..., ::-1].astype(np.float64) / 255 - spec.mean) / spec.std
    with torch.no_grad():
        logits = trained.model(torch.from_numpy(normal.transpose(2, 0, 1)[None].astype(np.float32)))
        probabilities = pixel_model_of(trained)(torch.from_numpy(image.copy())[None])
    for got, want in zip(probabilities, logits, strict=True):
        np.testing.assert_allclose(got.numpy(), torch.softmax(want, -1).numpy(), atol=2e-5)
        assert got.sum().item() == pytest.approx(1, abs=1e-5)


def test_restored_pixels_are_clamped_and_channels_last() -> None:
    class Loud(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 3 - 0.5

    spec = Preprocess(size=(4, 6), resize="tile", mean=(0, 0, 0), std=(1, 1, 1))
    model = PixelModel(Loud(), spec, TORCH_TASKS["restore"].graph_output, ["restored"])
    pixels = np.arange(72, dtype=np.uint8).reshape(1, 4, 6, 3) * 3
    got = model(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(got, np.clip(pixels * 3.0 - 127.5, 0, 255), atol=1e-3)
    assert got.min() == 0
    assert got.max() == 255


def test_wrong_number_of_heads_is_an_error() -> None:
    trained = classifier()
    model = PixelModel(trained.model, trained.preprocess, TORCH_TASKS["classify"].graph_output, ["only"])
    with pytest.raises(UsageError, match="2 outputs, not the 1"):
        model(torch.zeros(1, 32, 40, 3, dtype=torch.uint8))


def test_onnx_graph_is_static_and_named_after_modules(exported: tuple[Trained, Golden, dict[str, Built]]) -> None:
    trained, _, built = exported
    graph = onnx.load(built["onnx"].path)
    shapes = {
        x.name: [d.dim_value for d in x.type.tensor_type.shape.dim] for x in (*graph.graph.input, *graph.graph.output)
    }
    assert shapes.pop("pixels") == [1, *trained.preprocess.size, 3]
    assert list(shapes) == pixel_model_of(trained).output_names
    assert graph.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    names = [node.name for node in graph.graph.node]
    assert len(set(names)) == len(names)
    if trained.task.name == "classify":
        assert {"backbone.blocks.0.mlp.fc2/MatMul", "backbone.blocks.1.attn.qkv/MatMul", "heads.1/Gemm"} <= set(names)
        assert "backbone.blocks.1.mlp.fc2.weight_t" in {x.name for x in graph.graph.initializer}
    assert b"site-packages" not in built["onnx"].path.read_bytes()  # no paths of the machine it was made on


def test_half_storage_halves_the_file_and_keeps_the_answers(
    exported: tuple[Trained, Golden, dict[str, Built]], tmp_path: Path
) -> None:
    trained, golden, built = exported
    half = Built("onnxruntime", "fp16", tmp_path / "half.onnx")
    onnx.save(to_half_storage(onnx.load(built["onnx"].path), min_values=64), half.path)
    weights = sum(p.numel() for p in trained.model.parameters()) * 4
    assert built["onnx"].bytes - half.bytes > 0.4 * weights
    limits = TASKS[trained.task.name].tolerances["fp16"]
    assert 0 < check_parity(half, golden, limits)["max_abs"] < limits["max_abs"]


def test_half_storage_leaves_small_and_huge_weights_alone(exported: tuple[Trained, Golden, dict[str, Built]]) -> None:
    graph = onnx.load(exported[2]["onnx"].path)
    assert to_half_storage(graph, min_values=10**9).SerializeToString() == graph.SerializeToString()


def test_mismatch_is_an_error_that_names_the_limit(exported: tuple[Trained, Golden, dict[str, Built]]) -> None:
    trained, golden, built = exported
    name = next(iter(golden.outputs))
    shifted = {**golden.outputs, name: golden.outputs[name] + np.float32(5)}
    wrong = Golden(golden.inputs, shifted, (), golden.truth, golden.preprocess)
    with pytest.raises(VerificationError, match="max_abs") as error:
        check_parity(built["onnx"], wrong, TASKS[trained.task.name].tolerances["fp32"])
    assert error.value.exit_code == 4


def test_missing_output_and_nan_are_errors(exported: tuple[Trained, Golden, dict[str, Built]], tmp_path: Path) -> None:
    _, golden, built = exported
    other = Golden(golden.inputs, {"else": next(iter(golden.outputs.values()))}, (), golden.truth, golden.preprocess)
    with pytest.raises(VerificationError, match="output else is missing"):
        check_parity(built["onnx"], other, {})
    graph = onnx.load(built["onnx"].path)
    weight = next(x for x in graph.graph.initializer if x.data_type == onnx.TensorProto.FLOAT and len(x.dims) > 1)
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full(tuple(weight.dims), np.nan, np.float32), weight.name))
    onnx.save(graph, tmp_path / "nan.onnx")
    with pytest.raises(VerificationError, match="NaN"):
        check_parity(Built("onnxruntime", "fp32", tmp_path / "nan.onnx"), golden, {})


def test_an_all_zero_output_is_no_match(exported: tuple[Trained, Golden, dict[str, Built]], tmp_path: Path) -> None:
    _, golden, built = exported
    graph = onnx.load(built["onnx"].path)
    for output in graph.graph.output:
        node = next(node for node in graph.graph.node if output.name in node.output)
        node.output[list(node.output).index(output.name)] = f"{output.name}_real"
        zero = onnx.numpy_helper.from_array(np.float32(0), f"{output.name}_zero")
        graph.graph.initializer.append(zero)
        graph.graph.node.append(onnx.helper.make_node("Mul", [f"{output.name}_real", zero.name], [output.name]))
    onnx.save(graph, tmp_path / "zero.onnx")
    with pytest.raises(VerificationError, match="min_cosine 0,"):
        check_parity(Built("onnxruntime", "fp32", tmp_path / "zero.onnx"), golden, {"min_cosine": 0.5})


def test_run_file_agrees_with_torch_for_each_image(exported: tuple[Trained, Golden, dict[str, Built]]) -> None:
    trained, _, built = exported
    pictures = inputs(trained, 3)
    want = answers(pixel_model_of(trained), pictures)
    got = run_file(built["torchscript"], pictures, list(want), threads=1)
    assert list(got) == list(want)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=1e-3)
