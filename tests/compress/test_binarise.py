"""Binary weights: two values a channel, learned through the sign, stored as bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from pocketvit.compress.binarise import Binarise, binarise, binary
from pocketvit.compress.retrain import retrained
from pocketvit.compress.step import Context, StepReport
from pocketvit.compress.store import Store, store
from pocketvit.errors import UsageError
from pocketvit.export.artifact import pixel_model_of
from pocketvit.export.onnx import write
from pocketvit.models.trained import Trained, save_checkpoint
from pocketvit.runtimes.stored import unpack
from pocketvit.spec.manifest import LevelSpec
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.recipe import ModelConfig, Recipe
from pocketvit.spec.tasks import config_of
from pocketvit.tasks.load import build_task_model, load_checkpoint
from tests.compress.training import answer, given, mean_loss
from tests.export.nets import classifier

SETTINGS = Binarise(epochs=6, lr=0.003, least_values=1000)


@pytest.fixture(scope="module")
def report(taught: tuple[Trained, Recipe], tmp_path_factory: pytest.TempPathFactory) -> StepReport:
    return binarise(SETTINGS, taught[0], given(taught[1], tmp_path_factory.mktemp("binary")))


def test_the_form_is_a_sign_and_the_mean_of_its_channel() -> None:
    weight = torch.tensor([[0.5, -1.5, 0.0, 2.0], [-3.0, 0.2, -0.4, 0.4]], requires_grad=True)
    value = binary(weight, torch.zeros(0))
    assert value.tolist() == [[1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, -1.0, 1.0]]
    value.backward(torch.full_like(weight, 3.0))
    assert weight.grad is not None
    assert weight.grad.tolist() == [[3.0, 0.0, 3.0, 0.0], [0.0, 3.0, 3.0, 3.0]]
    kernel = torch.randn(4, 3, 2, 2)
    scale = kernel.abs().mean((1, 2, 3))
    assert torch.equal(binary(kernel, torch.zeros(0)).abs(), scale[:, None, None, None].expand_as(kernel))


def test_the_first_layer_and_the_heads_stay_in_float_by_default(tmp_path: Path) -> None:
    def layers(**settings: Any) -> list[str]:
        return list(binarise(Binarise(epochs=0, **settings), classifier(), Context((), tmp_path)).notes["layers"])

    inner = [f"backbone.blocks.{i}.{x}" for i in (0, 1) for x in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    assert layers() == inner
    every = layers(first=True, last=True, least_values=1)
    assert (len(every), every[0].startswith("backbone.patch"), every[-2:]) == (11, True, ["heads.0", "heads.1"])
    assert layers(layers=("mlp",)) == [path for path in inner if "mlp" in path]
    with pytest.raises(UsageError, match=r"steps\.binarise: .* has no layer for it"):
        layers(layers=("nothing",))


def test_every_channel_of_the_binarised_layers_has_two_values(report: StepReport) -> None:
    network = report.result
    assert isinstance(network, Trained)
    assert len(report.notes["layers"]) == 8
    for path in report.notes["layers"]:
        layer = network.model.get_submodule(path)
        assert type(layer) is torch.nn.Linear
        rows = layer.weight.detach().numpy()
        assert {len(np.unique(np.abs(row))) for row in rows} == {1}
        assert 0.2 < np.mean(rows > 0) < 0.8
    assert "nothing gets faster" in report.told
    share = report.notes["binary_weights"] / report.notes["parameters"]
    assert f"{100 * share:.0f} % of the weights" in report.told
    assert not hasattr(network.model.get_submodule(report.notes["layers"][0]), "constant")


def test_training_makes_up_for_the_signs(report: StepReport, taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    context = given(taught[1], tmp_path)
    untrained = binarise(Binarise(epochs=0, least_values=1000), taught[0], context).result
    assert mean_loss(report.result, context) < 0.9 * mean_loss(untrained, context)


def test_it_is_saved_and_stored_in_one_bit_a_weight(report: StepReport, tmp_path: Path) -> None:
    network = report.result
    assert isinstance(network, Trained)
    save_checkpoint(tmp_path / "saved", network)
    assert torch.equal(answer(load_checkpoint(tmp_path / "saved")), answer(network))
    built = write(pixel_model_of(network), network.preprocess.size, tmp_path, "binary")
    stored = store(Store(), built, Context((), tmp_path))
    signs = stored.notes["forms"]["signs"]
    assert signs["values"] == report.notes["binary_weights"]
    assert signs["bits_per_value"] < 2.2  # scales and the block's head weigh in layers of 32 channels
    graph = onnx.load_from_string(unpack(stored.built.path)).graph
    assert sum(numpy_helper.to_array(x).size for x in graph.initializer) > report.notes["binary_weights"]


def test_layers_of_a_real_size_are_stored_25_times_smaller(tmp_path: Path) -> None:
    model = ModelConfig("vit_tiny_patch16_224", {"depth": 1})
    levels, spec = (LevelSpec(name="x", labels=["a", "b"]),), Preprocess(size=(32, 32))
    net = build_task_model(model, config_of({"name": "classify"}), levels, spec)
    trained = Trained(net.eval(), model, config_of({"name": "classify"}), levels, spec)
    found = binarise(Binarise(epochs=0), trained, Context((), tmp_path)).result
    assert isinstance(found, Trained)
    built = write(pixel_model_of(found), (32, 32), tmp_path, "b")
    signs = store(Store(), built, Context((), tmp_path)).notes["forms"]["signs"]
    assert signs["tensors"] == 4
    assert 32 / signs["bits_per_value"] > 25


def test_unlike_settings_do_not_share_a_retraining(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    teacher, recipe = taught
    context = given(recipe, tmp_path)
    for layers in (("mlp",), ("attn",)):
        binarise(Binarise(epochs=1, least_values=1000, layers=layers), teacher, context)
    assert len(list(tmp_path.glob("latent-*/retrain-*"))) == 2
    assert retrained(teacher, teacher, context, Binarise(epochs=0)) is teacher
