"""Low rank: exact where a layer is, best in the outputs where it is weighed, and a network that lives on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import pocketvit
from pocketvit.compress.importance import Batches, second_moments
from pocketvit.compress.low_rank import Factorise, candidates, decompose, energy_of, factorised, low_rank
from pocketvit.compress.step import Context
from pocketvit.compress.table import plan_slots
from pocketvit.errors import UsageError
from pocketvit.models.layers.low_rank import LowRank
from pocketvit.models.narrow import find_units
from pocketvit.models.trained import Trained, copy_of, save_checkpoint
from pocketvit.spec.recipe import Recipe, load_recipe
from pocketvit.tasks.load import load_checkpoint
from tests.compress.training import answer, given
from tests.models.test_backbone import check_files

PATH = "backbone.blocks.0.mlp.fc1"


def of_rank(rank: int, outputs: int, inputs: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(outputs, rank) @ torch.randn(rank, inputs)


def test_a_layer_of_low_rank_is_found_exactly() -> None:
    weight = of_rank(3, 12, 20)
    for moment in (None, torch.eye(20).double() + 0.5):
        found = decompose(weight, moment)
        assert found.rank_of(1.0, 1) == 3
        torch.testing.assert_close((found.left[:, :3] @ found.right[:3]).float(), weight, atol=1e-4, rtol=1e-4)
        assert found.rank_of(1.0, 8) == 8
        assert found.rank_of(0.5, 64) == 12  # never more ranks than there are


def test_whitened_factors_are_the_best_in_the_outputs() -> None:
    torch.manual_seed(1)
    weight, mixing = torch.randn(16, 24), torch.randn(24, 24) * torch.logspace(0, -3, 24)
    x = torch.randn(4000, 24) @ mixing.T
    moment = (x.T @ x).double() / len(x)

    def error(moment: torch.Tensor | None) -> float:
        found = decompose(weight, moment)
        return float((x @ (weight - (found.left[:, :4] @ found.right[:4]).float()).T).square().mean())

    weighed, plain = error(moment), error(None)
    # The best rank-4 answer to these inputs, from the outputs themselves (Eckart and Young).
    s = torch.linalg.svdvals(x @ weight.T)
    best = float(s[4:].square().sum() / (len(x) * 16))
    assert weighed == pytest.approx(best, rel=1e-2)
    assert weighed < 0.5 * plain
    assert float(decompose(weight, moment).energy[3]) == pytest.approx(
        1 - best / float((x @ weight.T).square().mean()), abs=1e-3
    )


def test_the_budget_is_met_and_nothing_is_wasted() -> None:
    factors = {name: decompose(of_rank(12, 40, 40) + 0.1 * torch.randn(40, 40)) for name in "ab"}
    share = energy_of(factors, 0.6, 4)
    left = sum(each.weights(each.rank_of(share, 4)) for each in factors.values())
    assert 0.4 * 3200 < left <= 0.6 * 3200
    with pytest.raises(UsageError, match="below what rank 4 takes"):
        energy_of(factors, 0.1, 4)


def test_moments_are_those_of_the_inputs(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    trained, recipe = taught
    batches = Batches(trained, given(recipe, tmp_path), 8)
    rows: list[torch.Tensor] = []
    layer = trained.model.get_submodule(PATH)
    hook = layer.register_forward_pre_hook(lambda _, x: rows.append(x[0]))
    found = second_moments(trained, {PATH: layer}, batches)
    hook.remove()
    flat = torch.cat([x.flatten(0, 1) for x in rows]).double()
    torch.testing.assert_close(found[PATH], flat.T @ flat / len(flat), atol=1e-5, rtol=1e-4)
    assert not layer._forward_pre_hooks


def test_a_network_of_low_rank_answers_as_before_and_lives_on(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    start, recipe = copy_of(taught[0]), taught[1]
    with torch.no_grad():
        for layer in candidates(start, ("fc1", "fc2")).values():
            layer.weight.copy_(0.1 * of_rank(6, *layer.weight.shape))
    before = answer(start)
    step = Factorise(energy=0.999999, layers=("fc1", "fc2"), multiple=2, images=16, epochs=0)
    report = low_rank(step, start, given(recipe, tmp_path / "c"))
    cut = report.result
    assert isinstance(cut, Trained)
    torch.testing.assert_close(answer(cut), before, atol=1e-3, rtol=1e-3)
    assert torch.equal(answer(start), before)
    assert report.notes["ranks"] == {
        f"backbone.blocks.{block}.mlp.{name}": 6 for block in (0, 1) for name in ("fc1", "fc2")
    }
    assert report.notes["weights"] == [4 * 32 * 128, 4 * 6 * 160]
    assert "4 of 4 linear layers became two" in report.told
    check_files(cut, tmp_path)
    assert isinstance(load_checkpoint(tmp_path).model.get_submodule(PATH), LowRank)
    # What another step has replaced is neither cut nor factorised again.
    assert candidates(cut, ("fc1", "fc2")) == {}
    assert all(each.kind == "heads" for each in find_units(cut.model))


def test_weighing_helps_a_trained_network(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    start, recipe = taught
    before = answer(start, 16)

    def moved(whiten: bool) -> float:
        step = Factorise(keep=0.4, whiten=whiten, multiple=2, images=27, epochs=0)
        report = low_rank(step, start, given(recipe, tmp_path / str(whiten)))
        assert isinstance(report.result, Trained)
        assert report.notes["weights"][1] <= 0.4 * report.notes["weights"][0]
        batches = Batches(start, given(recipe, tmp_path / "b"), 27)
        with torch.no_grad():
            return sum(float((report.result.model(x)[0] - start.model.eval()(x)[0]).square().sum()) for x, _ in batches)

    assert moved(True) < moved(False)
    assert torch.equal(answer(start, 16), before)


def test_both_halves_learn_alike(taught: tuple[Trained, Recipe]) -> None:
    layer = candidates(taught[0], ("fc1",))[PATH]
    pair = factorised(taught[0], {PATH: decompose(layer.weight.detach())}, {PATH: 8}).model.get_submodule(PATH)
    torch.testing.assert_close(pair.up.weight.norm(dim=0), pair.down.weight.norm(dim=1))
    assert torch.equal(pair.up.bias, layer.bias)


def test_what_cannot_be_is_said(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    start, recipe = taught
    for settings, words in (
        ({"energy": 0.9, "keep": 0.5}, "both given"),
        ({"energy": 1.5}, "energy must be"),
        ({"rank": 3}, "no setting 'rank'"),
    ):
        with pytest.raises(UsageError, match=words):
            plan_slots([{"low_rank": settings}], "onnxruntime")
    with pytest.raises(UsageError, match="no linear layer called fc3"):
        low_rank(Factorise(layers=("fc3",)), start, given(recipe, tmp_path))
    with pytest.raises(UsageError, match="no layer gets smaller"):
        low_rank(Factorise(energy=0.9999999, epochs=0, images=8), start, given(recipe, tmp_path))
    with pytest.raises(UsageError, match="given no data"):
        low_rank(Factorise(), start, Context((), tmp_path))


@pytest.mark.slow
def test_compress_factorises_behind_the_gate(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    start, recipe = taught
    save_checkpoint(tmp_path / "start", start)
    step = {"low_rank": {"keep": 0.4, "epochs": 2, "lr": 1e-3, "images": 16, "multiple": 2}}
    fields = {
        "compress": {"steps": [step, {"prune": {"keep": 0.7, "units": ["heads"], "epochs": 0}}], "min_shrink": 1.01},
        "search": {"timing_seconds": 0.1, "prefer": "size", "quiet_seconds": 0, "runtimes": ["onnxruntime"]},
        "floor": {"max_drop": 60},
    }
    own = load_recipe(recipe, fields)
    report = pocketvit.compress(own, checkpoint=str(tmp_path / "start"), name="c", runs=str(tmp_path), quiet=True)
    rows = {row.step or "float": row for row in report.rows}
    assert rows["low_rank"].kept, rows["low_rank"].reason
    assert rows["low_rank"].bytes < 0.75 * rows["float"].bytes
    assert pocketvit.verify(str(report.artifact)).passed
    loaded = load_checkpoint(rows["low_rank"].model)
    assert isinstance(loaded.model.get_submodule(PATH), LowRank)
    assert isinstance(loaded.model.heads[0], nn.Linear)
