"""Structured pruning: what is dead goes first and changes nothing, what is cut is gone, and it all chains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pocketvit
from pocketvit.compress import prune_structured
from pocketvit.compress.importance import Batches
from pocketvit.compress.prune_structured import Prune, cut_down, drop_blocks, keep_class_only, prune
from pocketvit.compress.step import Context
from pocketvit.compress.table import plan_slots
from pocketvit.compress.width import narrow_width
from pocketvit.errors import UsageError
from pocketvit.export.built import Built
from pocketvit.models.layers.blocks import ClassBlock
from pocketvit.models.narrow import find_units
from pocketvit.models.trained import Trained, copy_of, save_checkpoint
from pocketvit.spec.recipe import Recipe, load_recipe
from pocketvit.tasks.load import load_checkpoint
from pocketvit.tasks.start import new_model
from tests.compress.training import answer, by_bytes, deafen, given, restoring, silence
from tests.models.test_backbone import check_files, trained

ATTN, MLP = "backbone.blocks.0.attn", "backbone.blocks.1.mlp"


def counts(network: Trained) -> dict[str, int]:
    return {each.path: each.count for each in find_units(network.model)}


def parameters(network: Trained) -> int:
    return sum(parameter.numel() for parameter in network.model.parameters())


@pytest.mark.parametrize("reconstruct", [True, False])
def test_dead_units_go_first_and_no_answer_changes(
    taught: tuple[Trained, Recipe], tmp_path: Path, reconstruct: bool
) -> None:
    start, recipe = copy_of(taught[0]), taught[1]
    deafen(start, ATTN, [1])
    silence(start, MLP, list(range(0, 64)))
    before = answer(start)
    step = Prune(keep=0.8, epochs=0, multiple=32, images=16, reconstruct=reconstruct, class_only=False)
    report = prune(step, start, given(recipe, tmp_path, None))
    cut = report.result
    assert isinstance(cut, Trained)
    # The dead head is a tenth of the multiplications, the dead neurons are 15 %: a fifth has to go.
    assert counts(cut) == counts(start) | {ATTN: 1, MLP: 64}
    torch.testing.assert_close(answer(cut), before, atol=1e-4, rtol=1e-4)
    assert torch.equal(answer(start), before)
    assert counts(start)[MLP] == 128
    assert report.notes["parameters"] == [parameters(start), parameters(cut)]
    assert report.told.endswith("(3 of 4 heads, 192 of 256 neurons)")


@pytest.mark.slow
def test_a_speed_is_reached_before_retraining_and_the_cut_network_lives_on(
    taught: tuple[Trained, Recipe], tmp_path: Path
) -> None:
    start, recipe = taught
    step = Prune(speedup=1.5, epochs=2, lr=1e-3, multiple=8, images=16)
    report = prune(step, start, given(recipe, tmp_path / "step"))
    cut = report.result
    assert isinstance(cut, Trained)
    assert parameters(cut) < parameters(start) / 1.4
    (said,) = report.notes["rounds"]
    assert said["speedup"] >= 1.5
    assert said["left"][MLP].endswith("of 128 neurons")
    assert all(count % 8 == 0 for path, count in counts(cut).items() if path.endswith("mlp"))
    check_files(cut, tmp_path)
    less = replace(step, speedup=None, keep=0.8, epochs=0)
    again = prune(less, load_checkpoint(tmp_path), given(recipe, tmp_path / "again", None)).result
    assert isinstance(again, Trained)
    assert parameters(again) < parameters(cut)
    check_files(again, tmp_path / "twice")


@pytest.mark.slow
def test_by_measured_milliseconds_what_costs_most_goes_first(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    start, recipe = taught

    def time(files: Sequence[Built]) -> list[float]:
        """Neurons cost nothing here, attention all."""
        heads = [sum("attn/Softmax" in str(node.name) for node in _nodes(built)) for built in files]
        return [10.0 + 10 * count + built.bytes / 1e9 for count, built in zip(heads, files, strict=True)]

    step = Prune(speedup=1.3, rank="latency", epochs=0, multiple=32, images=16, class_only=False)
    report = prune(step, start, given(recipe, tmp_path, time))
    assert isinstance(report.result, Trained)
    table = report.notes["rounds"][0]["milliseconds"]
    assert {name: sorted(map(int, row)) for name, row in table.items()} == {
        "heads 2x17": [0, 1, 2],
        "neurons 128x17": [0, 32, 64, 96, 128],
    }
    left = counts(report.result)
    assert sum(path.endswith("attn") for path in left) == 1
    assert [left[path] for path in left if path.endswith("mlp")] == [128, 128]


def _nodes(built: Built) -> Any:
    import onnx

    return onnx.load(built.path).graph.node


@pytest.mark.slow
def test_a_killed_step_takes_over_the_cut_that_it_had_timed(
    taught: tuple[Trained, Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, recipe = taught
    asked: list[int] = []

    def time(files: Sequence[Built]) -> list[float]:
        asked.append(len(files))
        return by_bytes(files)

    context, step = given(recipe, tmp_path, time), Prune(speedup=1.3, epochs=1, images=16)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prune_structured, "retrained", die)
        with pytest.raises(KeyboardInterrupt):
            prune(step, start, context)
    timed = len(asked)
    assert timed > 0
    first, _ = cut_down(step, start, start, context)
    assert len(asked) == timed
    second, _ = cut_down(step, start, start, context)
    assert all(torch.equal(x, second.model.state_dict()[key]) for key, x in first.model.state_dict().items())
    cut_down(replace(step, multiple=8), start, start, context)
    assert len(asked) > timed


def test_rounds_share_the_way(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    start, recipe = taught
    step = Prune(keep=0.5, epochs=2, rounds=2, multiple=8, images=16, lr=1e-3, class_only=False)
    report = prune(step, start, given(recipe, tmp_path, None))
    first, second = report.notes["rounds"]
    assert first["left"] != second["left"]
    assert len(list(tmp_path.glob("retrain-*"))) == 2
    once = prune(replace(step, rounds=1, epochs=0), start, given(recipe, tmp_path / "once", None)).result
    assert isinstance(once, Trained)
    assert isinstance(report.result, Trained)
    assert parameters(report.result) == pytest.approx(parameters(once), rel=0.15)


def test_blocks_go_whose_absence_costs_least(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    start, recipe = copy_of(taught[0]), taught[1]
    for path in ("backbone.blocks.0.attn", "backbone.blocks.0.mlp"):
        deafen(start, path, range(counts(start)[path]))
    batches = Batches(start, given(recipe, tmp_path), 16)
    assert drop_blocks(start, 1, batches) == ["backbone.blocks.0"]
    with pytest.raises(UsageError, match="cannot be taken out"):
        drop_blocks(start, 1, batches)
    report = prune(Prune(blocks=1, keep=0.9, epochs=0, images=16), taught[0], given(recipe, tmp_path / "p", None))
    assert len(report.notes["rounds"][0]["blocks"]) == 1
    assert isinstance(report.result, Trained)
    check_files(report.result, tmp_path)


def test_the_width_is_cut_by_importance(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    start, recipe = taught
    report = prune(Prune(width=24, keep=0.9, epochs=1, images=16), start, given(recipe, tmp_path / "p", None))
    cut = report.result
    assert isinstance(cut, Trained)
    assert cut.model.backbone.embed_dim == 24
    check_files(cut, tmp_path)
    batches = Batches(start, given(recipe, tmp_path / "w"), 16)
    with pytest.raises(UsageError, match="above the 32 channels"):
        narrow_width(copy_of(start), 64, batches)
    network, other = restoring(tmp_path / "r")
    with pytest.raises(UsageError, match="no plain ViT"):
        narrow_width(network, 4, Batches(network, given(other, tmp_path / "rc"), 2))


def test_the_last_block_computes_the_class_token_alone_where_nothing_else_is_read(
    taught: tuple[Trained, Recipe], tmp_path: Path
) -> None:
    start, recipe = copy_of(taught[0]), taught[1]
    batches, before = Batches(start, given(recipe, tmp_path), 8), answer(start)
    assert keep_class_only(start, batches)
    assert isinstance(start.model.backbone.blocks[1], ClassBlock)
    torch.testing.assert_close(answer(start), before, atol=1e-5, rtol=1e-5)
    pooled = load_recipe(recipe, {"model.options": {**recipe.model.options, "pool": "gap"}})
    other = new_model(pooled, taught[0].levels)
    assert not keep_class_only(other, batches)
    network, restore = restoring(tmp_path / "r")
    assert not keep_class_only(network, Batches(network, given(restore, tmp_path / "rc"), 2))


@pytest.mark.slow
def test_channels_of_a_restorer_go(tmp_path: Path) -> None:
    start, recipe = restoring(tmp_path)
    start = replace(start, preprocess=replace(start.preprocess, multiple=0))  # of one size: exported in less time
    step = Prune(speedup=1.3, units=("channels",), epochs=1, multiple=4, images=4, lr=1e-4)
    report = prune(step, start, given(recipe, tmp_path / "c"))
    cut = report.result
    assert isinstance(cut, Trained)
    assert cut.model.bottleneck[0].conv1.out_channels < 32
    assert cut.model.bottleneck[1].fc1.out_features == start.model.bottleneck[1].fc1.out_features
    check_files(cut, tmp_path / "files")


def test_what_cannot_be_is_said(taught: tuple[Trained, Recipe], tmp_path: Path) -> None:
    start, recipe = taught
    for settings, words in (
        ({"speedup": 1.5, "keep": 0.5}, "both given"),
        ({"speedup": 1.0}, "speedup must be above 1"),
        ({"keep": 1.0}, "keep must be"),
        ({"units": ["neuron"]}, "'neuron' is unknown"),
        ({"rank": "size"}, "rank must be one of taylor, latency"),
        ({"rounds": 0}, "rounds must be"),
        ({"lr": 0}, "lr must be"),
    ):
        with pytest.raises(UsageError, match=words):
            plan_slots([{"prune": settings}], "onnxruntime")
    assert plan_slots(["prune"], "openvino")[0][0].config.goal == 1.5
    with pytest.raises(UsageError, match="nothing to time with"):
        prune(Prune(epochs=0, images=8), start, given(recipe, tmp_path, None))
    with pytest.raises(UsageError, match="given no data"):
        prune(Prune(), start, Context((), tmp_path))
    other = trained("timm:mobilenetv3_small_050", {}, (64, 64))
    with pytest.raises(UsageError, match="none of heads, neurons, channels"):
        prune(Prune(), other, given(recipe, tmp_path))


@pytest.mark.slow
def test_compress_prunes_behind_the_gate_and_fit_trains_on_what_is_left(
    taught: tuple[Trained, Recipe], tmp_path: Path
) -> None:
    start, recipe = taught
    save_checkpoint(tmp_path / "start", start)
    step = {"prune": {"keep": 0.4, "epochs": 3, "lr": 1e-3, "images": 16, "multiple": 8}}
    fields = {
        "compress": {"steps": [step], "min_shrink": 1.05, "calibration_images": 4},
        "search": {
            "timing_seconds": 0.1,
            "prefer": "size",
            "quiet_seconds": 0,
            "runtimes": ["onnxruntime", "openvino"],
        },
        "floor": {"max_drop": 40},
    }
    own = load_recipe(recipe, fields)
    report = pocketvit.compress(own, checkpoint=str(tmp_path / "start"), name="c", runs=str(tmp_path), quiet=True)
    rows = {(row.runtime, row.step or "float"): row for row in report.rows}
    for runtime in ("onnxruntime", "openvino"):
        row = rows[runtime, "prune"]
        assert row.kept, row.reason
        assert "parameters became" in row.reason
        assert row.bytes < rows[runtime, "float"].bytes / 1.1
    # Both engines began with the same cut, which was retrained once.
    assert len(list((tmp_path / "c" / "files").glob("*/retrain-*"))) == 1
    assert pocketvit.verify(str(report.artifact)).passed
    narrowed = rows["onnxruntime", "prune"].model
    one = {**fields["search"], "runtimes": ["onnxruntime"]}
    again = {"model.weights": narrowed, "train.epochs": 1, "compress.steps": [], "search": one}
    tuned = pocketvit.fit(
        load_recipe(recipe, {**again, "floor": fields["floor"]}), name="f", runs=str(tmp_path), quiet=True
    )
    assert pocketvit.verify(str(tuned.artifact)).passed
    trained_on = load_checkpoint(tmp_path / "f")
    assert counts(trained_on) == counts(load_checkpoint(narrowed))
