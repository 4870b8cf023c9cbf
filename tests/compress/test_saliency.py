"""Each ranking against its definition, and OBS against solving the least squares problem anew."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from pocketvit.compress.latent import weighty
from pocketvit.compress.prune_weights import kept_masks
from pocketvit.compress.saliency import SCORES, images_of, input_moments, surgeon
from pocketvit.compress.step import Context
from pocketvit.errors import UsageError
from pocketvit.models.trained import Trained
from pocketvit.tasks import TORCH_TASKS
from tests.compress.training import given, restoring, teach

FC1, FC2 = "backbone.blocks.0.mlp.fc1", "backbone.blocks.0.mlp.fc2"


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Context]:
    folder = tmp_path_factory.mktemp("taught")
    trained, recipe = teach(folder, 3)
    return trained, given(recipe, folder / "step")


def mean_loss(trained: Trained, context: Context, count: int) -> float:
    task = TORCH_TASKS["classify"]
    with torch.no_grad():
        losses = [
            float(task.loss(trained.model(x), task.targets(truth), trained.task, None))
            for x, truth in images_of(trained, context, count)
        ]
    return float(np.mean(losses))


def test_size_is_size(taught: tuple[Trained, Context]) -> None:
    layers = weighty(taught[0].model)
    for path, score in SCORES["l1"](taught[0], layers, taught[1], 1).items():
        assert torch.equal(score, layers[path].weight.detach().abs())


def test_first_order_is_the_slope_of_the_loss(taught: tuple[Trained, Context]) -> None:
    trained, context = taught
    layers = weighty(trained.model)
    score = SCORES["taylor"](trained, layers, context, 6)[FC1]
    weight, step = layers[FC1].weight, 1e-2
    for place in score.reshape(-1).topk(4).indices.tolist():
        row, column = divmod(place, weight.shape[1])
        was = float(weight[row, column])
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[row, column] = was * (1 + sign * step)
            losses.append(mean_loss(trained, context, 6))
        with torch.no_grad():
            weight[row, column] = was
        slope = (losses[0] - losses[1]) / (2 * step)
        assert float(score[row, column]) == pytest.approx(abs(slope), rel=0.1)


def test_curvature_is_the_mean_of_squared_gradients_of_single_images(taught: tuple[Trained, Context]) -> None:
    trained, context = taught
    layers, task = weighty(trained.model), TORCH_TASKS["classify"]
    score = SCORES["obd"](trained, layers, context, 5)[FC2]
    weight, squares = layers[FC2].weight, []
    for x, truth in images_of(trained, context, 5):
        loss = task.loss(trained.model(x), task.targets(truth), trained.task, None)
        squares.append(torch.autograd.grad(loss, weight)[0].square())
    assert len(squares) == 5
    torch.testing.assert_close(score, (torch.stack(squares).mean(0) * weight.square() / 2).detach())


@pytest.mark.parametrize("by", ["apoz", "variance"])
def test_activity_is_that_of_the_channels_outputs(taught: tuple[Trained, Context], by: str) -> None:
    trained, context = taught
    layers = weighty(trained.model)
    score = SCORES[by](trained, layers, context, 4)[FC1]
    seen: list[torch.Tensor] = []
    handle = layers[FC1].register_forward_hook(lambda module, given, output: seen.append(output))
    with torch.no_grad():
        for x, _ in images_of(trained, context, 4):
            trained.model(x)
    handle.remove()
    rows = torch.cat([x.reshape(-1, x.shape[-1]) for x in seen])
    factor = (rows > 0).float().mean(0) if by == "apoz" else rows.std(0, correction=0)
    torch.testing.assert_close(score, layers[FC1].weight.detach().abs() * factor[:, None], rtol=1e-4, atol=1e-6)


def test_convolutions_have_scores_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("restorer")
    trained, recipe = restoring(folder)
    layers = weighty(trained.model)
    assert any(isinstance(layer, nn.Conv2d) for layer in layers.values())
    for by, rank in SCORES.items():
        for path, score in rank(trained, layers, given(recipe, folder / "step"), 2).items():
            assert score.shape == layers[path].weight.shape, by
            assert torch.isfinite(score).all()


def test_without_data_there_is_nothing_to_look_at(taught: tuple[Trained, Context]) -> None:
    with pytest.raises(UsageError, match="was given no data"):
        SCORES["taylor"](taught[0], weighty(taught[0].model), Context((), taught[1].folder), 4)


def problem(inputs: int = 7, outputs: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    x = torch.randn(200, inputs, dtype=torch.float64) @ torch.randn(inputs, inputs, dtype=torch.float64)
    return torch.randn(outputs, inputs), x.T @ x / 200


def lost(weight: torch.Tensor, other: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    """Mean squared change of each output."""
    miss = (weight - other).double()
    return ((miss @ moments) * miss).sum(1)


def test_one_weight_goes_as_the_best_one_does() -> None:
    """Of one removed weight OBS is exact: no other choice, nor another adjustment, loses less."""
    weight, moments = problem()
    found = surgeon(weight, moments, 1 / 7, damping=0.0)
    for row in range(len(weight)):
        best = []
        for gone in range(7):
            stay = [i for i in range(7) if i != gone]
            rest = torch.linalg.solve(moments[stay][:, stay], moments[stay] @ weight[row].double())
            other = torch.zeros(7, dtype=torch.float64)
            other[stay] = rest
            best.append(float(lost(weight[row : row + 1], other[None], moments)))
        assert float(lost(weight[row : row + 1], found[row : row + 1], moments)) == pytest.approx(min(best), rel=1e-3)


def test_what_is_left_is_adjusted_as_well_as_can_be() -> None:
    weight, moments = problem(8, 6, 1)
    found = surgeon(weight, moments, 0.5, damping=0.0)
    assert ((found == 0).sum(1) == 4).all()
    for row in range(6):
        stay = torch.nonzero(found[row])[:, 0].tolist()
        rest = torch.linalg.solve(moments[stay][:, stay], moments[stay] @ weight[row].double())
        torch.testing.assert_close(found[row, stay].double(), rest, rtol=1e-3, atol=1e-4)


def test_obs_loses_less_than_size_and_nearly_as_little_as_the_best_of_all() -> None:
    weight, moments = problem(8, 12, 2)
    found = lost(weight, surgeon(weight, moments, 0.5, damping=0.0), moments).mean()
    by_size = torch.where(kept_masks({"w": weight.abs()}, 0.5)["w"], weight, torch.zeros(()))
    assert found < 0.5 * lost(weight, by_size, moments).mean()
    best = torch.zeros(12, dtype=torch.float64)
    for row in range(12):
        losses = []
        for kept in combinations(range(8), 4):
            stay = list(kept)
            other = torch.zeros(8, dtype=torch.float64)
            other[stay] = torch.linalg.solve(moments[stay][:, stay], moments[stay] @ weight[row].double())
            losses.append(float(lost(weight[row : row + 1], other[None], moments)))
        best[row] = min(losses)
    assert best.mean() <= found < 2.5 * best.mean()


def test_moments_are_those_of_the_inputs_of_small_linear_layers(
    taught: tuple[Trained, Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, context = taught
    layers = weighty(trained.model)
    found = input_moments(trained, layers, context, 3)
    assert set(found) == {path for path, layer in layers.items() if isinstance(layer, nn.Linear)}
    seen: list[torch.Tensor] = []
    handle = layers[FC2].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        for x, _ in images_of(trained, context, 3):
            trained.model(x)
    handle.remove()
    rows = torch.cat([x.reshape(-1, x.shape[-1]) for x in seen]).double()
    torch.testing.assert_close(found[FC2], rows.T @ rows / len(rows))
    monkeypatch.setattr("pocketvit.compress.saliency.OBS_INPUTS", 32)
    assert FC2 not in input_moments(trained, layers, context, 1)
