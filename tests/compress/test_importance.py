"""Importance against gates written out, dead units, and what kept units say of those that go."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pocketvit.compress.importance import Batches, foretell, hand_over, losses, observe
from pocketvit.compress.step import Context
from pocketvit.errors import UsageError
from pocketvit.models.narrow import find_units, keep_units
from pocketvit.models.trained import Trained, copy_of
from pocketvit.spec.recipe import Recipe
from tests.compress.training import answer, deafen, given, restoring, silence, teach


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Recipe]:
    return teach(tmp_path_factory.mktemp("taught"), epochs=2)


def test_importance_is_the_derivative_of_gates(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    trained, recipe = taught
    batches = Batches(trained, given(recipe, tmp_path), 8)
    units = find_units(trained.model)
    found = observe(trained, units, batches)
    images, truth = next(iter(batches))
    for each, seen in zip(units, found, strict=True):
        assert seen.importance.shape == (each.count,)
        assert (seen.images, seen.positions, seen.written, seen.tokens) == (8, 17, 17, 17)
        wanted = torch.zeros(each.count)
        for image, label in zip(images, truth, strict=True):
            gates = torch.ones(each.count, requires_grad=True)
            hook = trained.model.get_submodule(each.reader).register_forward_pre_hook(
                lambda _, x, gates=gates, size=each.size: (x[0] * gates.repeat_interleave(size),)
            )
            loss = torch.nn.functional.cross_entropy(trained.model(image[None])[0], label.long())
            wanted += torch.autograd.grad(loss, gates)[0].square() / len(images)
            hook.remove()
        torch.testing.assert_close(seen.importance.float(), wanted, atol=1e-6, rtol=1e-3)


def test_dead_units_score_exactly_nothing(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    trained, recipe = copy_of(taught[0]), taught[1]
    deafen(trained, "backbone.blocks.0.attn", [1])
    silence(trained, "backbone.blocks.1.mlp", [3, 100])
    units = find_units(trained.model)
    found = dict(zip((x.path for x in units), observe(trained, units, Batches(trained, given(recipe, tmp_path), 16))))
    assert found["backbone.blocks.0.attn"].importance[1] == 0
    assert found["backbone.blocks.0.attn"].importance[0] > 0
    zero = found["backbone.blocks.1.mlp"].importance == 0
    assert zero.nonzero().flatten().tolist() == [3, 100]


def test_moments_are_those_of_the_inputs_and_frozen_networks_can_be_observed(
    taught: tuple[Trained, Recipe], tmp_path: Path
) -> None:
    trained, recipe = copy_of(taught[0]), taught[1]
    trained.model.requires_grad_(False)
    units, batches, rows = (
        find_units(trained.model, ("neurons",))[:1],
        Batches(trained, given(recipe, tmp_path), 16),
        [],
    )
    (seen,) = observe(trained, units, batches)
    assert not any(parameter.requires_grad for parameter in trained.model.parameters())
    hook = trained.model.get_submodule(units[0].reader).register_forward_pre_hook(lambda _, x: rows.append(x[0]))
    with torch.no_grad():
        total = sum(float(x) for x, _ in losses(trained, batches))
    hook.remove()
    assert total > 0
    flat = torch.cat([x.flatten(0, 1) for x in rows]).double()
    torch.testing.assert_close(seen.mean, flat.mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.second, flat.T @ flat / len(flat), atol=1e-5, rtol=1e-4)
    assert not trained.model.get_submodule(units[0].reader)._forward_pre_hooks


def test_channels_of_a_restorer_are_observed_over_pixels(tmp_path: Path) -> None:
    trained, recipe = restoring(tmp_path)
    units = find_units(trained.model)
    found = dict(
        zip((x.path for x in units), observe(trained, units, Batches(trained, given(recipe, tmp_path / "c"), 4)))
    )
    assert found["encoder.0.0"].positions == 24 * 24
    assert (found["bottleneck.1"].positions, found["bottleneck.1"].tokens) == (12 * 12, 4 * 4)
    assert all((seen.importance > 0).any() for seen in found.values())


def test_a_twin_takes_over_what_goes(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    trained, recipe = copy_of(taught[0]), taught[1]
    mlp = trained.model.backbone.blocks[0].mlp
    with torch.no_grad():
        mlp.fc1.weight[9], mlp.fc1.bias[9] = mlp.fc1.weight[4], mlp.fc1.bias[4]
    units = find_units(trained.model, ("neurons",))[0]
    (seen,) = observe(trained, [units], Batches(trained, given(recipe, tmp_path), 16))
    before, kept = answer(trained), [x for x in range(128) if x != 9]
    plain, handed = copy_of(trained), copy_of(trained)
    hand_over(handed.model, units, seen, kept)
    keep_units(plain.model, units, kept)
    keep_units(handed.model, units, kept)
    assert (answer(handed) - before).abs().max() < 0.1 * (answer(plain) - before).abs().max()


def test_the_mean_of_what_goes_becomes_bias(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    trained, recipe = copy_of(taught[0]), taught[1]
    units = find_units(trained.model, ("neurons",))[0]
    (seen,) = observe(trained, [units], Batches(trained, given(recipe, tmp_path), 16))
    matrix, constant, stay, gone = foretell(units, seen, [])
    assert matrix.shape == (128, 0)
    assert (len(stay), len(gone)) == (0, 128)
    torch.testing.assert_close(constant, seen.mean)
    fc2 = trained.model.backbone.blocks[0].mlp.fc2
    wanted = (fc2.bias.double() + fc2.weight.double() @ seen.mean).detach()
    hand_over(trained.model, units, seen, [])
    torch.testing.assert_close(fc2.bias.double().detach(), wanted, atol=1e-5, rtol=1e-5)


def test_without_data_there_is_nothing_to_rank_on(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="given no data"):
        Batches(taught[0], Context((), tmp_path), 8)
