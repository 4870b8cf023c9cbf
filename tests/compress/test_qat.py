"""Training with rounding: weights come out on the grid that the int8 file has, and learn to live with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from pocketvit.compress.importance import Batches
from pocketvit.compress.latent import LatentLinear, with_latent
from pocketvit.compress.onnxruntime_int8 import StaticInt8
from pocketvit.compress.qat import Qat, input_grids, qat, rounded, rounded_inputs
from pocketvit.compress.retrain import Retraining, retrained
from pocketvit.compress.step import Context, StepReport
from pocketvit.errors import UsageError
from pocketvit.export.artifact import pixel_model_of
from pocketvit.export.onnx import write
from pocketvit.models.trained import Trained
from pocketvit.spec.recipe import Recipe
from tests.compress.helpers import apply
from tests.compress.training import given, mean_loss

FC1 = "backbone.blocks.0.mlp.fc1"


@pytest.fixture(scope="module")
def report(taught: tuple[Trained, Recipe], tmp_path_factory: pytest.TempPathFactory) -> StepReport:
    return qat(Qat(epochs=2, least_values=90), taught[0], given(taught[1], tmp_path_factory.mktemp("qat")))


def test_weights_are_rounded_by_channel_and_gradients_pass() -> None:
    weight = torch.tensor([[0.0, 1.27, -0.503], [-127.0, 0.4, 63.6]], requires_grad=True)
    value = rounded(weight, torch.zeros(2))
    assert torch.allclose(value, torch.tensor([[0.0, 1.27, -0.50], [-127.0, 0.0, 64.0]]), atol=1e-6)
    assert torch.allclose(rounded(value, torch.zeros(2)), value, rtol=1e-6)
    value.backward(torch.full_like(weight, 3.0))
    assert weight.grad is not None
    assert (weight.grad == 3).all()
    assert (rounded(torch.zeros(2, 3), torch.zeros(2)) == 0).all()


def test_inputs_are_cut_off_beyond_their_grid_and_learn_nothing_there() -> None:
    x = torch.tensor([-1.0, -0.52, 0.0, 0.26, 9.0], requires_grad=True)
    value = rounded_inputs(x, torch.tensor([0.1, 5.0]))
    assert torch.allclose(value, torch.tensor([-0.5, -0.5, 0.0, 0.3, 9.0]), atol=1e-6)
    value.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 1]
    assert torch.allclose(rounded_inputs(torch.tensor([99.0]), torch.tensor([0.1, 5.0])), torch.tensor([25.0]))


def test_grids_hold_the_least_and_the_largest_input(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    trained, recipe = taught
    batches = Batches(trained, given(recipe, tmp_path), 27)
    seen: list[torch.Tensor] = []
    handle = trained.model.get_submodule(FC1).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with torch.no_grad():
        for x, _ in batches:
            trained.model(x)
    handle.remove()
    scale, zero = input_grids(trained, [FC1], batches)[FC1]
    low, high = min(float(x.min()) for x in seen), max(float(x.max()) for x in seen)
    assert float(scale) == pytest.approx((high - low) / 255, rel=1e-5)
    assert float(-zero * scale) == pytest.approx(low, abs=float(scale))
    assert not trained.model.get_submodule(FC1)._forward_pre_hooks


def test_the_network_computes_with_both_while_it_learns(taught: tuple[Trained, Recipe]) -> None:
    trained = taught[0]
    grid = torch.tensor([0.5, 128.0])
    latent = with_latent(trained, {FC1: grid}, rounded, rounded_inputs).model.get_submodule(FC1)
    assert isinstance(latent, LatentLinear)
    plain, x = trained.model.get_submodule(FC1), torch.randn(4, trained.model.get_submodule(FC1).in_features)
    want = torch.nn.functional.linear(rounded_inputs(x, grid), rounded(plain.weight, grid), plain.bias)
    assert torch.equal(latent(x), want)
    assert not torch.allclose(latent(x), plain(x))


def test_weights_come_out_on_the_grid_of_plain_layers(report: StepReport, taught: tuple[Trained, Recipe]) -> None:
    network = report.result
    assert isinstance(network, Trained)
    assert {"heads.0"} <= set(report.notes["layers"])
    for path in report.notes["layers"]:
        layer = network.model.get_submodule(path)
        assert type(layer) in (torch.nn.Linear, torch.nn.Conv2d)
        assert not hasattr(layer, "inputs")
        rows = layer.weight.detach().flatten(1)
        steps = rows / (rows.abs().amax(1, keepdim=True) / 127)
        assert (steps - steps.round()).abs().max() < 1e-3
    assert "float one until int8 follows" in report.told
    assert not torch.equal(
        network.model.get_submodule(FC1).weight, rounded(taught[0].model.get_submodule(FC1).weight, torch.zeros(2))
    )


def test_coarse_inputs_are_learned_to_be_lived_with(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    """With grids of a few steps only, which the range of one image would not do for."""
    trained, recipe = taught
    context = given(recipe, tmp_path)
    before = qat(Qat(epochs=0, least_values=200), trained, context)
    grids = {path: torch.tensor([scale * 32, zero / 32]) for path, (scale, zero) in before.notes["grids"].items()}
    latent = with_latent(trained, grids, rounded, rounded_inputs)
    learned = retrained(latent, trained, context, Retraining(epochs=6, lr=1e-3))
    again = with_latent(learned, grids, rounded, rounded_inputs)
    assert mean_loss(again, context) < 0.95 * mean_loss(latent, context)


def test_the_int8_file_behind_it_holds_the_weights_as_they_were_learned(
    report: StepReport, taught: tuple[Trained, Recipe], tmp_path: Path
) -> None:
    network = report.result
    assert isinstance(network, Trained)
    pictures = [
        np.ascontiguousarray((np.random.default_rng(i).random((*network.preprocess.size, 3)) * 255).astype(np.uint8))
        for i in range(8)
    ]
    built = write(pixel_model_of(network), network.preprocess.size, tmp_path, "qat")
    step = StaticInt8(smooth=(), compensate=False, max_float_share=0.0, kinds=("Gemm", "MatMul"))
    file = apply(step, built, pictures, None, tmp_path).built.path
    stored = [numpy_helper.to_array(x) for x in onnx.load(file).graph.initializer]
    codes = [x for x in stored if x.dtype == np.int8 and x.ndim == 2]
    assert codes
    weight = network.model.get_submodule(FC1).weight.detach().numpy()
    want = np.rint(weight / (np.abs(weight).max(1, keepdims=True) / 127)).astype(np.int8)
    assert any(
        x.shape in (want.shape, want.T.shape) and (x == (want if x.shape == want.shape else want.T)).all()
        for x in codes
    )


def test_settings_and_missing_data(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"compress\.steps\.qat\.images"):
        Qat(images=0)
    with pytest.raises(UsageError, match="has no layer for it"):
        qat(Qat(layers=("nothing",)), taught[0], given(taught[1], tmp_path))
    with pytest.raises(UsageError, match="no data"):
        qat(Qat(), taught[0], Context((), tmp_path))
    only = qat(replace(Qat(epochs=0), layers=("mlp",), least_values=1), taught[0], given(taught[1], tmp_path))
    assert all("mlp" in path for path in only.notes["layers"])
