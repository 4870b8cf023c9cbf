"""Pruning of single weights: as many zeros as asked for, that stay zero, and are stored in less."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pocketvit.compress.prune_weights import PruneWeights, kept_masks, kept_of_four, masked, prune_weights
from pocketvit.compress.step import Context
from pocketvit.compress.store import Store, store
from pocketvit.errors import UsageError
from pocketvit.export.artifact import pixel_model_of
from pocketvit.export.onnx import write
from pocketvit.models.trained import Trained
from pocketvit.models.variants import VARIANTS
from pocketvit.spec.recipe import Recipe
from tests.compress.training import answer, given, restoring

SMALL = {"least_values": 1000, "lr": 0.003}


def zero_share(network: object, path: str) -> float:
    weight = network.model.get_submodule(path).weight  # type: ignore[attr-defined]
    return float((weight == 0).float().mean())


@pytest.mark.parametrize("by", ["l1", "taylor", "obd", "obs", "apoz", "variance"])
def test_each_ranking_gives_as_many_zeros_in_each_layer(
    taught: tuple[Trained, Recipe], tmp_path: Path, by: str
) -> None:
    trained, recipe = taught
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    report = prune_weights(
        PruneWeights(by=by, share=0.6, images=6, epochs=0, **SMALL), trained, given(recipe, tmp_path)
    )
    layers = [f"backbone.blocks.{i}.{x}" for i in (0, 1) for x in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    for path in layers:
        assert zero_share(report.result, path) == pytest.approx(0.6, abs=0.02)
    assert report.notes["zeros"] / report.notes["weights"] == pytest.approx(0.6, abs=0.02)
    assert zero_share(report.result, "heads.0") == 0
    assert "60 % of the weights" in report.told
    assert "nothing gets faster" in report.told
    assert set(report.notes["rounds"][0]["by"].values()) <= {by, "l1"}
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not (
        torch.signbit(report.result.model.get_submodule(layers[0]).weight)
        & (  # type: ignore[union-attr]
            report.result.model.get_submodule(layers[0]).weight == 0  # type: ignore[union-attr]
        )
    ).any()


def test_zeros_come_gradually_and_survive_retraining(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    trained, recipe = taught
    settings = PruneWeights(share=0.9, rounds=3, epochs=6, distill_weight=1.0, **SMALL)
    report = prune_weights(settings, trained, given(recipe, tmp_path))
    shares = [round_["share"] for round_ in report.notes["rounds"]]
    assert shares == pytest.approx([0.9 * (1 - (2 / 3) ** 3), 0.9 * (1 - (1 / 3) ** 3), 0.9])
    assert zero_share(report.result, "backbone.blocks.1.mlp.fc1") == pytest.approx(0.9, abs=0.01)
    bare = prune_weights(PruneWeights(share=0.9, epochs=0, **SMALL), trained, given(recipe, tmp_path / "bare"))

    def distance(network: object) -> float:
        logits = (F.log_softmax(answer(each, 64), 1) for each in (network, trained))  # type: ignore[arg-type]
        return float(F.kl_div(*logits, reduction="batchmean", log_target=True))

    assert distance(report.result) < 0.5 * distance(bare.result)


def test_the_share_may_be_that_of_all_layers_together(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    trained, recipe = taught
    settings = PruneWeights(share=0.5, scope="global", layers=("mlp",), epochs=0, **SMALL)
    report = prune_weights(settings, trained, given(recipe, tmp_path))
    paths = [f"backbone.blocks.{i}.mlp.{x}" for i in (0, 1) for x in ("fc1", "fc2")]
    shares = [zero_share(report.result, path) for path in paths]
    assert max(shares) - min(shares) > 0.01
    assert report.notes["zeros"] / report.notes["weights"] == pytest.approx(0.5, abs=0.001)
    assert zero_share(report.result, "backbone.blocks.0.attn.qkv") == 0


def test_masks_keep_exactly_as_many_also_of_equals_and_nan() -> None:
    same = kept_masks({"a": torch.ones(3, 5), "b": torch.zeros(10)}, 0.4)
    assert [int(mask.sum()) for mask in same.values()] == [9, 6]
    both = kept_masks({"a": torch.ones(3, 5), "b": torch.zeros(10)}, 0.4, together=True)
    assert [int(mask.sum()) for mask in both.values()] == [15, 0]
    odd = kept_masks({"a": torch.tensor([1.0, float("nan"), 3.0, 2.0])}, 0.5)["a"]
    assert odd.tolist() == [False, False, True, True]
    assert torch.equal(masked(torch.tensor([-1.0, 2.0]), torch.tensor([False, True])), torch.tensor([0.0, 2.0]))


def test_two_of_four_by_hand() -> None:
    score = torch.tensor([[1.0, 4, 2, 3, 5, 5, 5, 5], [0, float("nan"), -0.5, 0, 9, 8, 7, 6]])
    kept = torch.tensor([[0, 1, 0, 1, 0, 0, 1, 1], [1, 0, 0, 1, 1, 1, 0, 0]], dtype=torch.bool)
    assert torch.equal(kept_of_four(score, 2), kept)
    # Of a convolution the inputs are grouped, each place of its kernel for itself.
    kernel = score.reshape(2, 8, 1, 1).repeat(1, 1, 3, 3)
    assert torch.equal(kept_of_four(kernel, 2), kept.reshape(2, 8, 1, 1).expand(2, 8, 3, 3))
    assert kept_of_four(score, 3).sum(1).tolist() == [6, 6]
    with pytest.raises(ValueError, match="multiple of four"):
        kept_of_four(torch.ones(4, 6), 2)


def test_the_pattern_holds_in_every_layer_and_survives_retraining(
    taught: tuple[Trained, Recipe], tmp_path: Path
) -> None:
    trained, recipe = taught
    step = PruneWeights(pattern="2:4", rounds=2, epochs=2, **SMALL)
    report = prune_weights(step, trained, given(recipe, tmp_path))
    assert report.notes["zeros"] * 2 == report.notes["weights"]
    for path in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        weight = report.result.model.get_submodule(f"backbone.blocks.1.{path}").weight  # type: ignore[union-attr]
        assert ((weight != 0).reshape(-1, 4).sum(1) == 2).all()
    assert "patch_embed" not in "".join(report.notes["rounds"][0]["by"])  # three colours are no multiple of four
    assert report.notes["dense_bytes"] == 4 * report.notes["weights"]
    assert report.notes["pattern_bytes"] / report.notes["dense_bytes"] == pytest.approx(0.5 + 1 / 32)
    assert "pattern 2:4: 50 % of the weights" in report.told
    assert "nothing gets faster" in report.told


def test_60_percent_of_the_mlps_of_a_vit_b_leaves_the_known_number() -> None:
    """facts/architectures.md: 85,797,120 weights, of which about 51.82 M are left."""
    blocks, linear = 12, 768 * 3072
    left = (
        85_797_120 - sum(linear - int(kept_masks({"w": torch.rand(linear)}, 0.6)["w"].sum()) for _ in range(2)) * blocks
    )
    assert left == pytest.approx(51.82e6, abs=0.01e6)
    assert "vit_base_patch16_224" in VARIANTS


@pytest.mark.parametrize("by", ["l1", "obd"])
def test_convolutions_are_pruned_too(tmp_path: Path, by: str) -> None:
    trained, recipe = restoring(tmp_path)
    settings = PruneWeights(share=0.7, by=by, images=2, epochs=0, least_values=500)
    report = prune_weights(settings, trained, given(recipe, tmp_path / "step"))
    assert report.notes["zeros"] == pytest.approx(0.7 * report.notes["weights"], rel=0.01)


def test_zeros_are_stored_as_bits(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    trained, recipe = taught
    found = prune_weights(PruneWeights(share=0.9, epochs=0, **SMALL), trained, given(recipe, tmp_path)).result
    assert isinstance(found, Trained)
    sizes = {}
    for name, network in (("whole", trained), ("pruned", found)):
        built = write(pixel_model_of(network), network.preprocess.size, tmp_path, name)
        sizes[name] = store(Store(), built, Context((), tmp_path)).notes
    assert sizes["pruned"]["forms"]["sparse"]["bits_per_value"] < 0.1 * 32 + 1
    assert sizes["pruned"]["bytes"] < 0.5 * sizes["whole"]["bytes"]


def test_settings_that_mean_nothing_are_refused(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    patterns = [{"pattern": "2:4", **more} for more in ({"share": 0.4}, {"scope": "global"}, {"by": "obs"})]
    for wrong in ({"share": 0}, {"share": 1}, {"rounds": 0}, {"by": "obs", "scope": "global"}, *patterns):
        with pytest.raises(UsageError):
            PruneWeights(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no layer to prune"):
        prune_weights(PruneWeights(layers=("nothing",)), taught[0], given(taught[1], tmp_path))
    with pytest.raises(UsageError, match="was given no data"):
        prune_weights(PruneWeights(by="taylor", **SMALL), taught[0], Context((), tmp_path))
